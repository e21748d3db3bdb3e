// SVG charts: curves with a shared cursor, confusion matrix, calibration, scatter and dot plots.

function ticks(low, high, count) {
  const step0 = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(step0));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= step0 * 0.999) || power;
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step)
    found.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  return found;
}

function tickText(t, gap, kind) {
  const scale = kind === 'percent' ? 100 : 1,
    size = gap * scale;
  if (t === 0) return kind === 'percent' ? '0\u00a0%' : '0';
  if (kind !== 'percent' && (gap < 1e-4 || Math.abs(t) >= 1e6)) return number(t, 3);
  let decimals = 0;
  while (decimals < 6 && Math.abs(size * 10 ** decimals - Math.round(size * 10 ** decimals)) > 1e-6) decimals++;
  const text = (t * scale).toLocaleString('en-US', {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
  });
  return kind === 'percent' ? `${text}\u00a0%` : text;
}

function bounds(values) {
  let low = Infinity,
    high = -Infinity;
  for (const v of values) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  if (low === high) {
    const pad = Math.abs(low) * 0.05 || 0.5;
    return [low - pad, high + pad];
  }
  const pad = (high - low) * 0.05;
  return [low - pad, high + pad];
}

function nearestIndex(xs, x) {
  let a = 0,
    b = xs.length - 1;
  while (b - a > 1) {
    const m = (a + b) >> 1;
    if (xs[m] < x) a = m;
    else b = m;
  }
  return Math.abs(xs[a] - x) <= Math.abs(xs[b] - x) ? a : b;
}

// Redraws when the width of the box changes.
function responsive(box, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      draw(width);
    }
  }).observe(box);
  return () => {
    if (width) draw(width);
  };
}

class Curves {
  // runs: [{name, curves}], labels: {key: {title, unit, note, kind}}
  constructor(runs, labels) {
    this.runs = runs;
    this.labels = labels;
    this.charts = [];
    this.hidden = new Set();
    this.byEpoch = false;
    this.canEpoch = runs.every((r) => r.curves.perEpoch || !Object.keys(r.curves.series).length);
  }

  chart(key) {
    const label = this.labels[key],
      readout = el('div', { class: 'read' }),
      plot = el('div', { class: 'plot' });
    const card = el(
      'div',
      { class: 'card' },
      el('h3', {}, label.title, label.unit ? el('span', { class: 'small' }, `  (${label.unit})`) : null),
      el('div', { class: 'small' }, label.note),
      readout,
      plot,
    );
    const chart = { key, label, readout, plot };
    chart.redraw = responsive(plot, (width) => this.draw(chart, width));
    plot.addEventListener('pointermove', (e) => this.point(chart, e));
    plot.addEventListener('pointerdown', (e) => this.point(chart, e));
    plot.addEventListener('pointerleave', () => this.cross(null));
    this.charts.push(chart);
    return card;
  }

  redraw() {
    for (const chart of this.charts) chart.redraw();
  }

  lines(key) {
    const found = [];
    this.runs.forEach((run, i) => {
      const s = run.curves.series[key];
      if (!s || this.hidden.has(i)) return;
      const x = this.byEpoch ? s.x.map((v) => v / run.curves.perEpoch) : s.x;
      found.push({ name: run.name, i: run.group, thin: run.later, x, y: s.y });
    });
    return found;
  }

