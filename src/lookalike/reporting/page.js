// The page: one section after the other, each only where there is something to show.

const report = read('report');
const runs = report.runs, one = runs.length === 1;
const main = el('main', {});
const links = [];

function section(id, title, note, ...content) {
  const made = el('section', { id }, el('h2', {}, title), note ? el('p', { class: 'note' }, note) : null, content);
  links.push([id, title, made]);
  main.append(made);
  return made;
}

// ---------------------------------------------------------------- head

const MARKS = { learning: ['good', '✓'], 'not learning': ['bad', '!'], collapsed: ['bad', '✕'], diverged: ['bad', '✕'] };

function verdictCard(run) {
  const v = run.verdict;
  if (!v) return el('div', { class: 'card verdict' }, el('div', { class: 'sign' }, '?'), el('div', {}, el('p', {}, el('span', { class: 'word' }, 'No verdict'), ' – the run is too short to be judged, or has no training of its own.')));
  const [kind, sign] = MARKS[v.word] || ['', '?'];
  return el('div', { class: `card verdict ${kind}` }, el('div', { class: 'sign', 'aria-hidden': 'true' }, sign), el('div', {},
    el('p', {}, 'Verdict: ', el('span', { class: 'word' }, v.word), v.meaning ? `. ${v.meaning}` : ''),
    v.why ? el('p', { class: 'small' }, `Seen: ${v.why}`) : null,
    v.remedy ? el('p', { class: 'small' }, el('b', {}, 'What to try: '), v.remedy) : null));
}

const factList = (found) => el('dl', { class: 'facts' }, found.map(({ label, value }) => [el('dt', {}, label), el('dd', {}, value)]));
const facts = (run) => [factList(run.facts.filter((f) => f.main)), run.facts.some((f) => !f.main) ? el('details', {}, el('summary', {}, 'Views, machine and versions'), factList(run.facts.filter((f) => !f.main))) : null];

// The text of a citation, its address as a link: nothing is loaded until somebody follows it.
const cited = (text) => text.split(/(https:\/\/\S+)/).map((part) => (part.startsWith('https://') ? el('a', { href: part, rel: 'noopener noreferrer' }, part) : part));

function tiles(run) {
  const found = run.evaluations.slice(-3).map((e) => [e.title, percent(e.top1), e.protocol === 'semi' ? `${e.settings.split(',')[0]}; ${interval(e)}` : interval(e)]);
  const curve = run.curves.series.knn_top1;
  if (curve && !found.length) found.push(['k-NN in training', percent(curve.y[curve.y.length - 1]), `${percent(curve.y[0])} at first`]);
  const known = run.curves.series.recognition;
  if (known) found.push(['Recognition', percent(known.y[known.y.length - 1]), 'views told apart; chance 50 %']);
  const speed = run.curves.series.images_per_s;
  if (speed) { const sorted = [...speed.y].sort((a, b) => a - b); found.push(['Speed', `${number(sorted[sorted.length >> 1], 3)}`, 'training images per second']); }
  if (found.length < 2) return null;
  return el('div', { class: 'tiles' }, found.slice(0, 4).map(([title, value, note]) => el('div', { class: 'card tile' }, el('div', { class: 'small' }, title), el('b', {}, value), el('div', { class: 'small' }, note))));
}

main.append(el('header', { class: 'top' }, el('h1', {}, report.title),
  one && runs[0].paper ? el('p', { class: 'note lead' }, cited(runs[0].paper)) : null,
  el('p', { class: 'small' }, `Written by lookalike ${report.version}, ${report.date}.`)));

const overview = el('div', { id: 'overview' });
main.append(overview);
if (one) {
  const run = runs[0];
  fill(overview, {}, [verdictCard(run), tiles(run), el('div', { class: 'card' }, facts(run))]);
} else if (runs.length && !report.comparisons.length) {
  fill(overview, {}, [runTable()]);
}
if (overview.hasChildNodes()) links.push(['overview', 'Overview', overview]);
for (const run of runs) for (const problem of run.problems) overview.append(el('p', { class: 'small' }, `${one ? '' : `${run.name}: `}${problem}`));

