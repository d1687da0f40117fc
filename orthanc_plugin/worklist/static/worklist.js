// Replaces the rows every two seconds when they have changed. Without it the page still works, by reloading.
(() => {
  const main = document.getElementById('worklist');
  const REACHED = 'a, summary, button';
  let shown = null;
  const replace = text => {
    const open = [...main.querySelectorAll('details[open]')]
      .map(d => [d.closest('tr').id, [...d.closest('tr').querySelectorAll('details')].indexOf(d)]);
    const held = document.activeElement?.closest?.('tr');
    const place = held ? [...held.querySelectorAll(REACHED)].indexOf(document.activeElement) : -1;
    const pictures = new Map([...main.querySelectorAll('.picture img')].map(img => [img.getAttribute('src'), img]));
    main.innerHTML = shown = text;
    // a picture that is drawn already stays, so that nothing flickers
    for (const img of main.querySelectorAll('.picture img')) {
      const drawn = pictures.get(img.getAttribute('src'));
      if (drawn) img.replaceWith(drawn);
    }
    for (const [row, n] of open) document.getElementById(row)?.querySelectorAll('details')[n]?.setAttribute('open', '');
    if (place >= 0) document.getElementById(held.id)?.querySelectorAll(REACHED)[place]?.focus({ preventScroll: true });
  };
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(main.dataset.refresh, { credentials: 'same-origin' });
      // the session is over: what is on the screen goes, and the log-in page leads back here
      if (answer.status === 401) return void location.reload();
      const text = await answer.text();
      // without its ledger the node says so, and nothing about the rows: they stay
      const problems = answer.status === 503 && main.querySelector('.problems');
      if (!answer.ok && !(problems && text.includes('class="problems"'))) throw new Error(answer.status);
      document.body.classList.remove('offline');
      main.classList.toggle('stale', !!problems);
      if (problems) { problems.outerHTML = text; shown = null; return; }
      if (text !== shown) replace(text);
    } catch { document.body.classList.add('offline'); }
  };
  setInterval(refresh, 2000);
  document.addEventListener('visibilitychange', refresh);
})();
