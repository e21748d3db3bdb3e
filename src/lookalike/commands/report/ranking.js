// A comparison: the ranking, with the untrained network below it, and what it rests on.

const PROTOCOL = { knn: 'k-NN', linear: 'Linear', 'linear-augmented': 'Linear, augmented', logistic: 'Logistic', semi: 'Few labels', finetune: 'Fine-tuned', retrieval: 'Retrieval' };
const protocolWords = (p) => PROTOCOL[p] || p.replace(/^semi(\S*) (.*)$/, (_, how, share) => `${share} of labels${how.replace('-', ', ')}`);
const lastPart = (path) => String(path).split(/[\\/]/).filter(Boolean).slice(-2).join('/');

// The untrained network's score as the ranking counts it: top-1 by a protocol, the mean over tests.
function untrainedScore(untrained, protocol) {
  const tests = Object.values((untrained || {})[protocol] || {}).filter((t) => t && known(t.top1));
  if (!tests.length) return { y: null, low: null, high: null };
  const whole = tests.every((t) => t.interval && t.interval.length === 2);
  return { y: mean(tests.map((t) => t.top1)), low: whole ? mean(tests.map((t) => t.interval[0])) : null, high: whole ? mean(tests.map((t) => t.interval[1])) : null };
}

function scoreCell(value, low, high) {
  return el('td', {}, percent(value), known(low) && known(high) ? el('div', { class: 'small date' }, `${percent(low)} to ${percent(high)}`) : null, known(value) ? range(value, low, high) : null);
}

function rankingTable(found, ranking) {
  const protocols = [];
  const add = (results) => { for (const [p, tests] of Object.entries(results || {})) for (const t of Object.keys(tests)) if (!protocols.some(([a, b]) => a === p && b === t)) protocols.push([p, t]); };
  for (const r of ranking) add(r.results);
  const manyTests = new Set(protocols.map(([, t]) => t)).size > 1, result = (r, [p, t]) => ((r.results || {})[p] || {})[t] || null;
  const best = protocols.map((q) => Math.max(...ranking.map((r) => (result(r, q) || { mean: -1 }).mean ?? -1)));
  // what no method has, such as the memory of a CPU, takes no column
  const costs = [
    ['Epochs', (r) => r.epochs, (v) => number(v, 4)], ['Time', (r) => r.seconds, duration], ['Images/s', (r) => r.images_per_s, (v) => number(v, 3)],
    ['Memory', (r) => r.peak_memory_gib, (v) => `${number(v, 3)} GiB`], ['GFLOP / image', (r) => r.gflops_per_image, (v) => number(v, 3)],
  ].filter(([, get]) => ranking.some((r) => known(get(r))));
  const rows = ranking.map((r, i) => [
    el('td', {}, el('b', { class: 'date' }, `${i + 1}. ${r.method}`), r.seeds > 1 ? el('div', { class: 'small' }, several(r.seeds, 'seed')) : null,
      r.stable === false ? el('div', { class: 'small alert' }, 'not stable') : null, r.remark ? el('div', { class: 'small remark' }, r.remark) : null),
    scoreCell(r.score, r.low, r.high),
    ...protocols.map((q, n) => { const v = result(r, q); return el('td', { class: v && v.mean === best[n] ? 'n best' : 'n' }, v ? percent(v.mean) : '–', v && v.deviation ? el('div', { class: 'small' }, `± ${percent(v.deviation)}`) : null); }),
    ...costs.map(([, get, words]) => (known(get(r)) ? words(get(r)) : '–')),
  ]);
  const base = untrainedScore(found.untrained, protocols.length ? protocols[0][0] : '');
  if (found.untrained_range && found.untrained_range.length === 2) [base.low, base.high] = found.untrained_range;
  if (known(base.y)) rows.push([el('td', {}, 'untrained', el('div', { class: 'small' }, 'the network before any training')), scoreCell(base.y, base.low, base.high),
    ...protocols.map(([p, t]) => { const v = ((found.untrained || {})[p] || {})[t]; return v ? percent(v.top1) : '–'; }), ...costs.map(() => '–')]);
  const made = table(['Method', 'Score', ...protocols.map(([p, t]) => (manyTests ? `${protocolWords(p)}, ${lastPart(t)}` : protocolWords(p))), ...costs.map(([title]) => title)], rows,
    [...protocols, ...costs].map((_, i) => i + 2), true);
  made.firstChild.classList.add('ranking');
  if (known(base.y)) made.querySelector('tbody').lastChild.classList.add('untrained');
  return made;
}