function runTable() {
  const fact = (run, label) => (run.facts.find((f) => f.label === label) || {}).value || '–';
  return [el('div', { class: 'card' }, table(['Run', 'Method', 'Backbone', 'Epochs', 'Speed', 'Verdict'], runs.map((run) => {
    const [kind, sign] = MARKS[run.verdict && run.verdict.word] || ['', '–'];
    return [run.name, run.method || '–', fact(run, 'Backbone').split(/,? \(|, /)[0], fact(run, 'Epochs'), fact(run, 'Speed').replace(' (median)', ''), el('td', { class: 'date' }, el('span', { css: { color: kind ? `var(--${kind})` : '' } }, `${sign} ${run.verdict ? run.verdict.word : ''}`))];
  }))), runs.map((run) => el('details', {}, el('summary', {}, `All about ${run.name}`), verdictCard(run), el('div', { class: 'card' }, run.paper ? el('p', { class: 'small' }, cited(run.paper)) : null, facts(run))))];
}

// ---------------------------------------------------------------- comparison

const PROTOCOL = { knn: 'k-NN', linear: 'linear', logistic: 'logistic', semi: 'few labels', finetune: 'fine-tuned', retrieval: 'retrieval' };
const lastPart = (path) => String(path).split(/[\\/]/).filter(Boolean).slice(-2).join('/');

for (const found of report.comparisons) {
  const ranking = found.ranking || [], trainings = found.trainings || [];
  const budget = found.budget || {};
  const equal = [`the backbone ${found.backbone}`, 'the same images', budget.minutes ? `${number(budget.minutes, 3)} minutes of training each` : budget.epochs ? `${budget.epochs} epochs each` : null, found.seeds ? several(found.seeds.length, 'seed') : null].filter(Boolean).join(', ');
  const protocols = [];
  for (const r of ranking) for (const [p, tests] of Object.entries(r.results || {})) for (const t of Object.keys(tests)) if (!protocols.some(([a, b]) => a === p && b === t)) protocols.push([p, t]);
  const manyTests = new Set(protocols.map(([, t]) => t)).size > 1;
  const best = (get) => Math.max(...ranking.map((r) => get(r) ?? -Infinity));
  const result = ([p, t]) => (r) => ((r.results || {})[p] || {})[t];
  const rows = ranking.map((r, i) => [
    String(i + 1), el('b', {}, r.method),
    el('td', {}, percent(r.score), r.low !== null && r.low !== undefined ? el('div', { class: 'small date' }, `${percent(r.low)} to ${percent(r.high)}`) : null, range(r.score, r.low ?? null, r.high ?? null)),
    ...protocols.map((q) => { const v = result(q)(r); return el('td', { class: v && v.mean === best((o) => (result(q)(o) || {}).mean) ? 'n best' : 'n' }, v ? percent(v.mean) : '–', v && v.deviation ? el('div', { class: 'small' }, `± ${percent(v.deviation)}`) : null); }),
    duration(r.seconds), number(r.images_per_s, 3), r.peak_memory_gib ? `${number(r.peak_memory_gib, 3)} GiB` : '–', number(r.gflops_per_image, 3), r.stable === false ? el('td', { css: { color: 'var(--bad)' } }, 'no') : 'yes', r.remark || '',
  ]);
  const failed = trainings.filter((t) => t.status === 'failed'), waiting = trainings.filter((t) => t.status === 'waiting');
  const points = ranking.filter((r) => r.seconds !== null && r.score !== null).map((r) => ({ name: r.method, x: r.seconds / 60, y: r.score, low: r.low, high: r.high, colour: (runs.find((run) => run.name.startsWith(`${r.method}-seed`)) || {}).colour }));
  const energy = trainings.filter((t) => t.energy_kj);
  section(`comparison-${links.length}`, 'Ranking', `Equal for all: ${equal}. The score is what the ranking sorts by; the range beside it is what chance alone may explain.`,
    found.recommendation ? el('div', { class: 'card big recommendation' }, el('h3', {}, 'Recommendation for this data'), el('p', {}, found.recommendation)) : null,
    rows.length ? el('div', { class: 'card more' }, table(['', 'Method', 'Score', ...protocols.map(([p, t]) => (manyTests ? `${PROTOCOL[p] || p}, ${lastPart(t)}` : PROTOCOL[p] || p)), 'Time', 'Images/s', 'Memory', 'GFLOP/image', 'Stable', 'Remark'], rows, protocols.map((_, i) => i + 3).concat([3, 4, 5, 6].map((i) => i + protocols.length)))) : null,
    points.length > 1 ? el('div', { class: 'card more' }, el('h3', {}, 'Accuracy against time'), el('div', { class: 'small' }, 'Up and to the left is better: more accuracy in less training time. Lines are the range of the score.'), scatter(points, 'training time in minutes', 'score', (t) => number(t, 3))) : null,
    energy.length ? el('p', { class: 'small more' }, `Energy: ${energy.map((t) => `${t.method} (seed ${t.seed}) ${number(t.energy_kj, 3)} kJ`).join(', ')}.`) : null,
    failed.length ? el('div', { class: 'card more' }, el('h3', {}, 'What failed'), table(['Method', 'Seed', 'Why'], failed.map((t) => [t.method, String(t.seed), t.error || 'no reason was written']))) : null,
    runs.length ? el('details', { class: 'more' }, el('summary', {}, `All ${several(runs.length, 'training')}, with verdicts and settings`), runTable()) : null,
    waiting.length ? el('p', { class: 'small more' }, `Not trained yet: ${waiting.map((t) => `${t.method} (seed ${t.seed})`).join(', ')}. The same command goes on.`) : null);
}

// ---------------------------------------------------------------- curves

const keys = Object.keys(report.curves).filter((k) => runs.some((r) => r.curves.series[k]));
if (keys.length) {
  const curves = new Curves(runs, report.curves);
  const pressed = (button, on) => button.setAttribute('aria-pressed', String(on));
  const byStep = el('button', { type: 'button', 'aria-pressed': 'true', onclick: () => axis(false) }, 'Steps');
  const byEpoch = el('button', { type: 'button', 'aria-pressed': 'false', onclick: () => axis(true) }, 'Epochs');
  const axis = (epochs) => { curves.byEpoch = epochs; pressed(byStep, !epochs); pressed(byEpoch, epochs); curves.redraw(); };
  const legend = one ? null : el('div', { class: 'keys', id: 'runs' }, runs.map((run, i) => {
    const key = el('button', { type: 'button', class: 'key', 'aria-pressed': 'true', onclick: () => {
      if (curves.hidden.has(i)) curves.hidden.delete(i); else curves.hidden.add(i);
      pressed(key, !curves.hidden.has(i));
      curves.redraw();
    } }, el('span', { class: 'swatch', css: { background: series(run.colour ?? i), borderRadius: run.dashed ?? i >= SERIES ? '0' : '50%' } }), el('span', {}, run.name));
    return key;
  }));
  const [shown, folded] = [keys.filter((k) => report.curves[k].main), keys.filter((k) => !report.curves[k].main)];
  section('curves', 'Curves', 'How the training went. Point at a curve to read all of them at that moment.',
    el('div', { class: 'tools' }, curves.canEpoch ? [byStep, byEpoch] : null, legend),
    el('div', { class: 'grid' }, shown.map((k) => curves.chart(k))),
    folded.length ? el('details', { class: 'more' }, el('summary', {}, `${several(folded.length, 'more curve')}: ${folded.slice(0, 4).map((k) => report.curves[k].title.toLowerCase()).join(', ')}${folded.length > 4 ? ' ...' : ''}`), el('div', { class: 'grid' }, folded.map((k) => curves.chart(k)))) : null);
}

// ---------------------------------------------------------------- evaluations

function interval(e) {
  if (hasDeviation(e)) return `± ${percent(e.deviation)} over ${several(e.draws, 'run')}`;
  return e.interval ? `${percent(e.interval[0])} to ${percent(e.interval[1])}` : '';
}
function ends(e) {
  return hasDeviation(e) ? [Math.max(0, e.top1 - e.deviation), Math.min(1, e.top1 + e.deviation)] : e.interval || [null, null];
}
function hasDeviation(e) { return e.deviation !== null && e.deviation !== undefined; }
const judged = runs.flatMap((run) => run.evaluations.map((e) => ({ run, e })));

function details(name, e) {
  const made = [], right = [];
  if (e.per_class && e.per_class.length) {
    const items = e.per_class.map((v, i) => [e.names[i] || `class ${i}`, v]).filter(([, v]) => v !== null).sort((a, b) => a[1] - b[1]);
    const rows = (list) => bars(list.map(([n, v]) => [n, v, percent(v)]));
    const box = el('div', {}, rows(items.slice(0, 24)));
    const all = items.length > 24 ? el('button', { type: 'button', class: 'more', onclick: () => { box.replaceChildren(rows(items)); all.remove(); } }, `Show all ${items.length} classes`) : null;
    made.push(el('div', { class: 'card' }, el('h3', {}, 'Class by class'), el('div', { class: 'small' }, 'Share of each class’s test images that are named rightly, worst first.'), el('div', { class: 'more' }, box), all));
  }
  if (e.confusion.length) right.push(el('div', { class: 'card' }, el('h3', {}, 'What is taken for what'), el('div', { class: 'small' }, 'Rows are true classes, columns what was answered. Blue is right, orange is wrong.'), confusionMatrix(e.names, e.confusion)));
  if (e.pairs.length && (e.names.length > 40 || !e.confusion.length || e.names.length > 12)) right.push(el('div', { class: 'card' }, el('h3', {}, 'Most often confused'), table(['True', 'Taken for', 'Images'], e.pairs.slice(0, 25).map(([t, p, c, n]) => [e.names[t] || String(t), e.names[p] || String(p), `${c} of ${n} (${percent(c / n)})`]))));
  if (e.calibration && e.calibration.bins) made.push(el('div', { class: 'card' }, el('h3', {}, `Calibration: error ${percent(e.calibration.ece)}`), el('div', { class: 'small' }, 'How far stated confidence and real accuracy lie apart on average (ECE); 0 % is best. Bars above the dashed line are too modest, below it too sure.'), calibration(e.calibration)));
  return made.length + right.length ? el('div', { class: 'two more' }, [made, right].map((column) => (column.length ? el('div', { class: 'column' }, column) : null))) : null;
}

if (judged.length) {
  const detailed = judged.filter(({ e }) => (e.per_class && e.per_class.length) || e.confusion.length || e.pairs.length || e.calibration);
  let overall;
  if (one) {
    overall = table(['Protocol', 'Top-1', 'Top-5', 'Images', ''], runs[0].evaluations.map((e) => [
      el('td', {}, el('b', {}, e.title), el('div', { class: 'small' }, e.note), el('div', { class: 'small' }, e.settings)),
      el('td', {}, el('b', {}, percent(e.top1)), el('div', { class: 'small' }, interval(e)), range(e.top1, ...ends(e))),
      el('td', { class: 'n', 'data-title': 'Top-5' }, percent(e.top5)), el('td', { class: 'small' }, `${several(e.train_images, 'labelled image')}, ${e.test_images.toLocaleString('en-US')} to test, ${e.classes} classes`), el('td', { class: 'small date' }, String(e.date || '').slice(0, 10))]), [2]);
    overall.firstChild.classList.add('stack');
  } else {
    const questions = [...new Map(judged.map(({ e }) => [e.question, e]))];
    const with_ = runs.filter((r) => r.evaluations.length);
    overall = table(['Protocol', ...with_.map((r) => r.name)], questions.map(([q, first]) => {
      const found = with_.map((r) => r.evaluations.filter((e) => e.question === q).pop());
      const most = Math.max(...found.map((e) => (e ? e.top1 : -1)));
      return [el('td', {}, el('b', {}, first.title), el('div', { class: 'small' }, `${first.settings}; ${first.test_images.toLocaleString('en-US')} test images`)),
        ...found.map((e) => el('td', { class: e && e.top1 === most ? 'best' : '' }, e ? percent(e.top1) : '–', e ? el('div', { class: 'small' }, interval(e)) : null))];
    }));
  }
  const slot = el('div', {});
  const chooser = el('select', { 'aria-label': 'Evaluation in detail', id: 'detail', onchange: () => open(Number(chooser.value)) }, detailed.map(({ run, e }, i) => el('option', { value: i }, `${one ? '' : `${run.name}: `}${e.title}${e.settings ? ` (${e.settings})` : ''}`)));
  const open = (i) => { const { run, e } = detailed[i]; const made = details(run.name, e); slot.replaceChildren(...(made ? [made] : [])); };
  section('evaluation', 'How good it is', 'Accuracy on labelled images that the encoder was not trained on. Top‑1: the first answer is right. Top‑5: one of the first five is. Ranges hold the true value with 95 % confidence.',
    el('div', { class: 'card' }, overall), detailed.length ? [el('div', { class: 'tools more' }, el('span', { class: 'small' }, 'In detail'), chooser), slot] : null);
  if (detailed.length) open(0);
}

// ---------------------------------------------------------------- teacher and student

for (const run of runs.filter((r) => r.distillation && r.distillation.teacher && r.distillation.student)) {
  const d = run.distillation, t = d.teacher, s = d.student;
  const row = (title, a, b, share) => [title, a, b, share];
  section(`teacher-${links.length}`, 'Teacher and student', `The student learns to say what a larger, pretrained network says. Agreement on ${several(d.images, 'image')} of ${d.of}: mean cosine ${number(d.cosine, 3)} (1 is the same), and ${percent(d.overlap)} of the ten nearest neighbours are the same.`,
    el('div', { class: 'card' }, table([one ? '' : run.name, 'Teacher', 'Student', 'Student / teacher'], [
      row('Encoder', t.name, s.name, ''), row('Image size', `${t.image_size} px`, `${s.image_size} px`, ''), row('Numbers per image', String(t.dim), String(s.dim), ''),
      row('Parameters', `${number(t.parameters / 1e6, 3)} million`, `${number(s.parameters / 1e6, 3)} million`, percent(s.parameters / t.parameters)),
      row('GFLOP per image', number(t.gflops, 3), number(s.gflops, 3), percent(s.gflops / t.gflops)),
      row(`Images/s (${d.device})`, number(t.images_per_s, 3), number(s.images_per_s, 3), `${number(s.images_per_s / t.images_per_s, 3)} times`),
      ...Object.entries(d.kept || {}).map(([p, share]) => row(`${PROTOCOL[p] || p} top-1`, percent(t.accuracy[p]), percent(s.accuracy[p]), `${percent(share)} kept`)),
    ], [1, 2, 3])));
}

// ---------------------------------------------------------------- map and neighbours

const drawn = read('maps');
if (drawn.maps.length) {
  const sets = drawn.sets.map((s) => new Images(s)), made = new Map();
  const home = el('div', {}), sheet = el('div', {}), how = el('p', { class: 'note' });
  const open = (i) => {
    const content = drawn.maps[i], images = sets[content.images];
    if (!made.has(i)) { const map = new EmbeddingMap(content, images); made.set(i, { map, sheet: el('div', {}, neighbourSheet(map)) }); }
    const { map, sheet: rows } = made.get(i);
    home.replaceChildren(map.root);
    sheet.replaceChildren(rows);
    how.textContent = `Every dot is one of ${several(map.count, 'image')} of ${images.of}${map.count + content.left < images.all ? ` (drawn at random from ${images.all.toLocaleString('en-US')})` : ''}. Images that the encoder takes for alike lie near each other; directions and the distances between far groups mean nothing. Made by ${content.how}.${content.left ? ` ${several(content.left, 'image')} could not be read.` : ''}`;
  };
  const chooser = drawn.maps.length > 1 ? el('div', { class: 'tools' }, el('select', { 'aria-label': 'Run', id: 'which', onchange: (e) => open(Number(e.target.value)) }, drawn.maps.map((m, i) => el('option', { value: i }, m.run)))) : null;
  const here = section('map-section', 'Map of the images', null, how, chooser, home);
  links[links.length - 1][1] = 'Map';
  section('neighbours', 'Nearest neighbours', 'The first image of each row, and those whose features are most like its own.', sheet);
  links[links.length - 1][1] = 'Neighbours';
  open(0);
  for (const note of report.mapNotes) here.append(el('p', { class: 'small' }, `No map of ${note}`));
} else if (report.mapNotes.length) {
  section('map-section', 'Map of the images', 'There is none on this page:', report.mapNotes.map((note) => el('p', {}, note)), el('p', { class: 'small' }, 'Give images with lookalike report RUN --images FOLDER.'));
  links[links.length - 1][1] = 'Map';
}

// ---------------------------------------------------------------- pictures

// of a comparison's trainings the best one's
const shown = runs.filter((r) => r.shown);
if (shown.some((r) => r.pictures.length)) {
  section('pictures', 'What it sees', null, shown.filter((r) => r.pictures.length).map((run, i) => {
    const figures = run.pictures.map((p) => el('figure', { class: 'card' }, el('figcaption', {}, el('h3', {}, p.title), el('span', { class: 'small' }, p.note)), el('img', { src: p.url, alt: `${p.title}: ${p.note}` })));
    return shown.length === 1 ? [one ? null : el('p', { class: 'note' }, `Of ${run.name}.`), figures] : el('details', { open: i === 0 }, el('summary', {}, run.name), figures);
  }));
}

// ---------------------------------------------------------------- use

function code(title, text) {
  const button = el('button', { type: 'button', onclick: () => copy(text, button) }, 'Copy');
  return el('div', { class: 'code card' }, el('div', { class: 'head' }, el('h3', {}, title), button), el('pre', {}, text));
}
if (shown.length) {
  section('use', 'How to use it', 'The encoder turns an image into a vector; similar images get similar vectors.',
    shown.map((run, i) => {
      const both = [code('In Python', run.use.python), code('On the command line', run.use.shell)];
      return shown.length === 1 ? both : el('details', { open: i === 0 }, el('summary', {}, run.name), both);
    }));
}
main.append(el('footer', { class: 'small' }, 'This page holds all that it shows and loads nothing from a network.'));

// ---------------------------------------------------------------- bar

const dark = () => (document.documentElement.style.colorScheme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
const changed = () => { theme.textContent = dark() ? 'Light' : 'Dark'; for (const act of themed) act(); };
const theme = el('button', { type: 'button', id: 'theme', title: 'Switch between light and dark', onclick: () => {
  document.documentElement.style.colorScheme = dark() ? 'light' : 'dark';
  try { localStorage.setItem('lookalike-theme', document.documentElement.style.colorScheme); } catch { /* a browser that keeps nothing of files */ }
  changed();
} });
try { document.documentElement.style.colorScheme = localStorage.getItem('lookalike-theme') || ''; } catch { /* as above */ }
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
const anchors = links.map(([id, title]) => el('a', { href: `#${id}` }, title));
document.body.prepend(el('div', { class: 'bar' }, el('div', {}, el('nav', { 'aria-label': 'Contents' }, anchors), theme)), main);
changed();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const i = links.findIndex(([, , node]) => node === entry.target);
    if (entry.isIntersecting) anchors.forEach((a, n) => a.classList.toggle('here', n === i));
  }
}, { rootMargin: '-15% 0px -75% 0px' });
for (const [, , node] of links) watcher.observe(node);
