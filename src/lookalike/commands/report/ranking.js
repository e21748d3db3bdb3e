// A comparison: the ranking, with the untrained network below it.

const PROTOCOL = {
  knn: 'k-NN',
  linear: 'Linear',
  'linear-augmented': 'Linear, augmented',
  logistic: 'Logistic',
  semi: 'Few labels',
  finetune: 'Fine-tuned',
  retrieval: 'Retrieval recall@1',
  'label-free': 'Label-free recall@1',
};
const protocolTitle = (p) =>
  PROTOCOL[p] || p.replace(/^semi(\S*) (.*)$/, (_, how, fraction) => `${fraction} of labels${how.replace('-', ', ')}`);
const lastPart = (path) => String(path).split(/[\\/]/).filter(Boolean).slice(-2).join('/');

// The untrained network's score: top-1 by a protocol, mean over tests.
function untrainedScore(untrained, protocol) {
  const tests = Object.values((untrained || {})[protocol] || {}).filter((t) => t && known(t.top1));
  if (!tests.length) return { y: null, low: null, high: null };
  const complete = tests.every((t) => t.interval && t.interval.length === 2);
  const end = (side) => (complete ? mean(tests.map((t) => t.interval[side])) : null);
  return { y: mean(tests.map((t) => t.top1)), low: end(0), high: end(1) };
}

function scoreCell(value, low, high) {
  return el(
    'td',
    {},
    percent(value),
    known(low) && known(high) ? el('div', { class: 'small date' }, `${percent(low)} to ${percent(high)}`) : null,
    known(value) ? range(value, low, high) : null,
  );
}

// The [protocol, test] pairs of a ranking.
function rankedTests(ranking) {
  const found = [];
  for (const { results } of ranking) {
    for (const [protocol, tests] of Object.entries(results || {})) {
      for (const test of Object.keys(tests)) {
        if (!found.some(([p, t]) => p === protocol && t === test)) found.push([protocol, test]);
      }
    }
  }
  return found;
}

function rankingTable(found, ranking) {
  const tests = rankedTests(ranking),
    manyTests = new Set(tests.map(([, test]) => test)).size > 1;
  const result = (r, [protocol, test]) => ((r.results || {})[protocol] || {})[test] || null;
  const best = tests.map((q) => Math.max(...ranking.map((r) => (result(r, q) || { mean: -1 }).mean ?? -1)));
  // costs that no method has, such as the memory on some systems, get no column
  const costs = [
    ['Epochs', (r) => r.epochs, (v) => number(v, 4)],
    ['Time', (r) => r.seconds, duration],
    ['Images/s', (r) => r.images_per_s, (v) => number(v, 3)],
    ['Memory', (r) => r.peak_memory_gib, (v) => `${number(v, 3)} GiB`],
    ['GFLOP/image', (r) => r.gflops_per_image, (v) => number(v, 3)],
    ['Energy', (r) => r.energy_kj, (v) => `${number(v, 3)} kJ`],
  ].filter(([, get]) => ranking.some((r) => known(get(r))));
  const method = (r, i) =>
    el(
      'td',
      {},
      el('b', { class: 'date' }, `${i + 1}. ${r.method}`),
      r.seeds > 1 ? el('div', { class: 'small' }, counted(r.seeds, 'seed')) : null,
      r.stable === false ? el('div', { class: 'small alert' }, 'unstable') : null,
      r.remark ? el('div', { class: 'small remark' }, r.remark) : null,
    );
  const accuracy = (v, isBest) =>
    el(
      'td',
      { class: isBest ? 'n best' : 'n' },
      v ? percent(v.mean) : '–',
      v && v.deviation ? el('div', { class: 'small' }, `± ${percent(v.deviation)}`) : null,
    );
  const rows = ranking.map((r, i) => [
    method(r, i),
    scoreCell(r.score, r.low, r.high),
    ...tests.map((q, n) => accuracy(result(r, q), result(r, q) && result(r, q).mean === best[n])),
    ...costs.map(([, get, text]) => (known(get(r)) ? text(get(r)) : '–')),
  ]);
  const base = untrainedScore(found.untrained, tests.length ? tests[0][0] : '');
  if (found.untrained_range && found.untrained_range.length === 2) [base.low, base.high] = found.untrained_range;
  if (known(base.y)) {
    const top1 = ([protocol, test]) => (((found.untrained || {})[protocol] || {})[test] || {}).top1;
    rows.push([
      el('td', {}, 'untrained', el('div', { class: 'small' }, 'the network before training')),
      scoreCell(base.y, base.low, base.high),
      ...tests.map((q) => percent(top1(q))),
      ...costs.map(() => '–'),
    ]);
  }
  const title = ([protocol, test]) => `${protocolTitle(protocol)}${manyTests ? `, ${lastPart(test)}` : ''}`;
  const content = table(
    ['Method', 'Score', ...tests.map(title), ...costs.map(([name]) => name)],
    rows,
    [...tests, ...costs].map((_, i) => i + 2),
    true,
  );
  content.firstChild.classList.add('ranking');
  if (known(base.y)) content.querySelector('tbody').lastChild.classList.add('untrained');
  return content;
}