function showComparison(found, index) {
  const ranking = found.ranking || [], trainings = found.trainings || [], budget = found.budget || {}, own = runs.filter((run) => run.of === index);
  const equal = [`the backbone ${found.backbone}`, 'the same images', budget.minutes ? `${number(budget.minutes, 3)} minute${budget.minutes === 1 ? '' : 's'} of training each` : budget.epochs ? `${budget.epochs} epochs each` : null, found.seeds ? several(found.seeds.length, 'seed') : null].filter(Boolean).join(', ');
  const first = ranking.length ? Object.keys(ranking[0].results || {})[0] || '' : '';
  const failed = trainings.filter((t) => t.status === 'failed'), waiting = trainings.filter((t) => t.status === 'waiting');
  const base = untrainedScore(found.untrained, first).y, group = (method) => report.groups.findIndex((g) => g.of === index && g.method === method);
  const points = ranking.filter((r) => known(r.score)).map((r, n) => ({ name: r.method, x: r.seconds / 60, timed: known(r.seconds), y: r.score, low: r.low, high: r.high, i: group(r.method) < 0 ? n : group(r.method) }));
  const timed = points.filter((p) => p.timed), energy = trainings.filter((t) => t.energy_kj);
  const words = first ? ` The score is top‑1 by ${protocolWords(first)}, the mean over tests and seeds;` : ' The score';
  const where = report.comparisons.length > 1 ? ` of ${found.name}` : '';
  const seeds = Math.max(...ranking.map((r) => r.seeds || 1));
  // version 0.1 wrote no error rate: its ranges are those of each method by itself
  const ranges = !ranking.length ? '' : !known(found.error_rate) ? 'Its ranges are version 0.1’s, of each method by itself, and differ by chance too often; the same command computes them anew.'
    : seeds > 1 ? `Methods whose ranges overlap are not significantly different. Of methods that are all equal, one or more is called worse in at most ${percent(found.error_rate, 0)} of comparisons.`
      : 'Its ranges are those of the test images alone: with one seed no method is shown to be better than another.';
  section(`comparison-${index}`, `Ranking${where}`, `Equal for all: ${equal}.${words} the ranking sorts by it. ${ranges}`,
    found.recommendation ? el('div', { class: 'card big recommendation' }, el('h3', {}, 'Recommendation for this data'), el('p', {}, found.recommendation)) : null,
    ranking.length ? el('div', { class: 'card more' }, rankingTable(found, ranking)) : null,
    points.length > 1 && budget.minutes ? el('div', { class: 'card more', id: `dots-${index}` }, el('h3', {}, 'Scores with their ranges'), el('div', { class: 'small' }, 'All had the same time.'), dots(points, 'score', base)) : null,
    timed.length > 1 && !budget.minutes ? el('div', { class: 'card more', id: `scatter-${index}` }, el('h3', {}, 'Score against time'), el('div', { class: 'small' }, 'Up and to the left is better: a higher score in less training time. Lines are the range of the score.'), scatter(timed, 'training time in minutes', 'score', (t) => number(t, 3), base)) : null,
    energy.length ? el('p', { class: 'small more' }, `Energy: ${energy.map((t) => `${t.method} (seed ${t.seed}) ${number(t.energy_kj, 3)} kJ`).join(', ')}.`) : null,
    failed.length ? el('div', { class: 'card more words' }, el('h3', {}, 'What failed'), table(['Method', 'Seed', 'Why'], failed.map((t) => [t.method, String(t.seed), t.error || 'no reason was written']), [], true)) : null,
    own.length ? el('details', { class: 'more' }, el('summary', {}, `All ${several(own.length, 'training')}, with verdicts and settings`), runTable(own)) : null,
    waiting.length ? el('p', { class: 'small more' }, `Not trained yet: ${waiting.map((t) => `${t.method} (seed ${t.seed})`).join(', ')}. The same command goes on.`) : null);
}