  draw(chart, width) {
    const height = 190,
      left = 48,
      right = 8,
      top = 8,
      bottom = 34,
      kind = chart.label.kind;
    const lines = this.lines(chart.key);
    const all = lines.flatMap((l) => l.y),
      xs = lines.flatMap((l) => [l.x[0], l.x[l.x.length - 1]]);
    chart.plot.replaceChildren();
    if (!all.length) {
      chart.plot.append(el('p', { class: 'small' }, 'All runs are hidden.'));
      chart.scale = null;
      return;
    }
    let [y0, y1] = bounds(all);
    if (Math.min(...all) >= 0) y0 = Math.max(0, y0);
    let x0 = Math.min(...xs),
      x1 = Math.max(...xs);
    if (x0 === x1) {
      x0 -= 0.5;
      x1 += 0.5;
    }
    const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
    const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
    const root = svg('svg', {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: 'img',
      'aria-label': `${chart.label.title} over ${this.byEpoch ? 'epochs' : 'steps'}`,
    });
    const steps = ticks(y0, y1, 4),
      gap = steps.length > 1 ? steps[1] - steps[0] : 1;
    for (const t of steps) {
      root.append(svg('line', { class: 'axis', x1: left, x2: width - right, y1: py(t), y2: py(t) }));
      root.append(svg('text', { x: left - 6, y: py(t) + 4, 'text-anchor': 'end' }, tickText(t, gap, kind)));
    }
    for (const t of ticks(x0, x1, Math.max(3, width / 85))) {
      root.append(svg('text', { x: px(t), y: height - bottom + 15, 'text-anchor': 'middle' }, number(t, 4)));
    }
    root.append(
      svg('text', { x: width - right, y: height - 3, 'text-anchor': 'end' }, this.byEpoch ? 'epoch' : 'optimizer step'),
    );
    for (const line of lines) {
      const d = line.x.map((x, i) => `${i ? 'L' : 'M'}${px(x).toFixed(1)} ${py(line.y[i]).toFixed(1)}`).join('');
      root.append(
        svg('path', {
          d,
          fill: 'none',
          stroke: series(line.i),
          'stroke-width': line.thin ? 1 : 1.9,
          'stroke-linejoin': 'round',
          'stroke-dasharray': dash(line.i),
        }),
      );
      if (line.x.length <= 30 && !line.thin)
        line.x.forEach((x, i) => root.append(marker(line.i, px(x), py(line.y[i]), 2.4)));
    }
    chart.over = svg('g', {});
    root.append(chart.over);
    chart.plot.append(root);
    chart.scale = { px, py, x0, x1, left, right, top, bottom, width, height };
    this.last(chart, lines);
  }

  last(chart, lines) {
    chart.readout.replaceChildren();
    if (lines.length === 1) {
      const l = lines[0];
      chart.readout.append('Last value: ', el('b', {}, formatted(l.y[l.y.length - 1], chart.label.kind)));
    }
  }

  point(chart, event) {
    if (!chart.scale) return;
    const { x0, x1, left, right, width } = chart.scale,
      box = chart.plot.getBoundingClientRect();
    const x = x0 + ((event.clientX - box.left - left) / (width - left - right)) * (x1 - x0);
    this.cross(Math.min(x1, Math.max(x0, x)));
  }

  cross(x) {
    for (const chart of this.charts) {
      if (!chart.scale) continue;
      const lines = this.lines(chart.key),
        { px, py, top, bottom, height } = chart.scale;
      chart.over.replaceChildren();
      if (x === null) {
        this.last(chart, lines);
        continue;
      }
      const found = lines.map((l) => {
        const i = nearestIndex(l.x, x);
        return { ...l, at: l.x[i], value: l.y[i] };
      });
      if (!found.length) continue;
      const at = found.reduce((a, b) => (Math.abs(a.at - x) < Math.abs(b.at - x) ? a : b)).at;
      chart.over.append(svg('line', { class: 'cross', x1: px(at), x2: px(at), y1: top, y2: height - bottom }));
      chart.readout.replaceChildren(`${this.byEpoch ? 'Epoch' : 'Step'} ${number(at, 4)}: `);
      found.slice(0, 8).forEach((l, n) => {
        chart.over.append(svg('circle', { cx: px(l.at), cy: py(l.value), r: 3.5, fill: series(l.i) }));
        chart.readout.append(
          n ? ', ' : '',
          this.runs.length > 1 ? `${l.name} ` : '',
          el('b', {}, formatted(l.value, chart.label.kind)),
        );
      });
      if (found.length > 8) chart.readout.append(` and ${found.length - 8} more`);
    }
  }
}

