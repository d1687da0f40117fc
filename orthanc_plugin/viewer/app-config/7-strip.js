// The strip: priority and results in words, the note, the way back.

const element = (tag, properties = {}, ...content) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
};
const inWords = ({ name, percent, side, reason }) =>
  [name, percent === null ? '' : `${percent} %`, side, reason && `(${reason})`].filter(Boolean).join(' ');

/** The result in one line: what is present, and how many findings are in each other state. */
function oneLine(result) {
  if (result.failed) return 'analysis failed';
  const of = state => result.findings.filter(f => f.state === state);
  const present = of('present').filter(f => !f.ofAbsence).sort((a, b) => b.percent - a.percent).map(inWords);
  const others = ['undetermined', 'absent', 'not evaluated', 'failed']
    .filter(state => of(state).length).map(state => `${of(state).length} ${state}`);
  return [present.length ? present.join(', ') : 'no finding present', ...others].join(' \u00b7 ');
}


/**
 * A strip of its own below the viewer, so that it hides nothing; the list of results opens in the strip and the viewer
 * becomes smaller by as much.
 */
const BAR_PIXELS = 24;
const MOST_PIXELS = 180; // of the list, which scrolls beyond
function createStrip() {
  let overlay = null;
  let shown = '';
  const style = element('style', { textContent: `
    body { --hilum-strip: ${BAR_PIXELS}px; overflow: hidden; }
    #root { position: relative; height: calc(100vh - var(--hilum-strip)); overflow: auto; }
    #root .h-screen { height: calc(100vh - var(--hilum-strip)) !important; }
    #root [style*="100vh"][style*="52px"] { height: calc(100vh - 52px - var(--hilum-strip)) !important; }
    #hilum-note { position: fixed; inset: auto 0 0 0; height: var(--hilum-strip); z-index: 40; background: #10141c;
      color: #d9dee8; border-top: 1px solid #2a3242; font: 12px/1.5 Inter, system-ui, sans-serif; overflow: hidden;
      display: flex; flex-direction: column-reverse; }
    #hilum-bar { flex: none; height: 23px; display: flex; gap: 1.5em; align-items: center; padding: 0 12px;
      white-space: nowrap; overflow: hidden; }
    #hilum-bar a { color: #8fc7ff; text-decoration: none; }
    #hilum-bar a:hover, #hilum-bar a:focus-visible { text-decoration: underline; }
    #hilum-bar b { font-weight: 600; color: #ffc400; }
    #hilum-bar > * { flex: none; }
    #hilum-note button { all: unset; cursor: pointer; color: #eef2f8; }
    #hilum-note #hilum-toggle { flex: 0 1 auto; overflow: hidden; text-overflow: ellipsis; padding: 1px 4px; }
    #hilum-toggle::before { content: '\\25b4\\a0'; }
    #hilum-toggle[aria-expanded="true"]::before { content: '\\25be\\a0'; }
    #hilum-note button:hover { text-decoration: underline; }
    #hilum-note button:focus-visible { outline: 2px solid #8fc7ff; outline-offset: -1px; border-radius: 3px; }
    #hilum-note #hilum-superseded { color: #ff9d7a; text-decoration: underline; }
    #hilum-problem { color: #ff9d7a; }
    #hilum-results { flex: 1; overflow: auto; padding: 8px 12px; display: grid; gap: 4px 24px; align-content: start;
      grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); border-bottom: 1px solid #2a3242; }
    #hilum-results:focus-visible { outline: 2px solid #8fc7ff; outline-offset: -2px; }
    #hilum-results h2 { margin: 0; font-weight: 600; color: #93a1b8; }
    #hilum-results ul { list-style: none; margin: 0; padding: 0; }
    #hilum-results .present li { color: #ffc400; font-weight: 600; }
    #hilum-note [hidden] { display: none; }` });
  const link = element('a', { href: '/hilum/', textContent: '\u2190 Worklist' });
  const about = element('a', { id: 'hilum-about', textContent: 'About this study', hidden: true });
  const note = element('b', { textContent: NOTE });
  const priority = element('span', { id: 'hilum-priority', hidden: true });
  const superseded = element('button', { id: 'hilum-superseded', type: 'button', hidden: true,
    textContent: 'Superseded result \u2013 show the newest' });
  const button = element('button', { id: 'hilum-toggle', type: 'button', hidden: true });
  const none = element('span', { id: 'hilum-none', textContent: 'No AI result for this image', hidden: true });
  const problem = element('span', { id: 'hilum-problem', hidden: true,
    textContent: 'Some AI results could not be drawn; they are listed with the series.' });
  problem.setAttribute('role', 'status');
  const panel = element('div', { id: 'hilum-results', hidden: true, tabIndex: 0 });
  panel.setAttribute('role', 'region');
  panel.setAttribute('aria-label', 'AI results of the image');
  button.setAttribute('aria-controls', panel.id);
  const bar = element('div', { id: 'hilum-bar' }, link, about, note, superseded, priority, button, none, problem);
  const strip = element('aside', { id: 'hilum-note' }, bar, panel);

  function open(isOpen) {
    panel.hidden = !isOpen;
    button.setAttribute('aria-expanded', String(isOpen));
    document.body.style.removeProperty('--hilum-strip');
    if (!isOpen) return;
    document.body.style.setProperty('--hilum-strip', `${BAR_PIXELS + Math.min(panel.scrollHeight + 1, MOST_PIXELS)}px`);
  }

  const section = (title, lines, kind = '') => (lines.length
    ? [element('section', { className: kind }, element('h2', { textContent: title }),
      element('ul', {}, ...lines.map(line => element('li', { textContent: line }))))] : []);

  function sections({ result, label }) {
    const of = state => result.findings.filter(f => f.state === state).map(inWords);
    return [
      ...section('Present', of('present'), 'present'), ...section('Undetermined', of('undetermined')),
      ...section('Absent', of('absent')), ...section('Not evaluated', of('not evaluated')),
      ...section('Failed', of('failed')), ...section('Measurements', result.measurements),
      ...section('Priority', [result.priority].filter(Boolean)), ...section('To be read with care', result.cautions),
      ...section('Made by', [label, ...result.runs, result.summary].filter(Boolean)),
    ];
  }

  /** The links lead back to the study that is open: its row of the worklist, and its own page. */
  function lead() {
    const study = new URLSearchParams(window.location.search).get('StudyInstanceUIDs')?.split(',')[0] ?? '';
    about.hidden = !/^[0-9.]{1,64}$/.test(study);
    link.href = about.hidden ? '/hilum/' : `/hilum/#study-${study}`;
    if (!about.hidden) about.href = `/hilum/studies/${study}`;
  }

  function update() {
    lead();
    const words = overlay?.inWords() ?? null;
    const result = words?.result ?? null;
    const text = result ? `AI${words.image ? ` (${words.image})` : ''}: ${oneLine(result)}` : '';
    superseded.hidden = !overlay?.showsSuperseded();
    const state = JSON.stringify([Boolean(words), words?.label, result, text]);
    if (state === shown) return; // a person may be reading or tabbing through it
    shown = state;
    const [, level, colour] = PRIORITIES[result?.level] ?? UNKNOWN;
    Object.assign(priority, { hidden: !level, textContent: level, title: 'Priority that the AI gave to this image' });
    priority.style.color = colour;
    button.hidden = !result;
    none.hidden = !words || Boolean(result);
    button.textContent = text;
    button.title = text;
    panel.replaceChildren(...(result ? sections(words) : []));
    if (!result) open(false);
  }

  button.addEventListener('click', () => open(panel.hidden));
  superseded.addEventListener('click', () => overlay.showCurrent());
  strip.addEventListener('keydown', event => {
    event.stopPropagation(); // the viewer's shortcuts are not meant here
    if (event.key !== 'Escape' || panel.hidden) return;
    open(false);
    button.focus();
  });
  button.setAttribute('aria-expanded', 'false');
  const add = () => { document.head.append(style); document.body.append(strip); lead(); };
  return { add, update, follow: followed => { overlay = followed; }, complain: () => { problem.hidden = false; },
    reset: () => { problem.hidden = true; open(false); update(); } };
}

const strip = createStrip();
if (document.body) strip.add();
else document.addEventListener('DOMContentLoaded', strip.add, { once: true });
