// The map of an embedding: a canvas with panning, zoom, hover and lasso selection.

function typed(base64, Type) {
  const text = atob(base64),
    bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Type(bytes.buffer);
}

// An image set with thumbnails, shared by the maps of several runs.
class Images {
  constructor(content) {
    Object.assign(this, content);
    this.labels = content.labels ? typed(content.labels, Uint32Array) : null;
    this.pictures = content.sheets.urls.map((url) => {
      const image = new Image();
      image.src = url;
      return image;
    });
    this.ready = Promise.all(this.pictures.map((image) => image.decode().catch(() => null)));
  }

  paint(context, i, x, y, size) {
    const { tile, columns, perSheet } = this.sheets,
      n = i % perSheet;
    const image = this.pictures[Math.floor(i / perSheet)];
    if (image.complete && image.naturalWidth)
      context.drawImage(image, (n % columns) * tile, Math.floor(n / columns) * tile, tile, tile, x, y, size, size);
  }

  thumbnail(i, size, attributes = {}) {
    const canvas = el('canvas', {
      width: 2 * size,
      height: 2 * size,
      css: { width: `${size}px`, height: `${size}px` },
    });
    this.ready.then(() => {
      const c = canvas.getContext('2d');
      c.imageSmoothingQuality = 'high';
      this.paint(c, i, 0, 0, 2 * size);
    });
    return el(
      'button',
      {
        type: 'button',
        ...attributes,
        class: `thumb ${attributes.class || ''}`,
        title: this.names[i],
        'aria-label': this.names[i],
      },
      canvas,
    );
  }

  label(i) {
    return this.labels ? this.classes[this.labels[i]] : null;
  }
}

const SHAPES = 4;
const MAX_THUMBNAILS = 160; // shown on the map at a time instead of dots

class EmbeddingMap {
  constructor(content, images) {
    this.content = content;
    this.images = images;
    this.xy = typed(content.xy, Float32Array);
    this.count = this.xy.length / 2;
    this.near = typed(content.near, Uint32Array);
    this.clusters = typed(content.clusters, Uint16Array);
    this.hidden = new Set();
    this.chosen = null;
    this.focus = -1;
    this.pinned = false;
    this.lassoing = false;
    this.path = null;
    this.pointers = new Map();
    this.colouring = images.labels ? 'label' : 'cluster';
    this.build();
    this.recolour(this.colouring);
    themed.push(() => {
      this.markers = null;
      this.legend();
      this.draw();
    });
    images.ready.then(() => this.draw());
  }

