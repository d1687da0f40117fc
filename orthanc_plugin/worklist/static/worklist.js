// Keeps the worklist current and lets it be used by keys. Without it the page works by links and forms.
(() => {
  const main = document.getElementById('worklist'), body = document.body;
  const rows = () => [...main.querySelectorAll('tbody.study')];
  const here = () => document.activeElement?.closest?.('tbody.study') ?? null;
  const announce = words => { document.getElementById('announce').textContent = words; };
  const query = () => main.querySelector('.do input[name=back], .inforce input[name=back]')?.value ?? back;
  let back = location.search.slice(1), tag = '', drawn = new Map(), around = '', known = null, sounding = null, turn = 0, asking = false;
  const keep = () => { drawn = new Map(rows().map(row => [row.id, row.outerHTML])); };
  for (const hidden of document.querySelectorAll('.script')) hidden.hidden = false;
  back = query();

  // --- refresh: only rows that differ are replaced, so that focus, open parts, selection and typed text stay
  const carry = (old, fresh) => {
    if (old.querySelector('details.more')?.open) fresh.querySelector('details.more')?.setAttribute('open', '');
    for (const field of old.querySelectorAll('input:not([type=hidden])')) {
      const twin = fresh.querySelector(`input[name="${field.name}"]:not([type=hidden])`);
      if (twin) { twin.checked = field.checked; twin.value = field.value; }
    }
    for (const img of fresh.querySelectorAll('img')) { // a picture that is drawn already stays, so that nothing flickers
      const same = [...old.querySelectorAll('img')].find(i => i.getAttribute('src') === img.getAttribute('src'));
      if (same) img.replaceWith(same);
    }
  };
  const REACHED = 'a, summary, button, input:not([type=hidden])';
  const replace = text => {
    const page = new DOMParser().parseFromString(`<main>${text}</main>`, 'text/html').querySelector('main');
    const focused = document.activeElement, row = here(), place = row ? [...row.querySelectorAll(REACHED)].indexOf(focused) : -1;
    const name = row && place >= 0 ? focused.getAttribute('data-finding') ?? focused.value ?? '' : '';
    const range = focused?.selectionStart, outside = !row && main.contains(focused) ? [focused.name, focused.value] : null;
    const at = row ? rows().indexOf(row) : -1;
    const anchor = row ?? rows().find(r => r.getBoundingClientRect().bottom > 0), top = anchor?.getBoundingClientRect().top;
    const fresh = new Map([...page.querySelectorAll('tbody.study')].map(r => [r.id, r]));
    const html = new Map([...fresh].map(([id, r]) => [id, r.outerHTML]));
    const old = new Map(rows().map(r => [r.id, r])), table = main.querySelector('table.studies');
    const both = table && page.querySelector('table.studies');
    if (both) {
      let before = table.tHead;
      if (table.tHead.outerHTML !== both.tHead.outerHTML) { table.tHead.replaceWith(both.tHead); before = table.tHead; }
      for (const [id, made] of fresh) {
        const had = old.get(id), same = had && drawn.get(id) === html.get(id);
        if (had && !same) { carry(had, made); had.replaceWith(made); }
        const element = same ? had : made;
        if (before.nextElementSibling !== element) before.after(element);
        before = element;
      }
      for (const [id, gone] of old) if (!fresh.has(id)) gone.remove();
    }
    const parts = page => { // what stands around the table, which stays where it is, for what is moved loses the focus
      const all = [...page.children], at = all.findIndex(e => e.tagName === 'TABLE');
      return [all.slice(0, at), all.slice(at + 1)];
    };
    const text_of = ([above, below]) => [...above, ...below].map(e => e.outerHTML).join('');
    if (!both) main.replaceChildren(...page.children);
    else if (text_of(parts(page)) !== around) {
      const typed = main.querySelector('.save input[name=name]')?.value, [above, below] = parts(page);
      around = text_of([above, below]);
      for (const part of parts(main).flat()) part.remove();
      table.before(...above);
      table.after(...below);
      const field = main.querySelector('.save input[name=name]');
      if (typed && field) field.value = typed;
    }
    drawn = html;
    const now = row && (document.getElementById(row.id) ?? rows()[Math.min(rows().length - 1, at)]);
    if (now && !now.contains(document.activeElement) && place >= 0) {
      const all = [...now.querySelectorAll(REACHED)];
      const twin = (name && all.find(e => (e.getAttribute('data-finding') ?? e.value) === name)) || now.querySelector('a.open');
      twin?.focus({ preventScroll: true });
      if (range != null && twin?.setSelectionRange && twin.type !== 'checkbox') twin.setSelectionRange(range, range);
    } else if (outside && !main.contains(document.activeElement)) main.querySelector(`[name="${outside[0]}"]`)?.focus({ preventScroll: true });
    const moved = anchor && document.getElementById(anchor.id);
    if (moved && top !== undefined && scrollY > 0) scrollBy({ top: moved.getBoundingClientRect().top - top, behavior: 'instant' });
    back = query();
    const bulk = document.querySelector('#bulk input[name=back]');
    if (bulk) bulk.value = back;
    tell();
  };
  const refresh = async (now = false) => {
    if (document.hidden && body.dataset.notices !== 'on' && body.dataset.sound !== 'on') return;
    if (asking && !now) return; // the one before is not answered yet
    const mine = ++turn;
    asking = true;
    try {
      const headers = tag && !now ? { 'If-None-Match': tag } : {}, asked = new URLSearchParams(back), signal = AbortSignal.timeout(15000);
      const answer = asked.has('text') // what may name a patient stands in no address
        ? await fetch(main.dataset.refresh, { method: 'POST', body: asked, headers, signal, cache: 'no-store' })
        : await fetch(`${main.dataset.refresh}${back ? `?${back}` : ''}`, { headers, signal, cache: 'no-store' });
      // the session is over: what is on the screen goes, and the log-in page leads back here
      if (answer.status === 401) return void location.reload();
      body.classList.toggle('offline', false);
      if (answer.status === 304) return;
      const text = await answer.text();
      if (mine !== turn) return; // a later one was asked for, after a mark
      // without its ledger the node says so, and nothing about the rows: they stay
      const problems = answer.status === 503 && main.querySelector('.problems');
      if (!answer.ok && !(problems && text.includes('class="problems"'))) throw new Error(answer.status);
      main.classList.toggle('stale', !!problems);
      if (problems) { problems.outerHTML = text; tag = ''; return; }
      tag = answer.headers.get('ETag') ?? '';
      replace(text);
    } catch { if (mine === turn) body.classList.add('offline'); } finally { if (mine === turn) asking = false; }
  };

  // --- new critical studies: told once each, to screen readers, and by sound and notification where wanted
  const tone = () => {
    sounding ??= new AudioContext();
    [0, .22].forEach(start => {
      const note = sounding.createOscillator(), gain = sounding.createGain(), at = sounding.currentTime + start;
      note.frequency.value = 880; gain.gain.setValueAtTime(.15, at); gain.gain.exponentialRampToValueAtTime(.001, at + .2);
      note.connect(gain).connect(sounding.destination); note.start(at); note.stop(at + .2);
    });
  };
  const tell = () => {
    const critical = (main.querySelector('.inforce')?.dataset.critical ?? '').split(' ').filter(Boolean);
    const fresh = known ? critical.filter(uid => !known.has(uid)) : [];
    known = new Set([...(known ?? []), ...critical]);
    if (!fresh.length) return;
    const why = fresh.map(uid => document.getElementById(`study-${uid}`)?.querySelector('.why')?.textContent).filter(Boolean);
    announce(`${fresh.length === 1 ? 'A new critical study' : `${fresh.length} new critical studies`}${why.length ? `: ${why.join('; ')}` : ''}`);
    if (body.dataset.sound === 'on') tone();
    if (body.dataset.notices === 'on' && 'Notification' in window && Notification.permission === 'granted') {
      const notice = new Notification('Hilum', { body: fresh.length === 1 ? 'A new critical study' : `${fresh.length} new critical studies`, tag: 'critical' });
      notice.onclick = () => { window.focus(); notice.close(); };
    }
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
  const send = async (address, fields, done) => { // done: what is to come before the rows change
    try {
      const answer = await fetch(address, { method: 'POST', body: new URLSearchParams(fields), headers: { Accept: 'application/json' } });
      if (answer.status === 401) return void location.reload();
      const told = answer.headers.get('Content-Type')?.startsWith('application/json') ? await answer.json() : { said: await answer.text(), refused: !answer.ok };
      if (told.said) say(told.said, told.refused);
      if (!told.refused) done?.();
      await refresh(true);
      return !told.refused;
    } catch { say('The node does not answer: nothing was changed.', true); }
  };
  const act = (row, what, more = {}) => send('/hilum/mark', { study: row.id.slice(6), do: what, back, ...more,
    ...(what === 'read' ? { seen: row.querySelector('[name=seen]').value } : {}) }, what === 'read' ? leaving(row) : null);
  const leaving = row => { // what was read goes down or out of the list: on to the next, by its name, for rows are made anew
    const next = (row.nextElementSibling ?? row.previousElementSibling)?.id;
    return () => { if (here()?.id === row.id) document.getElementById(next)?.querySelector('a.open')?.focus({ preventScroll: true }); };
  };
  document.addEventListener('submit', event => {
    const form = event.target, button = event.submitter, address = form.getAttribute('action');
    if (form.classList.contains('look')) {
      event.preventDefault();
      const value = button.value;
      if (button.name === 'theme') { document.documentElement.dataset.theme = value; button.value = value === 'light' ? 'dark' : 'light'; button.textContent = value === 'light' ? 'Dark' : 'Light'; }
      else if (button.name === 'size') { document.documentElement.dataset.size = value; button.value = value ? '' : 'big'; button.textContent = value ? 'Normal type' : 'Big type'; }
      else {
        body.dataset[button.name] = value; button.setAttribute('aria-pressed', String(!!value));
        button.value = value ? '' : button.name === 'window' ? 'second' : 'on';
        if (value && button.name === 'sound') tone();
        if (value && button.name === 'notices') window.Notification?.requestPermission();
      }
      fetch('/hilum/look', { method: 'POST', body: new URLSearchParams({ [button.name]: value }), headers: { Accept: '*/*' } });
      measure();
    } else if (address === '/hilum/mark') {
      event.preventDefault();
      const fields = [...new FormData(form, button)];
      if (button.value === 'read' && form.id === 'bulk') fields.push(['seen', '']);
      const row = form.closest('tbody.study'), leave = button.value === 'read' && row ? leaving(row) : null;
      send(address, fields, () => {
        leave?.();
        if (form.id === 'bulk') for (const box of main.querySelectorAll('input[name=study]:checked')) box.checked = false;
        for (const field of form.elements) if (field.name === 'comment') field.value = field.defaultValue = '';
      });
    }
  });

  // --- keys
  const open = (row, second) => {
    const link = row.querySelector('a.open');
    if (!second && body.dataset.window !== 'second') return link.click();
    viewer = window.open(link.href, 'hilum-viewer');
    if (row !== shown) shown = row;
  };
  let viewer = null, shown = null, resting = 0, leading = '';
  const move = (row, step) => {
    const all = rows(), next = all[Math.min(all.length - 1, Math.max(0, row ? all.indexOf(row) + step : 0))];
    if (!next) return;
    const link = next.querySelector('a.open');
    link.focus({ preventScroll: true });
    next.scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'instant' : 'auto' });
    clearTimeout(resting);
    if (body.dataset.window === 'second' && viewer && !viewer.closed) {
      resting = setTimeout(() => { if (here() === next && shown !== next) { viewer.location = link.href; shown = next; } }, 700);
    }
  };
  const finding = row => {
    const own = document.activeElement.closest('[data-finding]') ?? row.querySelector('[data-finding]');
    if (!own) say('The AI called nothing here to agree or disagree with.', true);
    return own?.dataset.finding;
  };
  const write = (head, about) => new Promise(resolve => {
    const dialog = document.getElementById('write'), field = dialog.querySelector('textarea'), from = document.activeElement;
    dialog.querySelector('#write-head').textContent = head;
    dialog.querySelector('#write-about').textContent = about;
    field.value = ''; dialog.returnValue = '';
    dialog.addEventListener('close', () => { (from.isConnected ? from : main.querySelector('a.open'))?.focus(); resolve(dialog.returnValue === 'keep' ? field.value : null); }, { once: true });
    dialog.showModal(); field.focus();
  });
  const named = row => row.querySelector('.name').textContent;
  const judge = async (row, word, words, commented) => {
    const key = finding(row);
    if (!key) return;
    const about = row.querySelector(`[data-finding="${key}"]`)?.textContent.trim() ?? key;
    const comment = commented ? await write(words, `${about} - ${named(row)}`) : '';
    if (comment !== null) act(row, `${word}:${key}`, { comment });
  };
  const does = {
    j: row => move(row, 1), k: row => move(row, -1),
    Enter: (row, event) => row && document.activeElement.matches('a.open, a.chip') ? open(row, event.shiftKey) : false,
    c: row => act(row, row.classList.contains('mine') ? 'release' : 'claim'),
    r: row => act(row, row.classList.contains('read') ? 'unread' : 'read'),
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
  const page = which => { const button = document.getElementById(which); if (button) button.click(); else say(which === 'next' ? 'This is the last page.' : 'This is the first page.'); };
  const alone = { '/': () => document.querySelector('#find [name=text]')?.select() ?? document.querySelector('#find [name=text]')?.focus(),
    J: () => page('next'), K: () => page('previous'), '?': () => document.getElementById('help').showModal(), u: () => send('/hilum/mark', { do: 'undo', back }), g: () => { leading = 'g'; setTimeout(() => { leading = ''; }, 1500); } };
  document.addEventListener('keydown', event => {
    const field = event.target.closest('input:not([type=checkbox]), textarea, select');
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || document.querySelector('dialog[open]')) return;
    if (field) { if (event.key === 'Escape') field.blur(); return; }
    if (leading) {
      leading = '';
      const link = document.querySelector(`.choices [data-key="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (alone[event.key]) { event.preventDefault(); return void alone[event.key](); }
    const does_ = does[event.key];
    if (!does_) return;
    let row = here();
    if (!row && !'jk'.includes(event.key)) { if (event.key.length > 1) return; row = rows()[0]; }
    if (!row && !rows().length) return;
    if ('cradADnx'.includes(event.key) && !document.getElementById('bulk')) return void say('Your role does not allow marks.', true);
    if (does_(row, event) !== false) event.preventDefault();
  });
  document.addEventListener('click', event => {
    if (event.target.closest('#keys')) document.getElementById('help').showModal();
    const link = event.target.closest('a.open');
    if (link && body.dataset.window === 'second' && !event.ctrlKey && !event.metaKey && event.isTrusted) { event.preventDefault(); open(link.closest('tbody'), true); }
  });
  const measure = () => { const top = document.querySelector('header.top'); document.documentElement.style.setProperty('--top', `${getComputedStyle(top).position === 'sticky' ? top.offsetHeight : 0}px`); };
  addEventListener('resize', measure);
  measure(); keep(); tell();
  setInterval(refresh, 2000);
  document.addEventListener('visibilitychange', () => refresh());
})();