function confusionMatrix(names, triples) {
  const n = names.length,
    total = new Array(n).fill(0),
    box = el('div', {});
  for (const [t, , c] of triples) total[t] += c;
  const readout = el('div', { class: 'read' }, 'Point at a cell to read its value.');
  const count = (c) => Number(c.toFixed(1)).toLocaleString('en-US');
  const of = new Map(triples.map(([t, p, c]) => [t * n + p, c]));
  let cells = null,
    geometry = null;
  responsive(box, (width) => {
    const longest = Math.max(...names.map((name) => name.length));
    const limit = width < 420 ? 10 : 14,
      letters = Math.min(longest, limit);
    const left = 12 + letters * 6.2,
      right = 4 + letters * 2.8,
      cell = Math.min(40, (width - left - right) / n),
      labels = cell >= 9;
    const top = labels ? 16 + letters * 5.4 : 4,
      size = cell * n;
    const short = (name) => (name.length > limit ? `${name.slice(0, limit - 1)}…` : name);
    const root = svg('svg', {
      viewBox: `0 0 ${width} ${top + size + 4}`,
      height: top + size + 4,
      role: 'img',
      'aria-label': 'Confusion matrix',
    });
    root.append(svg('rect', { x: left, y: top, width: size, height: size, fill: 'var(--tint)' }));
    for (const [t, p, c] of triples) {
      root.append(
        svg('rect', {
          x: left + p * cell + 0.5,
          y: top + t * cell + 0.5,
          width: Math.max(0.5, cell - 1),
          height: Math.max(0.5, cell - 1),
          fill: t === p ? 'var(--accent)' : 'var(--bad)',
          'fill-opacity': (0.12 + (0.88 * c) / total[t]).toFixed(3),
        }),
      );
    }
    if (labels)
      names.forEach((name, i) => {
        root.append(svg('text', { x: left - 6, y: top + (i + 0.5) * cell + 4, 'text-anchor': 'end' }, short(name)));
        root.append(
          svg('text', { transform: `translate(${left + (i + 0.5) * cell + 4} ${top - 6}) rotate(-60)` }, short(name)),
        );
      });
    cells = svg('rect', {
      fill: 'none',
      stroke: 'var(--text)',
      'stroke-width': 1.5,
      width: cell,
      height: cell,
      visibility: 'hidden',
    });
    root.append(cells);
    geometry = { left, top, cell };
    box.replaceChildren(root);
  });
  const point = (event) => {
    const bounds = box.getBoundingClientRect(),
      { left, top, cell } = geometry;
    const p = Math.floor((event.clientX - bounds.left - left) / cell),
      t = Math.floor((event.clientY - bounds.top - top) / cell);
    if (p < 0 || t < 0 || p >= n || t >= n) {
      cells.setAttribute('visibility', 'hidden');
      return;
    }
    cells.setAttribute('visibility', 'visible');
    cells.setAttribute('x', left + p * cell);
    cells.setAttribute('y', top + t * cell);
    const c = of.get(t * n + p) || 0;
    readout.replaceChildren(
      'Of ',
      counted(total[t], 'image'),
      ' of ',
      el('b', {}, names[t]),
      ', ',
      el('b', {}, `${count(c)} (${percent(total[t] ? c / total[t] : 0)})`),
      c === 1 ? ' was' : ' were',
      ' predicted as ',
      el('b', {}, names[p]),
      '.',
    );
  };
  box.addEventListener('pointermove', point);
  box.addEventListener('pointerdown', point);
  return el('div', { class: 'matrix' }, readout, box);
}

