// DOM elements and text formatting. Untrusted text is only inserted as text nodes.

const read = (id) => JSON.parse(document.getElementById(id).textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'css') Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === '') continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

// Replaces the children of a node.
const put = (node, ...children) => {
  node.replaceChildren();
  return fill(node, {}, children);
};

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

const percent = (value, digits = 1) =>
  value === null || value === undefined ? '–' : `${(100 * value).toFixed(digits)}\u00a0%`;

function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) {
    const [mantissa, exponent] = value.toExponential(Math.min(2, digits - 1)).split('e');
    return `${Number(mantissa)}e${Number(exponent)}`;
  }
  if (size >= 1000) return Math.round(value).toLocaleString('en-US');
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 90) return `${number(seconds, 2)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const formatted = (value, kind, digits) =>
  kind === 'percent'
    ? percent(value, digits === undefined ? 1 : digits)
    : number(value, digits === undefined ? 4 : digits);

const known = (value) => value !== null && value !== undefined;
const plural = (count, noun) => (count === 1 ? noun : noun.endsWith('s') ? `${noun}es` : `${noun}s`);
const counted = (count, noun) =>
  known(count) ? `${count.toLocaleString('en-US', { maximumFractionDigits: 1 })} ${plural(count, noun)}` : '';
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

// The value of a CSS variable as a colour for a canvas.
const probe = document.createElement('span');
probe.hidden = true;
document.body.append(probe);
function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

const SERIES = 10;
const series = (i) => `var(--s${i % SERIES})`;
// Colours repeat after the tenth series; marker shapes and dashes then distinguish them.
const DASHES = [null, '8 3', '2 3', '8 3 2 3'];
const dash = (i) => DASHES[Math.floor(i / SERIES) % DASHES.length];
function marker(i, x, y, r) {
  const kind = Math.floor(i / SERIES) % 4,
    fill = series(i);
  if (kind === 0) return svg('circle', { cx: x, cy: y, r, fill });
  if (kind === 1) return svg('rect', { x: x - 0.9 * r, y: y - 0.9 * r, width: 1.8 * r, height: 1.8 * r, fill });
  const d =
    kind === 2
      ? `M${x} ${y - 1.2 * r}l${1.15 * r} ${2 * r}h${-2.3 * r}z`
      : `M${x} ${y - 1.3 * r}l${1.2 * r} ${1.3 * r}l${-1.2 * r} ${1.3 * r}l${-1.2 * r} ${-1.3 * r}z`;
  return svg('path', { d, fill });
}
const swatch = (i) =>
  svg(
    'svg',
    { class: 'swatch wide', viewBox: '0 0 26 12', 'aria-hidden': 'true' },
    svg('line', { x1: 0, x2: 26, y1: 6, y2: 6, stroke: series(i), 'stroke-width': 2, 'stroke-dasharray': dash(i) }),
    marker(i, 13, 6, 4.2),
  );
const themed = []; // called when the theme changes

async function copy(text, button) {
  const before = button.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el('textarea', { css: { position: 'fixed', opacity: 0 } });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand('copy');
    area.remove();
  }
  button.textContent = done ? 'Copied' : 'Could not copy';
  setTimeout(() => {
    button.textContent = before;
  }, 1400);
}

// With `stack`, each row becomes a block on a narrow screen, with the heading beside each cell.
function table(heads, rows, numeric = [], stack = false) {
  const cell = (tag, content, i) => {
    const node =
      content instanceof Node && (content.tagName === 'TD' || content.tagName === 'TH')
        ? content
        : el(tag, { class: numeric.includes(i) ? 'n' : null }, content);
    if (stack && tag === 'td' && i > 0 && heads[i] && !node.dataset.title) {
      node.dataset.title = heads[i] instanceof Node ? heads[i].dataset.title : heads[i];
      node.append(el('div', {}, [...node.childNodes])); // one element beside the heading
    }
    return node;
  };
  return el(
    'div',
    { class: 'scroll' },
    el(
      'table',
      { class: stack ? 'stack' : null },
      el(
        'thead',
        {},
        el(
          'tr',
          {},
          heads.map((h, i) => cell('th', h, i)),
        ),
      ),
      el(
        'tbody',
        {},
        rows.map((row) =>
          el(
            'tr',
            {},
            row.map((c, i) => cell('td', c, i)),
          ),
        ),
      ),
    ),
  );
}

function bars(items) {
  return el(
    'div',
    { class: 'bars' },
    items.map(([name, fraction, text]) => [
      el('span', { title: name }, name),
      el('div', { class: 'track' }, el('i', { css: { width: `${100 * (fraction || 0)}%` } })),
      el('span', { class: 'v' }, text),
    ]),
  );
}

function range(value, low, high) {
  return el(
    'div',
    { class: 'range', 'aria-hidden': 'true' },
    el('i', { css: { width: `${100 * value}%` } }),
    known(low) && el('u', { css: { left: `calc(${100 * low}% - 1px)`, width: `calc(${100 * (high - low)}% + 2px)` } }),
  );
}
