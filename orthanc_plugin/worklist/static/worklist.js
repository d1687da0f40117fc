// Keeps the worklist current and lets it be used by keys. Without it the page works by links and forms.
(() => {
  const main = document.getElementById('worklist'), body = document.body;
  const rows = () => [...main.querySelectorAll('tbody.study')];
  const here = () => document.activeElement?.closest?.('tbody.study') ?? null;
  const announce = words => { document.getElementById('announce').textContent = words; };
  const visitor = () => main.querySelector('.inforce')?.dataset.visitor;
  let tag = '', known = null, sounding = null, capped = false, mine = visitor();
  for (const hidden of document.querySelectorAll('.script')) hidden.hidden = false;

  // --- refresh: htmx asks (see ``main``) and idiomorph merges, so that focus, open parts, selection and typed text stay
  const callbacks = {
    beforeNodeMorphed: (old, fresh) => old.tagName !== 'TBODY' || !old.isEqualNode(fresh), // as most rows are
    beforeAttributeUpdated: (name, part) => name !== 'open' && !(/^(value|checked)$/.test(name) && part.matches('input:not([type=hidden])')),
  };
  htmx.defineExtension('merge', { handleSwap: (_, target, { children }) => !!Idiomorph.morph(target, children, { morphStyle: 'innerHTML', callbacks }) });
  main.addEventListener('htmx:configRequest', event => {
    point();
    if (document.hidden && body.dataset.notices !== 'on' && body.dataset.sound !== 'on') return event.preventDefault();
    const back = main.querySelector('.do input[name=back], .inforce input[name=back]')?.value ?? location.search;
    const { detail } = event, asked = detail.parameters = Object.fromEntries(new URLSearchParams(back));
    if (tag) detail.headers['If-None-Match'] = tag;
    if (asked.text) { // what may name a patient stands in no address
      Object.assign(detail, { verb: 'post', useUrlParams: false });
      detail.headers['Content-Type'] = 'application/x-www-form-urlencoded';
    }
  });
  for (const lost of ['htmx:sendError', 'htmx:timeout']) main.addEventListener(lost, () => body.classList.add('offline'));
  const called = control => !control.disabled && (control.dataset.finding ?? control.value ?? '');
  main.addEventListener('htmx:beforeSwap', ({ detail }) => {
    const { xhr } = detail, problems = xhr.status === 503 && xhr.responseText.includes('class="problems"') && main.querySelector('.problems');
    // without its ledger the node says so, and nothing about the rows: they stay
    if (problems) Object.assign(detail, { shouldSwap: true, target: problems, swapOverride: 'outerHTML' });
    logged_in(xhr.status !== 401);
    body.classList.toggle('offline', !detail.shouldSwap && xhr.status !== 304 && xhr.status !== 401);
    if (!detail.shouldSwap) return;
    const focused = document.activeElement, row = here(), name = called(focused), at = rows().indexOf(row);
    const anchor = row ?? rows().find(r => r.getBoundingClientRect().bottom > 0), top = anchor?.getBoundingClientRect().top;
    main.addEventListener('htmx:afterSwap', () => {
      const now = visitor();
      if (now !== undefined && now !== (mine ??= now)) location.reload(); // somebody else has logged in beside this page
      main.classList.toggle('stale', !!problems);
      tag = xhr.getResponseHeader('ETag') ?? '';
      meet();
      if (row && !row.isConnected) arrive(rows()[Math.min(rows().length - 1, at)], focused.matches('input:not([type=checkbox])'));
      else if (row && (document.activeElement !== focused || called(focused) !== name)) { // gone, or another control by now
        const twin = [...row.querySelectorAll('a, button:enabled')].find(part => name && called(part) === name);
        (twin ?? row.querySelector('a.open')).focus({ preventScroll: true });
      }
      if (anchor?.isConnected && scrollY > 0) scrollBy({ top: anchor.getBoundingClientRect().top - top, behavior: 'instant' });
      point();
      tell();
    }, { once: true });
  });

  // --- the session: when it has ended, that nothing is told any more is seen and heard; who uses the list stays logged in
  const over = document.getElementById('over'), title = document.title;
  const logged_in = is => {
    if (is !== over.hidden) {
      over.hidden = is;
      for (const part of main.children) part.inert = !is;
      body.classList.toggle('over', !is);
      document.title = is ? title : 'Logged out - Hilum';
      if (!is) {
        for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
        over.querySelector('a').href = `/hilum/${location.search}`;
        signal('You are logged out: nothing is announced any more.');
      }
    }
  };
  let used = 0;
  const use = () => { // the refresh of the page itself is no use (``hosting.guard``)
    if (performance.now() - used < 20000 && used) return;
    used = performance.now();
    fetch('/hilum/api/visitor', { cache: 'no-store' }).then(answer => { if (answer.status === 401) logged_in(false); }).catch(() => {});
  };
  for (const gesture of ['keydown', 'pointerdown']) document.addEventListener(gesture, () => { use(); awake(); }, true);

  // --- new critical studies: told once each, to screen readers, and by sound and notification where wanted
  const able = () => { // what was asked for and the browser does not do: a page may sound only after a click or a key
    const sound = body.dataset.sound === 'on' && sounding && sounding.state !== 'running' ? 'needs one click or key' : '';
    const may = 'Notification' in window ? Notification.permission : 'denied';
    const notices = body.dataset.notices === 'on' && may !== 'granted' ? may === 'denied' ? 'blocked by the browser' : 'not allowed yet' : '';
    const told = { sound, notices };
    for (const button of document.querySelectorAll('.look [data-able]')) button.lastElementChild.textContent = told[button.name] && `: ${told[button.name]}`;
    document.getElementById('silent').textContent = [sound && `Sound ${sound}`, notices && `Notifications ${notices}`].filter(Boolean).join('. ');
  };
  const awake = (gesture = true) => {
    if (body.dataset.sound !== 'on') return;
    if (!sounding) { sounding = new AudioContext(); sounding.addEventListener('statechange', able); }
    if (gesture && sounding.state !== 'running') sounding.resume().then(able, able);
  };
  const signal = words => {
    if (body.dataset.sound === 'on') tone();
    if (body.dataset.notices === 'on' && 'Notification' in window && Notification.permission === 'granted') {
      const notice = new Notification('Hilum', { body: words, tag: 'critical', renotify: true });
      notice.onclick = () => { window.focus(); notice.close(); };
    }
  };
  const tone = () => {
    awake();
    [0, .22].forEach(start => {
      const note = sounding.createOscillator(), gain = sounding.createGain(), at = sounding.currentTime + start;
      note.frequency.value = 880; gain.gain.setValueAtTime(.15, at); gain.gain.exponentialRampToValueAtTime(.001, at + .2);
      note.connect(gain).connect(sounding.destination); note.start(at); note.stop(at + .2);
    });
  };
  const tell = () => {
    const told = main.querySelector('.inforce');
    if (!told) return;
    const critical = told.dataset.critical.split(' ').filter(Boolean);
    // of many only the latest are told, the latest first: what comes in after all that were known has only moved up
    const last = known && capped ? critical.findLastIndex(uid => known.has(uid)) : -1;
    const fresh = known ? critical.filter((uid, at) => !known.has(uid) && (last < 0 || at < last)) : [];
    capped = told.dataset.more === 'yes';
    known = new Set([...(known ?? []), ...critical]);
    if (!fresh.length) return;
    const why = fresh.map(uid => document.getElementById(`study-${uid}`)?.querySelector('.why')?.textContent).filter(Boolean);
    announce(`${fresh.length === 1 ? 'A new critical study' : `${fresh.length} new critical studies`}${why.length ? `: ${why.join('; ')}` : ''}`);
    signal(fresh.length === 1 ? 'A new critical study' : `${fresh.length} new critical studies`);
  };

  // --- what is done without leaving the page
  const say = (words, refused) => {
    const line = document.createElement('p');
    line.className = `banner${refused ? ' stops' : ''}`;
    line.textContent = words;
    document.getElementById('said').replaceChildren(line);
    clearTimeout(say.timer);
    say.timer = setTimeout(() => line.remove(), refused ? 15000 : 6000);
  };
  const met = new Map(); // who the studies are of that this page has shown
  const meet = () => { for (const row of rows()) met.set(row.id.slice(6), `${row.querySelector('.name').textContent}, ${row.querySelector('.c-study .line').textContent.trim()}`); };
  const who = uids => uids.length === 1 ? ` It was ${met.get(uids[0]) ?? 'a study that this page has not shown: search finds it'}.` : '';
  const send = async (address, fields, done) => { // done: what is to come before the rows change
    const slow = setTimeout(() => say('The node has not answered yet \u2026'), 1500);
    try {
      const answer = await fetch(address, { method: 'POST', body: new URLSearchParams(fields), headers: { Accept: 'application/json' } });
      if (answer.status === 401) { logged_in(false); return void say('You are logged out: nothing was changed.', true); }
      if (answer.status === 503) return void say('The ledger does not answer: nothing was changed. Try again.', true);
      const told = answer.headers.get('Content-Type')?.startsWith('application/json') ? await answer.json() : { said: await answer.text(), refused: !answer.ok };
      if (told.said) say(told.said + (new URLSearchParams(fields).get('do') === 'undo' ? who(told.study_instance_uids ?? []) : ''), told.refused);
      if (!told.refused) done?.();
      htmx.trigger(main, 'htmx:abort'); htmx.trigger(main, 'refresh'); // an answer from before the mark is no use
      return !told.refused;
    } catch { say('The node does not answer: nothing was changed.', true); } finally { clearTimeout(slow); }
  };
  const act = (row, what, more = {}) => send('/hilum/mark', { study: row.id.slice(6), do: what, ...more,
    ...(/^(read|agree|disagree)/.test(what) ? { seen: row.querySelector('[name=seen]').value } : {}) }, what === 'read' ? leaving(row) : null);
  // what was read goes down or out of the list: on to the next
  const leaving = (row, next = row.nextElementSibling ?? row.previousElementSibling) => () => { if (here() === row) arrive(next); };
  document.addEventListener('submit', event => {
    const form = event.target, button = event.submitter, address = form.getAttribute('action');
    if (form.classList.contains('look')) {
      event.preventDefault();
      const value = button.value;
      if (button.name === 'theme') {
        document.documentElement.dataset.theme = value;
        for (const one of form.querySelectorAll('[name=theme]')) one.setAttribute('aria-pressed', String(one === button));
      }
      else if (button.name === 'size') { document.documentElement.dataset.size = value; button.value = value ? '' : 'big'; button.textContent = value ? 'Normal type' : 'Big type'; }
      else {
        body.dataset[button.name] = value; button.setAttribute('aria-pressed', String(!!value !== (button.name === 'keys')));
        button.value = value ? '' : { window: 'second', keys: 'off' }[button.name] ?? 'on';
        if (value && button.name === 'sound') tone();
        if (value && button.name === 'notices') Promise.resolve(window.Notification?.requestPermission()).then(able);
        able();
      }
      fetch('/hilum/look', { method: 'POST', body: new URLSearchParams({ [button.name]: value }), headers: { Accept: '*/*' }, keepalive: true });
      measure();
    } else if (address === '/hilum/mark') {
      event.preventDefault();
      const fields = [...new FormData(form, button)];
      const row = form.closest('tbody.study'), leave = button.value === 'read' && row ? leaving(row) : null;
      send(address, fields, () => {
        leave?.();
        if (form.id === 'bulk') for (const box of main.querySelectorAll('input[name=study]:checked')) box.checked = false;
        for (const field of form.elements) if (field.name === 'comment') field.value = field.defaultValue = '';
      });
    }
  });

  // --- keys
  const MARKING = 'cradADnxu';
  // Keys that are not taken for a while, and longer with each that comes: what is typed as words must mark nothing. After the
  // focus has moved by itself that is every mark; where somebody expects a field to write in, every key.
  let quiet = { until: 0 };
  const hush = (span, all = false, why = 'That key came too soon: nothing was marked.') => { quiet = { until: performance.now() + span, span, all, why }; };
  const arrive = (row, written = false) => { // at a row that nobody chose
    hush(written ? 1000 : 600, written);
    if (!row) return;
    row.querySelector('a.open')?.focus({ preventScroll: true });
    row.scrollIntoView({ block: 'nearest', behavior: 'instant' });
    follow();
  };
  const in_sight = row => {
    const { top, bottom } = row.rows[0].getBoundingClientRect(), middle = (top + bottom) / 2;
    const head = main.querySelector('thead th')?.getBoundingClientRect().bottom ?? 0;
    return middle > head && middle < innerHeight;
  };
  const open = (row, second) => {
    const link = row.querySelector('a.open');
    if (!second && body.dataset.window !== 'second') return link.click();
    show(row);
  };
  let viewer = null, shown = '', resting = 0, leading = '';
  const show = row => {
    const { href } = row.querySelector('a.open');
    if (viewer && !viewer.closed) viewer.location = href; else viewer = window.open(href, 'hilum-viewer');
    shown = viewer ? row.id : '';
    sessionStorage.setItem('viewer', shown);
    point();
  };
  const point = () => { // which row the second window shows, as long as there is one
    if (viewer?.closed) { viewer = null; shown = ''; sessionStorage.removeItem('viewer'); }
    for (const row of rows()) {
      row.querySelector('.inviewer').hidden = row.id !== shown;
      row.classList.toggle('shown', row.id === shown);
    }
  };
  const follow = () => { // it shows the row that has the focus, however the focus came there
    clearTimeout(resting);
    if (!(viewer ? !viewer.closed : body.dataset.window === 'second' && sessionStorage.getItem('viewer'))) return;
    resting = setTimeout(() => { const row = here(); if (row && row.id !== shown) show(row); }, 700);
  };
  main.addEventListener('focusin', follow);
  const move = (row, step) => {
    const all = rows(), next = all[Math.min(all.length - 1, Math.max(0, row ? all.indexOf(row) + step : 0))];
    if (!next) return;
    const link = next.querySelector('a.open');
    link.focus({ preventScroll: true });
    next.scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'instant' : 'auto' });
    follow();
  };
  const finding = row => {
    const own = document.activeElement.closest('[data-finding]') ?? row.querySelector('[data-finding]');
    return own?.dataset.finding;
  };
  const write = (head, about) => new Promise(resolve => {
    const dialog = document.getElementById('write'), field = dialog.querySelector('textarea'), from = document.activeElement, row = here();
    dialog.querySelector('#write-head').textContent = head;
    dialog.querySelector('#write-about').textContent = about;
    field.value = ''; dialog.returnValue = '';
    field.onkeydown = ({ key, ctrlKey }) => { if (key === 'Enter' && ctrlKey) dialog.close('keep'); };
    dialog.addEventListener('close', () => { (from.isConnected ? from : row?.querySelector('a.open'))?.focus(); resolve(dialog.returnValue === 'keep' ? field.value : null); }, { once: true });
    dialog.showModal(); field.focus();
  });
  const named = row => row.querySelector('.name').textContent;
  const judge = async (row, word, words, commented) => {
    const key = finding(row);
    if (!key) {
      hush(1000, true); // for words may follow
      return void say(`Nothing was marked: the AI called nothing in this study to ${word} with${commented ? ', so there is no comment to write (n writes a note)' : ''}.`, true);
    }
    const about = row.querySelector(`[data-finding="${key}"]`)?.textContent.trim() ?? key;
    const comment = commented ? await write(words, `${about} - ${named(row)}`) : '';
    if (comment !== null) act(row, `${word}:${key}`, { comment });
  };
  const does = {
    j: row => move(row, 1), k: row => move(row, -1),
    Enter: (row, event) => row && document.activeElement.matches('a.open, a.chip') ? open(row, event.shiftKey) : false,
    c: row => act(row, row.classList.contains('mine') ? 'release' : 'claim'),
    r: row => { hush(600); act(row, row.classList.contains('read') ? 'unread' : 'read'); },
    a: row => judge(row, 'agree', 'Agree', false), A: row => judge(row, 'agree', 'Agree, with a comment', true),
    d: row => judge(row, 'disagree', 'Disagree', false), D: row => judge(row, 'disagree', 'Disagree, with a comment', true),
    n: async row => { const comment = await write('Note', named(row)); if (comment) act(row, 'note', { comment }); },
    x: row => { const box = row.querySelector('input[name=study]'); if (box) box.checked = !box.checked; },
    v: row => { const more = row.querySelector('details.more'); more.open = !more.open; },
    ArrowRight: row => chip(row, 1), ArrowLeft: row => chip(row, -1),
  };
  const chip = (row, step) => {
    const chips = [...row.querySelectorAll('a.chip')], next = chips[chips.indexOf(document.activeElement) + step];
    (next ?? (step < 0 ? row.querySelector('a.open') : null))?.focus();
  };
  const ticked = () => main.querySelectorAll('input[name=study]:checked').length;
  const page = which => { const button = document.getElementById(which); if (button) button.click(); else say(which === 'next' ? 'This is the last page.' : 'This is the first page.'); };
  const alone = { '/': () => document.querySelector('#find [name=text]')?.select() ?? document.querySelector('#find [name=text]')?.focus(),
    b: () => ticked() ? document.querySelector('#bulk button').focus() : say('Tick studies with x first.', true),
    J: () => page('next'), K: () => page('previous'), '?': () => document.getElementById('help').showModal(), u: () => { hush(600); send('/hilum/mark', { do: 'undo' }); }, g: () => { leading = 'g'; setTimeout(() => { leading = ''; }, 1500); } };
  const refuse = (event, why) => {
    event.preventDefault();
    if ('nAD'.includes(event.key)) hush(1000, true); else hush(600, false, why);
    say(why, true);
  };
  document.addEventListener('keydown', event => {
    const field = event.target.closest('input:not([type=checkbox]), textarea, select');
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || document.querySelector('dialog[open]')) return;
    if (field) { if (event.key === 'Escape') field.blur(); return; }
    const letter = event.key.length === 1 && event.key !== ' ', marks = letter && MARKING.includes(event.key);
    if (letter && body.dataset.keys === 'off') return; // WCAG 2.1.4
    if (letter && !over.hidden) return refuse(event, 'You are logged out: nothing was done.');
    if (event.repeat && (letter ? !'jk'.includes(event.key) : event.key === 'Enter')) return event.preventDefault();
    if (letter && performance.now() < quiet.until) {
      if (quiet.all || !'jk'.includes(event.key)) hush(quiet.span, quiet.all, quiet.why);
      if (quiet.all || marks) {
        if (marks && !quiet.all) say(quiet.why, true);
        return event.preventDefault();
      }
    }
    if (leading) {
      leading = '';
      const link = document.querySelector(`.choices [data-key="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (alone[event.key]) { event.preventDefault(); return void alone[event.key](); }
    const does_ = does[event.key], row = here();
    if (!does_ || !rows().length || (!row && event.key.length > 1)) return;
    if (marks && !document.getElementById('bulk')) return refuse(event, 'Your role does not allow marks.');
    if (marks && event.key !== 'x' && ticked()) return refuse(event, `${ticked() === 1 ? 'A study is' : `${ticked()} studies are`} ticked: b leads to what is done with them, x unticks. Nothing was done.`);
    if ((marks || event.key === 'v') && !(row && in_sight(row))) return refuse(event, 'Choose a study with j or k first: nothing was done.');
    if (does_(row, event) !== false) event.preventDefault();
  });
  document.addEventListener('click', event => {
    if (event.target.closest('#keys')) document.getElementById('help').showModal();
    const link = event.target.closest('a.open'), row = event.target.closest('tbody.study');
    if (row && !event.target.closest('a, button, input, label, summary, .panel') && !String(getSelection())) row.querySelector('a.open').focus({ preventScroll: true });
    if (link && body.dataset.window === 'second' && !event.ctrlKey && !event.metaKey && event.isTrusted) { event.preventDefault(); open(link.closest('tbody'), true); }
  });
  const measure = () => { const top = document.querySelector('header.top'); document.documentElement.style.setProperty('--top', `${getComputedStyle(top).position === 'sticky' ? top.offsetHeight : 0}px`); };
  addEventListener('resize', measure);
  measure(); meet(); tell(); awake(false);
  // --- back from OHIF or from a study: to the list that was left, and to its row
  addEventListener('pagehide', () => {
    const row = here();
    if (row) sessionStorage.setItem('row', row.id);
    sessionStorage.setItem('list', location.search);
  });
  const returned = performance.getEntriesByType('navigation')[0]?.type === 'back_forward';
  const list = sessionStorage.getItem('list'), to = location.hash.startsWith('#study-') ? location.hash.slice(1) : returned ? sessionStorage.getItem('row') : '';
  sessionStorage.removeItem('list');
  if (location.hash && list && !location.search) location.replace(`/hilum/${list}${location.hash}`);
  else if (to) addEventListener('load', () => setTimeout(() => { // the browser goes to the fragment first, and takes the focus away
    const row = document.getElementById(to);
    row?.querySelector('a.open').focus({ preventScroll: true });
    row?.scrollIntoView({ block: 'center', behavior: 'instant' });
  }));
  setTimeout(able, 500); // a sound that is allowed starts by itself
  document.querySelector('.menu').addEventListener('toggle', able);
})();
