// Replaces the rows every two seconds when they have changed. Without it the page still works, by reloading.
(() => {
  const main = document.getElementById('worklist');
  let shown = null;
  const replace = text => {
    const open = [...main.querySelectorAll('details[open]')].map(d => d.closest('tr').id);
    const { id, tag } = { id: document.activeElement?.closest?.('tr')?.id, tag: document.activeElement?.tagName };
    main.innerHTML = shown = text;
    for (const row of open) document.getElementById(row)?.querySelector('details')?.setAttribute('open', '');
    if (id) document.getElementById(id)?.querySelector(tag)?.focus({ preventScroll: true });
  };
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(main.dataset.refresh, { credentials: 'same-origin' });
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text();
      document.body.classList.remove('offline');
      if (text !== shown) replace(text);
    } catch { document.body.classList.add('offline'); }
  };
  setInterval(refresh, 2000);
  document.addEventListener('visibilitychange', refresh);
})();
