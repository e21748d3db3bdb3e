// The top of the page: verdict, main metrics and configuration.

const MARKS = {
  learning: ['good', '✓'],
  'not learning': ['bad', '!'],
  'getting worse': ['bad', '!'],
  collapsed: ['bad', '✕'],
  diverged: ['bad', '✕'],
};

function verdictCard(run) {
  const v = run.verdict;
  if (!v && run.classifies) return null; // a classifier is assessed by its test accuracy
  if (!v) {
    return el(
      'div',
      { class: 'card verdict' },
      el('div', { class: 'sign', 'aria-hidden': 'true' }, '?'),
      el(
        'p',
        {},
        el('span', { class: 'word' }, 'No verdict'),
        '. The training was too short, or the run has no training.',
      ),
    );
  }
  const [kind, sign] = MARKS[v.word] || ['', '?'];
  return el(
    'div',
    { class: `card verdict ${kind}` },
    el('div', { class: 'sign', 'aria-hidden': 'true' }, sign),
    el(
      'div',
      {},
      el('p', {}, 'Verdict: ', el('span', { class: 'word' }, v.word), v.meaning ? `. ${v.meaning}` : ''),
      v.why ? el('p', { class: 'small' }, el('b', {}, 'Reason: '), v.why) : null,
      v.remedy ? el('p', { class: 'small' }, el('b', {}, 'Try: '), v.remedy) : null,
    ),
  );
}

const factList = (found) =>
  el(
    'dl',
    { class: 'facts' },
    found.map(({ label, value }) => [el('dt', {}, label), el('dd', {}, value)]),
  );

function facts(run) {
  const more = run.facts.filter((f) => !f.main);
  return [
    factList(run.facts.filter((f) => f.main)),
    more.length ? el('details', {}, el('summary', {}, 'Views, options, machine and versions'), factList(more)) : null,
  ];
}

// The text of a citation, with its URL as a link; nothing is loaded until the link is followed.
const cited = (text) =>
  text
    .split(/(https:\/\/\S+)/)
    .map((part) => (part.startsWith('https://') ? el('a', { href: part, rel: 'noopener noreferrer' }, part) : part));

const FIRST = ['knn', 'linear', 'semi', 'finetune', 'logistic', 'linear-augmented'];

function tiles(run) {
  const newest = FIRST.map((p) => run.evaluations.filter((e) => e.protocol === p).pop()).filter(Boolean);
  const found = newest.slice(0, 3).map((e) => {
    const labels = e.protocol === 'semi' ? e.settings.split(',')[0] : '';
    const score = e.metrics.length ? 'mean average precision' : 'top‑1';
    return [e.title, percent(e.top1), [score, labels, interval(e)].filter(Boolean).join(', ')];
  });
  const curve = run.curves.series.knn_top1;
  if (curve && !found.length) {
    found.push(['k-NN accuracy', percent(curve.y[curve.y.length - 1]), `${percent(curve.y[0])} before training`]);
  }
  const auc = run.curves.series.pair_auc;
  if (auc) found.push(['Pair AUC', percent(auc.y[auc.y.length - 1]), 'positive against negative pairs; chance 50 %']);
  const speed = run.curves.series.images_per_s;
  if (speed) {
    const sorted = [...speed.y].sort((a, b) => a - b);
    found.push(['Speed', `${number(sorted[sorted.length >> 1], 3)}`, 'training images per second']);
  }
  if (found.length < 2) return null;
  return el(
    'div',
    { class: 'tiles' },
    found
      .slice(0, 4)
      .map(([title, value, note]) =>
        el(
          'div',
          { class: 'card tile' },
          el('div', { class: 'small' }, title),
          el('b', {}, value),
          el('div', { class: 'small' }, note),
        ),
      ),
  );
}

function runTable(list) {
  const fact = (run, label) => (run.facts.find((f) => f.label === label) || {}).value || '–';
  const rows = list.map((run) => {
    const [kind, sign] = MARKS[run.verdict && run.verdict.word] || ['', '–'];
    const verdict = `${sign} ${run.verdict ? run.verdict.word : ''}`;
    return [
      run.name,
      run.method || '–',
      fact(run, 'Backbone').split(/,? \(|, /)[0],
      fact(run, 'Epochs'),
      fact(run, 'Speed').replace(' (median)', ''),
      el('td', { class: 'date' }, el('span', { css: { color: kind ? `var(--${kind})` : '' } }, verdict)),
    ];
  });
  return [
    el('div', { class: 'card' }, table(['Run', 'Method', 'Backbone', 'Epochs', 'Speed', 'Verdict'], rows, [], true)),
    list.map((run) =>
      el(
        'details',
        {},
        el('summary', {}, `Details of ${run.name}`),
        verdictCard(run),
        el('div', { class: 'card' }, run.paper ? el('p', { class: 'small' }, cited(run.paper)) : null, facts(run)),
      ),
    ),
  ];
}