function calibration(found) {
  const box = el('div', {});
  const readout = el('div', { class: 'read' }, 'Point at a bar to read its value.');
  responsive(box, (width) => {
    const w = Math.min(width, 420),
      height = 230,
      left = 44,
      bottom = 34,
      top = 8,
      right = 8;
    const px = (x) => left + x * (w - left - right),
      py = (y) => height - bottom - y * (height - top - bottom);
    const root = svg('svg', {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: 'img',
      'aria-label': 'Accuracy against confidence',
    });
    for (const t of [0, 0.5, 1]) {
      root.append(svg('line', { class: 'axis', x1: left, x2: w - right, y1: py(t), y2: py(t) }));
      root.append(svg('text', { x: left - 6, y: py(t) + 4, 'text-anchor': 'end' }, `${100 * t} %`));
      root.append(
        svg('text', { x: px(t), y: height - bottom + 15, 'text-anchor': t === 1 ? 'end' : 'middle' }, `${100 * t} %`),
      );
    }
    const n = found.bins.length;
    found.bins.forEach(([confidence, accuracy, count], i) => {
      if (!count) return;
      root.append(
        svg('rect', {
          x: px(i / n) + 1,
          y: py(accuracy),
          width: (w - left - right) / n - 2,
          height: py(0) - py(accuracy),
          fill: 'var(--accent)',
          'fill-opacity': 0.75,
          onpointerenter: () => {
            readout.replaceChildren(
              `${counted(count, 'prediction')} with mean confidence `,
              el('b', {}, percent(confidence)),
              ': ',
              el('b', {}, percent(accuracy)),
              ' correct.',
            );
          },
        }),
      );
    });
    root.append(
      svg('line', { x1: px(0), y1: py(0), x2: px(1), y2: py(1), stroke: 'var(--soft)', 'stroke-dasharray': '4 3' }),
    );
    root.append(svg('text', { x: w - right, y: height - 2, 'text-anchor': 'end' }, 'confidence'));
    root.append(svg('text', { x: left + 4, y: top + 8 }, 'accuracy'));
    box.replaceChildren(root);
  });
  return el('div', {}, readout, box);
}

// A dashed line at the score of the untrained network.
const UNTRAINED = 'untrained network';
const baseline = (ends) =>
  svg('line', { ...ends, class: 'baseline', stroke: 'var(--text)', 'stroke-dasharray': '6 4', opacity: 0.7 });
const extent = (points, base) =>
  points
    .flatMap((p) => [p.y, p.low, p.high])
    .concat([base])
    .filter(known);

// points: [{name, x, y, low, high, i}], base: the untrained network's y or null
function scatter(points, xTitle, yTitle, xText, base) {
  const box = el('div', {});
  responsive(box, (width) => {
    const height = 320,
      left = 56,
      right = 16,
      top = 22,
      bottom = 40;
    const [x0, x1] = [0, Math.max(...points.map((p) => p.x)) * 1.12 || 1];
    const [y0, y1] = bounds(extent(points, base));
    const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right),
      py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
    const root = svg('svg', {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: 'img',
      'aria-label': `${yTitle} against ${xTitle}`,
    });
    const steps = ticks(y0, y1, 5),
      gap = steps.length > 1 ? steps[1] - steps[0] : 0.1;
    for (const t of steps) {
      root.append(svg('line', { class: 'axis', x1: left, x2: width - right, y1: py(t), y2: py(t) }));
      root.append(svg('text', { x: left - 6, y: py(t) + 4, 'text-anchor': 'end' }, tickText(t, gap, 'percent')));
    }
    for (const t of ticks(x0, x1, Math.max(2, width / 130)))
      root.append(svg('text', { x: px(t), y: height - bottom + 16, 'text-anchor': 'middle' }, xText(t)));
    root.append(
      svg('text', { x: width - right, y: height - 4, 'text-anchor': 'end' }, xTitle),
      svg('text', { x: 4, y: 11 }, yTitle),
    );
    // [left, top, right, bottom] of areas that labels must not cover
    const occupied = points.map((p) => [px(p.x) - 6, py(p.y) - 6, px(p.x) + 6, py(p.y) + 6]);
    const overlaps = (area, other) =>
      area[0] < other[2] && other[0] < area[2] && area[1] < other[3] && other[1] < area[3];
    if (known(base)) {
      const y = py(base),
        wide = 6.2 * UNTRAINED.length,
        end = width - right - wide;
      const ranges = points.map((p) => [px(p.x) - 6, py(p.high ?? p.y) - 6, px(p.x) + 6, py(p.low ?? p.y) + 6]);
      const areas = [left + 4, end, (left + end) / 2].map((x) => [x, y - 14, x + wide, y]);
      const area = areas.find((a) => !ranges.some((r) => overlaps(a, r))) || areas[0];
      root.append(
        baseline({ x1: left, x2: width - right, y1: y, y2: y }),
        svg('text', { x: area[0], y: y - 4 }, UNTRAINED),
      );
      occupied.push(area);
    }
    for (const p of points) {
      const x = px(p.x),
        y = py(p.y),
        wide = 6.3 * p.name.length;
      if (known(p.low) && known(p.high))
        root.append(
          svg('line', {
            x1: x,
            x2: x,
            y1: py(p.low),
            y2: py(p.high),
            stroke: series(p.i),
            'stroke-width': 1.5,
            opacity: 0.7,
          }),
        );
      let at = null;
      for (let away = 0; away < 200 && !at; away += 7) {
        for (const [a, b] of [
          [x + 10, y + away],
          [x + 10, y - away],
          [x - 10 - wide, y + away],
          [x - 10 - wide, y - away],
        ]) {
          const area = [a, b - 6, a + wide, b + 6];
          const inside = a >= left && a + wide <= width && b - 6 >= top && b + 6 <= height - bottom;
          if (inside && !occupied.some((other) => overlaps(area, other))) {
            at = area;
            break;
          }
        }
      }
      root.append(marker(p.i, x, y, 5.5));
      if (!at) continue;
      occupied.push(at);
      const near = at[0] > x ? at[0] - 2 : at[2] + 2,
        middle = (at[1] + at[3]) / 2;
      if (Math.abs(middle - y) > 7)
        root.append(
          svg('line', { x1: x, y1: y, x2: near, y2: middle, stroke: series(p.i), 'stroke-width': 1, opacity: 0.6 }),
        );
      root.append(svg('text', { x: at[0], y: middle + 4, css: { fill: 'var(--text)' } }, p.name));
    }
    box.replaceChildren(root);
  });
  return box;
}