// What was equal for all methods, and how to read scores and ranges.
function rankingNote(found, ranking, first) {
  const budget = found.budget || {};
  const equal = [
    `backbone ${found.backbone}`,
    'training images',
    budget.minutes ? `${counted(Number(number(budget.minutes, 3)), 'minute')} of training` : null,
    budget.epochs ? counted(budget.epochs, 'epoch') : null,
    found.seeds ? counted(found.seeds.length, 'seed') : null,
  ]
    .filter(Boolean)
    .join(', ');
  const score = first ? ` Score: top‑1 by ${protocolTitle(first)}, mean over tests and seeds.` : '';
  let ranges = '';
  if (ranking.length && !known(found.error_rate)) {
    // version 0.1 stored no error rate, and computed the range of each method separately
    ranges =
      ' Ranges are from version 0.1, separate for each method: they differ by chance too often. ' +
      'Repeat the command to recompute them.';
  } else if (Math.max(...ranking.map((r) => r.seeds || 1)) > 1) {
    ranges =
      ' Methods whose ranges overlap are not significantly different. If all methods are equally good, at least one ' +
      `is called worse in at most ${percent(found.error_rate, 0)} of comparisons.`;
  } else if (ranking.length) {
    ranges = ' Ranges cover the test images only: with one seed, no method is shown to be better than another.';
  }
  return `Equal for all methods: ${equal}.${score}${ranges}`;
}

function showComparison(found, index) {
  const ranking = found.ranking || [],
    trainings = found.trainings || [],
    timed = (found.budget || {}).minutes;
  const own = runs.filter((run) => run.of === index);
  const first = ranking.length ? Object.keys(ranking[0].results || {})[0] || '' : '';
  const failed = trainings.filter((t) => t.status === 'failed'),
    waiting = trainings.filter((t) => t.status === 'waiting');
  const base = untrainedScore(found.untrained, first).y;
  const group = (method) => report.groups.findIndex((g) => g.of === index && g.method === method);
  const points = ranking
    .filter((r) => known(r.score))
    .map((r, n) => ({
      name: r.method,
      x: known(r.seconds) ? r.seconds / 60 : null,
      y: r.score,
      low: r.low,
      high: r.high,
      i: group(r.method) < 0 ? n : group(r.method),
    }));
  const card = (id, title, note, content) =>
    el(
      'div',
      { class: 'card more', id: id ? `${id}-${index}` : null },
      el('h3', {}, title),
      note ? el('div', { class: 'small' }, note) : null,
      content,
    );
  const content = [];
  if (found.recommendation) {
    content.push(
      el(
        'div',
        { class: 'card big recommendation' },
        el('h3', {}, 'Recommendation for these images'),
        el('p', {}, found.recommendation),
      ),
    );
  }
  if (ranking.length) content.push(el('div', { class: 'card more' }, rankingTable(found, ranking)));
  const withTime = points.filter((p) => known(p.x));
  if (timed && points.length > 1) {
    content.push(
      card('dots', 'Scores with ranges', 'All methods had the same time budget.', dots(points, 'score', base)),
    );
  } else if (!timed && withTime.length > 1) {
    const note =
      'Upper left is better: a higher score in less training time. Vertical lines are the ranges of the scores.';
    content.push(
      card(
        'scatter',
        'Score and training time',
        note,
        scatter(withTime, 'training time (minutes)', 'score', (t) => number(t, 3), base),
      ),
    );
  }
  if (failed.length) {
    const rows = failed.map((t) => [t.method, String(t.seed), t.error || 'no reason recorded']);
    content.push(
      el(
        'div',
        { class: 'card more words' },
        el('h3', {}, 'Failed trainings'),
        table(['Method', 'Seed', 'Reason'], rows, [], true),
      ),
    );
  }
  if (own.length) {
    content.push(
      el(
        'details',
        { class: 'more' },
        el('summary', {}, `All ${counted(own.length, 'training')}, with verdicts and configuration`),
        runTable(own),
      ),
    );
  }
  if (waiting.length) {
    const names = waiting.map((t) => `${t.method} (seed ${t.seed})`).join(', ');
    content.push(el('p', { class: 'small more' }, `Not trained yet: ${names}. Repeat the command to continue.`));
  }
  const name = report.comparisons.length > 1 ? ` of ${found.name}` : '';
  section(`comparison-${index}`, `Ranking${name}`, rankingNote(found, ranking, first), content);
}