  build() {
    this.canvas = el('canvas', {
      id: 'map',
      tabindex: 0,
      role: 'img',
      'aria-label':
        `Map of ${this.count} images. Arrow keys move it, plus and minus zoom, ` +
        'Enter selects the image nearest to the centre.',
    });
    this.over = el('canvas', { class: 'over', 'aria-hidden': 'true' });
    this.hint = el('div', { class: 'hint small' });
    const button = (text, label, act) =>
      el('button', { type: 'button', title: label, 'aria-label': label, onclick: act }, text);
    this.stage = el(
      'div',
      { class: 'stage card' },
      this.canvas,
      this.over,
      this.hint,
      el(
        'div',
        { class: 'zoom' },
        button('+', 'Zoom in', () => this.zoomAt(this.width / 2, this.height / 2, 1.6)),
        button('−', 'Zoom out', () => this.zoomAt(this.width / 2, this.height / 2, 1 / 1.6)),
        button('⤢', 'Show all', () => this.fit()),
      ),
    );
    this.select = el(
      'select',
      { id: 'colour', 'aria-label': 'Colour by', onchange: () => this.recolour(this.select.value) },
      this.images.labels ? el('option', { value: 'label' }, 'Colour by label') : null,
      el('option', { value: 'cluster' }, 'Colour by cluster (k-means)'),
      el('option', { value: 'one' }, 'One colour'),
    );
    this.moveButton = el(
      'button',
      { type: 'button', 'aria-pressed': 'true', onclick: () => this.setLasso(false) },
      'Move',
    );
    this.lassoButton = el(
      'button',
      { type: 'button', id: 'lasso', 'aria-pressed': 'false', onclick: () => this.setLasso(true) },
      'Lasso',
    );
    this.tools = el('div', { class: 'tools' }, this.select, this.moveButton, this.lassoButton);
    this.panel = el('div', { class: 'side card', id: 'panel', 'aria-live': 'polite' });
    this.keys = el('div', { class: 'legend' });
    this.root = el('div', {}, this.tools, el('div', { class: 'map' }, this.stage, this.panel), this.keys);
    this.canvas.embeddingMap = this;
    this.canvas.addEventListener('pointerdown', (e) => this.down(e));
    this.canvas.addEventListener('pointermove', (e) => this.moved(e));
    for (const name of ['pointerup', 'pointercancel']) this.canvas.addEventListener(name, (e) => this.up(e));
    this.canvas.addEventListener(
      'wheel',
      (e) => {
        e.preventDefault();
        this.zoomAt(e.offsetX, e.offsetY, Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016)));
      },
      { passive: false },
    );
    this.canvas.addEventListener('keydown', (e) => this.key(e));
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.welcome();
  }

  // ---- coordinates

  resize() {
    const width = this.stage.clientWidth,
      height = this.stage.clientHeight;
    if (!width || (width === this.width && height === this.height)) return;
    const first = !this.width;
    this.width = width;
    this.height = height;
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = width * this.ratio;
      canvas.height = height * this.ratio;
    }
    if (first || !this.touched) this.fit();
    else this.draw();
  }

  fit() {
    this.touched = false;
    this.scale = this.home = (Math.min(this.width, this.height) / 2) * 0.93;
    // an elongated map fills the stage along its longer side
    let w = 0,
      h = 0;
    for (let i = 0; i < this.count; i++) {
      w = Math.max(w, Math.abs(this.xy[2 * i]));
      h = Math.max(h, Math.abs(this.xy[2 * i + 1]));
    }
    this.scale = this.home = (0.93 / 2) * Math.min(this.width / Math.max(w, 1e-6), this.height / Math.max(h, 1e-6));
    this.x = 0;
    this.y = 0;
    this.draw();
  }

  place(i) {
    return [
      (this.xy[2 * i] - this.x) * this.scale + this.width / 2,
      (this.xy[2 * i + 1] - this.y) * this.scale + this.height / 2,
    ];
  }

  zoomAt(px, py, factor) {
    this.touched = true;
    const scale = Math.min(this.home * 400, Math.max(this.home * 0.5, this.scale * factor));
    this.x += (px - this.width / 2) * (1 / this.scale - 1 / scale);
    this.y += (py - this.height / 2) * (1 / this.scale - 1 / scale);
    this.scale = scale;
    this.draw();
  }

  pan(dx, dy) {
    this.touched = true;
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.draw();
  }

  at(px, py, radius) {
    let best = radius * radius,
      found = -1;
    for (let i = 0; i < this.count; i++) {
      const dx = (this.xy[2 * i] - this.x) * this.scale + this.width / 2 - px,
        dy = (this.xy[2 * i + 1] - this.y) * this.scale + this.height / 2 - py;
      const d = dx * dx + dy * dy;
      if (d < best && !this.hidden.has(this.groups[i])) {
        best = d;
        found = i;
      }
    }
    return found;
  }

  // ---- drawing

  recolour(by) {
    this.colouring = by;
    this.select.value = by;
    if (by === 'label') {
      this.groups = this.images.labels;
      this.groupNames = this.images.classes;
    } else if (by === 'cluster') {
      this.groups = this.clusters;
      this.groupNames = Array.from({ length: Math.max(...this.clusters) + 1 }, (_, i) => `cluster ${i + 1}`);
    } else {
      this.groups = new Uint8Array(this.count);
      this.groupNames = ['all images'];
    }
    this.sizes = new Array(this.groupNames.length).fill(0);
    for (const g of this.groups) this.sizes[g]++;
    this.hidden.clear();
    this.markers = null;
    this.legend();
    this.draw();
  }

  shape(context, g, x, y, r) {
    const kind = Math.floor(g / SERIES) % SHAPES;
    context.beginPath();
    if (kind === 0) context.arc(x, y, r, 0, 7);
    else if (kind === 1) context.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76);
    else if (kind === 2) {
      context.moveTo(x, y - r * 1.15);
      context.lineTo(x + r * 1.1, y + r * 0.8);
      context.lineTo(x - r * 1.1, y + r * 0.8);
      context.closePath();
    } else {
      context.moveTo(x, y - r * 1.3);
      context.lineTo(x + r * 1.1, y);
      context.lineTo(x, y + r * 1.3);
      context.lineTo(x - r * 1.1, y);
      context.closePath();
    }
    context.fill();
  }

  // The pixels of each marker shape, relative to its corner, and the coverage of each.
  marker(r) {
    if (this.markers && this.markers.r === r) return this.markers;
    const side = Math.ceil(2.8 * r) + 2,
      canvas = el('canvas', { width: side, height: side }),
      c = canvas.getContext('2d', { willReadFrequently: true });
    const shapes = Array.from({ length: Math.min(SHAPES, Math.ceil(this.groupNames.length / SERIES)) }, (_, kind) => {
      c.clearRect(0, 0, side, side);
      this.shape(c, kind * SERIES, side / 2, side / 2, r);
      const pixels = c.getImageData(0, 0, side, side).data,
        dx = [],
        dy = [],
        cover = [];
      for (let p = 0; p < side * side; p++)
        if (pixels[4 * p + 3] > 8) {
          dx.push(p % side);
          dy.push(Math.floor(p / side));
          cover.push(pixels[4 * p + 3]);
        }
      return { dx: Int32Array.from(dx), dy: Int32Array.from(dy), cover: Int32Array.from(cover) };
    });
    const colours = Array.from({ length: SERIES }, (_, i) => colour(`--s${i}`).match(/\d+/g).slice(0, 3).map(Number));
    this.markers = { r, side, shapes, colours, ground: colour('--card').match(/\d+/g).slice(0, 3).map(Number) };
    return this.markers;
  }

  draw() {
    if (!this.width || this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  paint() {
    const began = performance.now(),
      c = this.canvas.getContext('2d'),
      k = this.ratio,
      W = this.canvas.width,
      H = this.canvas.height;
    c.setTransform(1, 0, 0, 1, 0, 0);
    const zoom = this.scale / this.home;
    const base = this.count > 8000 ? 1.7 : this.count > 2000 ? 2.3 : this.count > 400 ? 3.2 : 4.5;
    const r = Math.round(2 * k * Math.min(7, base * Math.sqrt(Math.max(1, zoom)) ** 0.9)) / 2;
    const { side, shapes, colours, ground } = this.marker(r),
      s = this.scale * k,
      ox = W / 2 - this.x * s,
      oy = H / 2 - this.y * s,
      half = side / 2;
    const visible = [],
      chosen = this.chosen,
      hiding = this.hidden.size > 0;
    // Dots are blended into the pixels directly: a canvas call per dot is many times slower.
    if (!this.image || this.image.width !== W || this.image.height !== H) this.image = c.createImageData(W, H);
    const data = this.image.data,
      opaque = this.count > 2000 ? 205 : 232;
    new Uint32Array(data.buffer).fill(0xff000000 | (ground[2] << 16) | (ground[1] << 8) | ground[0]);
    for (let i = 0; i < this.count; i++) {
      const x = (this.xy[2 * i] * s + ox - half) | 0,
        y = (this.xy[2 * i + 1] * s + oy - half) | 0;
      if (x < 0 || y < 0 || x + side > W || y + side > H) continue;
      const g = this.groups[i];
      if (hiding && this.hidden.has(g)) continue;
      if (visible.length <= MAX_THUMBNAILS) visible.push(i);
      const { dx, dy, cover } = shapes[Math.floor(g / SERIES) % SHAPES],
        [red, green, blue] = colours[g % SERIES];
      const strength = chosen === null ? opaque : chosen.has(i) ? 256 : 34;
      for (let n = 0; n < cover.length; n++) {
        const p = 4 * ((y + dy[n]) * W + x + dx[n]),
          a = (cover[n] * strength) >> 8;
        data[p] += ((red - data[p]) * a) >> 8;
        data[p + 1] += ((green - data[p + 1]) * a) >> 8;
        data[p + 2] += ((blue - data[p + 2]) * a) >> 8;
      }
    }
    c.putImageData(this.image, 0, 0);
    const dim = chosen !== null;
    const few = zoom > 2.5 && visible.length <= MAX_THUMBNAILS;
    if (few) {
      const size = Math.min(this.images.sheets.tile, 40) * k;
      for (const i of visible) {
        if (dim && !chosen.has(i)) continue;
        const [x, y] = this.place(i);
        c.fillStyle = colour(`--s${this.groups[i] % SERIES}`);
        c.fillRect(x * k - size / 2 - 2 * k, y * k - size / 2 - 2 * k, size + 4 * k, size + 4 * k);
        this.images.paint(c, i, x * k - size / 2, y * k - size / 2, size);
      }
    }
    this.hint.textContent =
      zoom < 1.05 && !this.touched
        ? matchMedia('(pointer: coarse)').matches
          ? 'Pinch to zoom, drag to move'
          : 'Scroll to zoom, drag to move'
        : '';
    this.paintOver();
    this.took = performance.now() - began;
  }

  paintOver() {
    const c = this.over.getContext('2d'),
      k = this.ratio;
    c.setTransform(k, 0, 0, k, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    if (this.path && this.path.length > 1) {
      c.beginPath();
      this.path.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
      c.closePath();
      c.strokeStyle = colour('--accent');
      c.lineWidth = 1.5;
      c.setLineDash([5, 4]);
      c.stroke();
      c.setLineDash([]);
      c.globalAlpha = 0.1;
      c.fillStyle = colour('--accent');
      c.fill();
      c.globalAlpha = 1;
    }
    if (this.focus < 0) return;
    const [x, y] = this.place(this.focus);
    c.strokeStyle = colour('--text');
    c.lineWidth = 1;
    for (const n of this.nearest(this.focus)) {
      const [a, b] = this.place(n);
      c.globalAlpha = 0.45;
      c.beginPath();
      c.moveTo(x, y);
      c.lineTo(a, b);
      c.stroke();
      c.globalAlpha = 1;
      c.beginPath();
      c.arc(a, b, 5, 0, 7);
      c.stroke();
    }
    c.lineWidth = 2.2;
    c.beginPath();
    c.arc(x, y, 8, 0, 7);
    c.stroke();
  }

  // ---- pointing

  nearest(i) {
    const k = this.content.nearCount;
    return Array.from(this.near.subarray(i * k, (i + 1) * k));
  }

  welcome() {
    put(
      this.panel,
      el(
        'p',
        { class: 'small' },
        'Point at a dot to see its image and nearest neighbours here. Click or tap to pin it; press Escape or click ' +
          'elsewhere to unpin it. Zoom in to see images instead of dots.',
      ),
      el('p', { class: 'small' }, 'Use the lasso, or hold Shift, to select a group of images.'),
    );
  }

  look(i) {
    if (i === this.focus) return;
    this.focus = i;
    if (i < 0) {
      this.welcome();
      this.paintOver();
      return;
    }
    const images = this.images,
      label = images.label(i),
      near = this.nearest(i);
    const same = label === null ? null : near.filter((n) => images.labels[n] === images.labels[i]).length;
    put(
      this.panel,
      el(
        'div',
        { class: 'who' },
        images.thumbnail(i, 96, {
          onclick: () => this.pan(...this.place(i).map((v, side) => (side ? this.height : this.width) / 2 - v)),
        }),
        el(
          'div',
          {},
          label !== null ? el('b', {}, label) : null,
          el('div', { class: 'small' }, images.names[i]),
          el('div', { class: 'small' }, `cluster ${this.clusters[i] + 1}`),
        ),
      ),
      el(
        'div',
        { class: 'small' },
        `${near.length === 1 ? 'Nearest neighbour' : `The ${near.length} nearest neighbours`}`,
        same === null ? '' : `; ${same} of ${near.length} with the same label`,
      ),
      el(
        'div',
        { class: 'thumbs', id: 'near' },
        near.map((n) =>
          images.thumbnail(n, 56, {
            class: label === null ? '' : images.labels[n] === images.labels[i] ? 'same' : 'other',
            onclick: () => this.pin(n),
          }),
        ),
      ),
      label === null ? null : el('div', { class: 'small' }, 'Dashed frame: different label.'),
    );
    this.paintOver();
  }

  // Pins an image, and scrolls it into view.
  pin(i) {
    this.setChosen(null);
    this.pinned = true;
    this.focus = -2;
    const [x, y] = this.place(i);
    if (x < 20 || y < 20 || x > this.width - 20 || y > this.height - 20)
      this.pan(this.width / 2 - x, this.height / 2 - y);
    this.look(i);
  }

  local(e) {
    const box = this.canvas.getBoundingClientRect();
    return [e.clientX - box.left, e.clientY - box.top];
  }

  down(e) {
    this.canvas.setPointerCapture(e.pointerId);
    const at = this.local(e);
    this.pointers.set(e.pointerId, at);
    this.began = at;
    this.dragged = false;
    if ((this.lassoing || e.shiftKey) && this.pointers.size === 1) this.path = [at];
    if (this.pointers.size > 1) this.path = null;
  }

  moved(e) {
    const at = this.local(e),
      before = this.pointers.get(e.pointerId);
    if (!before) {
      if (e.pointerType === 'mouse' && !this.pinned && !this.chosen) {
        const found = this.at(at[0], at[1], 14);
        if (found >= 0) this.look(found); // keeps the last image between dots, so that the panel can be reached
      }
      return;
    }
    if (Math.hypot(at[0] - this.began[0], at[1] - this.began[1]) > 4) this.dragged = true;
    if (this.path) {
      this.path.push(at);
      this.paintOver();
    } else if (this.pointers.size === 1) {
      if (this.dragged) this.pan(at[0] - before[0], at[1] - before[1]);
    } else {
      const other = [...this.pointers].find(([id]) => id !== e.pointerId)[1];
      const old = Math.hypot(before[0] - other[0], before[1] - other[1]),
        now = Math.hypot(at[0] - other[0], at[1] - other[1]);
      this.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
      if (old > 0) this.zoomAt((at[0] + other[0]) / 2, (at[1] + other[1]) / 2, now / old);
    }
    this.pointers.set(e.pointerId, at);
  }

  up(e) {
    if (!this.pointers.delete(e.pointerId)) return;
    const path = this.path;
    this.path = null;
    if (e.type === 'pointercancel') {
      this.paintOver();
      return;
    }
    if (path && this.dragged) {
      this.choose(path);
      return;
    }
    if (!this.dragged && !this.pointers.size) {
      const at = this.local(e),
        found = this.at(at[0], at[1], e.pointerType === 'mouse' ? 14 : 24);
      this.setChosen(null);
      this.pinned = found >= 0;
      this.focus = -2;
      this.look(found);
    }
  }

  key(e) {
    const move = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
    if (move) this.pan(...move);
    else if (e.key === '+' || e.key === '=') this.zoomAt(this.width / 2, this.height / 2, 1.4);
    else if (e.key === '-') this.zoomAt(this.width / 2, this.height / 2, 1 / 1.4);
    else if (e.key === 'Enter' || e.key === 'n') {
      const found = this.at(this.width / 2, this.height / 2, Infinity);
      if (found >= 0) this.pin(found);
    } else if (e.key === 'Escape') {
      this.pinned = false;
      this.setChosen(null);
      this.focus = -2;
      this.look(-1);
    } else return;
    e.preventDefault();
  }

  // ---- selection

  setLasso(on) {
    this.lassoing = on;
    this.canvas.classList.toggle('lasso', on);
    this.lassoButton.setAttribute('aria-pressed', on);
    this.moveButton.setAttribute('aria-pressed', !on);
  }

  setChosen(chosen) {
    this.chosen = chosen;
    this.draw();
  }

  choose(path) {
    const found = [];
    for (let i = 0; i < this.count; i++) {
      if (this.hidden.has(this.groups[i])) continue;
      const [x, y] = this.place(i);
      let inside = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
        const [xa, ya] = path[a],
          [xb, yb] = path[b];
        if (ya > y !== yb > y && x < ((xb - xa) * (y - ya)) / (yb - ya) + xa) inside = !inside;
      }
      if (inside) found.push(i);
    }
    this.focus = -1;
    this.pinned = false;
    this.setChosen(found.length ? new Set(found) : null);
    this.describe(found);
  }

  describe(found) {
    if (!found.length) {
      this.welcome();
      return;
    }
    const counts = new Map();
    for (const i of found) counts.set(this.groups[i], (counts.get(this.groups[i]) || 0) + 1);
    const items = [...counts].sort((a, b) => b[1] - a[1]);
    const limit = 120,
      copied = el(
        'button',
        { type: 'button', onclick: () => copy(found.map((i) => this.images.names[i]).join('\n'), copied) },
        'Copy names',
      );
    put(
      this.panel,
      el('b', { id: 'chosen' }, `${counted(found.length, 'image')} selected`),
      el(
        'div',
        { class: 'tools' },
        copied,
        el(
          'button',
          {
            type: 'button',
            onclick: () => {
              this.setChosen(null);
              this.welcome();
            },
          },
          'Clear',
        ),
      ),
      bars(items.slice(0, 12).map(([g, n]) => [this.groupNames[g], n / found.length, String(n)])),
      items.length > 12 ? el('div', { class: 'small' }, `and ${items.length - 12} more`) : null,
      el(
        'div',
        { class: 'thumbs' },
        found.slice(0, limit).map((i) => this.images.thumbnail(i, 36, { onclick: () => this.pin(i) })),
      ),
      found.length > limit
        ? el('div', { class: 'small' }, `Only the first ${limit} are shown. Copy names copies all.`)
        : null,
    );
  }

  legend() {
    const all = (hide) => {
      this.hidden = new Set(hide ? this.groupNames.keys() : []);
      this.legend();
      this.draw();
    };
    const keys = this.groupNames.map((name, g) => {
      const swatch = el('canvas', { class: 'swatch', width: 24, height: 24 }),
        c = swatch.getContext('2d');
      c.fillStyle = colour(`--s${g % SERIES}`);
      this.shape(c, g, 12, 12, 8);
      const key = el(
        'button',
        {
          type: 'button',
          class: 'key',
          'aria-pressed': String(!this.hidden.has(g)),
          title: `Hide or show ${name}`,
          onclick: () => {
            if (this.hidden.has(g)) this.hidden.delete(g);
            else this.hidden.add(g);
            key.setAttribute('aria-pressed', String(!this.hidden.has(g)));
            this.draw();
          },
        },
        swatch,
        el('span', {}, `${name} (${this.sizes[g]})`),
      );
      return key;
    });
    put(
      this.keys,
      el(
        'div',
        { class: 'keys' },
        keys,
        keys.length > 2
          ? el(
              'span',
              { class: 'both' },
              el('button', { type: 'button', onclick: () => all(false) }, 'All'),
              el('button', { type: 'button', onclick: () => all(true) }, 'None'),
            )
          : null,
      ),
    );
  }
}

// A sample of images, spaced evenly over the set, with their nearest neighbours; each click shows another sample.
function neighbourSheet(map) {
  const rows = el('div', { class: 'rows', id: 'sheet' }),
    images = map.images,
    shown = Math.min(6, map.count);
  let turn = 0;
  const act = (i) => () => {
    map.pin(i);
    map.root.scrollIntoView({ block: 'start' });
  };
  const show = () => {
    const picked = Array.from(
      { length: shown },
      (_, n) => (Math.floor(((n + 0.5) * map.count) / shown) + 37 * turn) % map.count,
    );
    rows.replaceChildren(
      ...picked.map((i) =>
        el(
          'div',
          {},
          images.thumbnail(i, 60, { class: 'first', onclick: act(i) }),
          map
            .nearest(i)
            .map((n) =>
              images.thumbnail(n, 60, {
                onclick: act(n),
                class: !images.labels ? '' : images.labels[n] === images.labels[i] ? 'same' : 'other',
              }),
            ),
        ),
      ),
    );
    turn++;
  };
  show();
  let summary = null;
  if (images.labels) {
    const k = map.content.nearCount;
    let same = 0,
      chance = 0;
    for (let i = 0; i < map.count; i++)
      for (let j = 0; j < k; j++) same += images.labels[map.near[i * k + j]] === images.labels[i];
    const sizes = new Array(images.classes.length).fill(0);
    for (const l of images.labels) sizes[l]++;
    for (const n of sizes) chance += ((n / map.count) * (n - 1)) / Math.max(1, map.count - 1);
    summary = el(
      'p',
      { class: 'note', id: 'same-label' },
      el('b', {}, percent(same / (map.count * k))),
      ` of all nearest neighbours have the same label as their image; chance level ${percent(chance)}. `,
      'Dashed frame: different label. Click an image to show it on the map.',
    );
  }
  return [
    summary,
    el('div', { class: 'tools' }, el('button', { type: 'button', onclick: show }, 'Show other images')),
    rows,
  ];
}