// One row per point, in order, with its range.
function dots(points, title, base) {
  const box = el('div', {});
  responsive(box, (width) => {
    const row = 26,
      top = 20,
      bottom = 36,
      right = 16,
      left = Math.min(0.4 * width, 14 + 6.5 * Math.max(...points.map((p) => p.name.length)));
    const height = top + row * points.length + bottom,
      [x0, x1] = bounds(extent(points, base));
    const px = (x) => left + 10 + ((x - x0) / (x1 - x0)) * (width - left - right - 10),
      letters = Math.floor(left / 6.2);
    const root = svg('svg', {
      viewBox: `0 0 ${width} ${height}`,
      height,
      role: 'img',
      'aria-label': `${title} of each method`,
    });
    const steps = ticks(x0, x1, Math.max(2, width / 130)),
      gap = steps.length > 1 ? steps[1] - steps[0] : 0.1;
    for (const t of steps) {
      root.append(svg('line', { class: 'axis', x1: px(t), x2: px(t), y1: top, y2: height - bottom }));
      root.append(
        svg('text', { x: px(t), y: height - bottom + 15, 'text-anchor': 'middle' }, tickText(t, gap, 'percent')),
      );
    }
    root.append(svg('text', { x: width - right, y: height - 3, 'text-anchor': 'end' }, title));
    if (known(base))
      root.append(
        baseline({ x1: px(base), x2: px(base), y1: top, y2: height - bottom }),
        svg('text', { x: px(base), y: top - 6, 'text-anchor': px(base) > width / 2 ? 'end' : 'start' }, UNTRAINED),
      );
    points.forEach((p, n) => {
      const y = top + row * (n + 0.5);
      root.append(
        svg(
          'text',
          { x: left, y: y + 4, 'text-anchor': 'end', css: { fill: 'var(--text)' } },
          p.name.length > letters ? `${p.name.slice(0, letters - 1)}…` : p.name,
        ),
      );
      if (known(p.low) && known(p.high))
        root.append(
          svg('line', {
            x1: px(p.low),
            x2: px(p.high),
            y1: y,
            y2: y,
            stroke: series(p.i),
            'stroke-width': 2,
            opacity: 0.7,
          }),
        );
      root.append(marker(p.i, px(p.y), y, 5.5));
    });
    box.replaceChildren(root);
  });
  return box;
}
