// What stands at the top: the verdict, the most important figures, the facts.

const MARKS = {
  learning: ['good', '✓'], 'not learning': ['bad', '!'], 'getting worse': ['bad', '!'], collapsed: ['bad', '✕'], diverged: ['bad', '✕'],
};

function verdictCard(run) {
  const v = run.verdict;
  if (!v && run.classifies) return null; // its test says how good it is
  if (!v) return el('div', { class: 'card verdict' }, el('div', { class: 'sign' }, '?'), el('div', {}, el('p', {}, el('span', { class: 'word' }, 'No verdict'), ' – the run is not far enough, or has no training of its own.')));
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

const FIRST = ['knn', 'linear', 'semi', 'finetune', 'logistic', 'linear-augmented'];

function tiles(run) {
  const newest = FIRST.map((p) => run.evaluations.filter((e) => e.protocol === p).pop()).filter(Boolean);
  const found = newest.slice(0, 3).map((e) => [e.title, percent(e.top1), [e.protocol === 'semi' ? e.settings.split(',')[0] : '', interval(e)].filter(Boolean).join('; ')]);
  const curve = run.curves.series.knn_top1;
  if (curve && !found.length) found.push(['k-NN in training', percent(curve.y[curve.y.length - 1]), `${percent(curve.y[0])} at first`]);
  const auc = run.curves.series.pair_auc;
  if (auc) found.push(['Pair AUC', percent(auc.y[auc.y.length - 1]), 'positive against negative pairs; chance 50 %']);
  const speed = run.curves.series.images_per_s;
  if (speed) { const sorted = [...speed.y].sort((a, b) => a - b); found.push(['Speed', `${number(sorted[sorted.length >> 1], 3)}`, 'training images per second']); }
  if (found.length < 2) return null;
  return el('div', { class: 'tiles' }, found.slice(0, 4).map(([title, value, note]) => el('div', { class: 'card tile' }, el('div', { class: 'small' }, title), el('b', {}, value), el('div', { class: 'small' }, note))));
}

function runTable(list) {
  const fact = (run, label) => (run.facts.find((f) => f.label === label) || {}).value || '–';
  return [el('div', { class: 'card' }, table(['Run', 'Method', 'Backbone', 'Epochs', 'Speed', 'Verdict'], list.map((run) => {
    const [kind, sign] = MARKS[run.verdict && run.verdict.word] || ['', '–'];
    return [run.name, run.method || '–', fact(run, 'Backbone').split(/,? \(|, /)[0], fact(run, 'Epochs'), fact(run, 'Speed').replace(' (median)', ''), el('td', { class: 'date' }, el('span', { css: { color: kind ? `var(--${kind})` : '' } }, `${sign} ${run.verdict ? run.verdict.word : ''}`))];
  }), [], true)), list.map((run) => el('details', {}, el('summary', {}, `All about ${run.name}`), verdictCard(run), el('div', { class: 'card' }, run.paper ? el('p', { class: 'small' }, cited(run.paper)) : null, facts(run))))];
}
