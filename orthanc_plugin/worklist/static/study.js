// Window and zoom of the pictures. Without it they are shown as the networks see them, with their marks.
(() => {
  const MOST = 12;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  for (const hidden of document.querySelectorAll('.script[hidden]')) hidden.hidden = false;
  for (const viewer of document.querySelectorAll('.viewer')) {
    const svg = viewer.querySelector('svg.picture'), find = name => viewer.querySelector(name);
    const parts = [...svg.querySelectorAll('feComponentTransfer > *')];
    const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
    const slope = Number(svg.dataset.slope), intercept = Number(svg.dataset.intercept);
    let zoom = 1, left = 0, top = 0, inverted = false, held = null;
    // as PS3.3 C.11.2.1.2: width and level in percent of the grays that the networks see
    const draw = () => {
      const steep = 100 / Number(find('.w-width').value), level = Number(find('.w-level').value) / 100;
      const [k, d] = [slope * steep, (intercept - level) * steep + 0.5];
      for (const part of parts) {
        part.setAttribute('slope', inverted ? -k : k);
        part.setAttribute('intercept', inverted ? 1 - d : d);
      }
      const [w, h] = [width / zoom, height / zoom];
      left = clamp(left, 0, width - w); top = clamp(top, 0, height - h);
      svg.setAttribute('viewBox', `${left} ${top} ${w} ${h}`);
      svg.classList.toggle('zoomed', zoom > 1);
      find('.z-now').value = `${Math.round(100 * zoom)} %`;
      find('.w-invert').setAttribute('aria-pressed', inverted);
    };
    const place = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const zoomBy = (factor, at) => {
      const before = zoom, { x, y } = at ?? { x: left + width / zoom / 2, y: top + height / zoom / 2 };
      zoom = clamp(zoom * factor, 1, MOST);
      left = x - (x - left) * before / zoom; top = y - (y - top) * before / zoom;
      draw();
    };
    const shift = (x, y) => { left += x * width / zoom; top += y * height / zoom; draw(); };
    for (const name of ['.w-width', '.w-level']) find(name).addEventListener('input', draw);
    find('.w-invert').addEventListener('click', () => { inverted = !inverted; draw(); });
    find('.z-in').addEventListener('click', () => zoomBy(1.5));
    find('.z-out').addEventListener('click', () => zoomBy(1 / 1.5));
    find('.reset').addEventListener('click', () => {
      [zoom, left, top, inverted] = [1, 0, 0, false];
      find('.w-width').value = 100; find('.w-level').value = 50;
      draw();
    });
    svg.addEventListener('wheel', event => {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, place(event));
    }, { passive: false });
    svg.addEventListener('dblclick', event => zoomBy(zoom > 1 ? 1 / MOST : 2.5, place(event)));
    svg.addEventListener('contextmenu', event => event.preventDefault());
    svg.addEventListener('pointerdown', event => {
      if (event.button === 0 && zoom === 1) return;
      held = { x: event.clientX, y: event.clientY, window: event.button === 2 };
      svg.setPointerCapture(event.pointerId);
      svg.classList.add('held');
    });
    svg.addEventListener('pointermove', event => {
      if (!held) return;
      const [x, y] = [event.clientX - held.x, event.clientY - held.y];
      Object.assign(held, { x: event.clientX, y: event.clientY });
      if (held.window) {
        find('.w-width').value = Number(find('.w-width').value) + x / 3;
        find('.w-level').value = Number(find('.w-level').value) + y / 3;
        draw();
      } else {
        const scale = svg.getScreenCTM().a;
        left -= x / scale; top -= y / scale;
        draw();
      }
    });
    const drop = () => { held = null; svg.classList.remove('held'); };
    for (const name of ['pointerup', 'pointercancel']) svg.addEventListener(name, drop);
    svg.addEventListener('keydown', event => {
      const does = { '+': () => zoomBy(1.5), '=': () => zoomBy(1.5), '-': () => zoomBy(1 / 1.5),
        0: () => find('.reset').click(), i: () => find('.w-invert').click() };
      if (zoom > 1) Object.assign(does, { ArrowLeft: () => shift(-.1, 0), ArrowRight: () => shift(.1, 0),
        ArrowUp: () => shift(0, -.1), ArrowDown: () => shift(0, .1) });
      if (!does[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      does[event.key]();
    });
    draw();
  }
})();
