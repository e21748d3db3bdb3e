// Evaluations: accuracies, other metrics, and details of one evaluation.

const interval = (e) => (e.interval ? `${percent(e.interval[0])} to ${percent(e.interval[1])}` : '');
const repeats = (e) => counted(e.draws, e.protocol === 'semi' ? 'draw' : 'seed');
const deviation = (e) => (known(e.deviation) ? `± ${percent(e.deviation)} over ${repeats(e)}` : '');
const joined = (...parts) => parts.filter(Boolean).join(', ');
const sizes = (e) =>
  joined(
    e.train_images ? counted(e.train_images, 'labelled image') : '',
    counted(e.test_images, 'test image'),
    e.classes ? counted(e.classes, 'class') : '',
  );

function classAccuracies(e) {
  const items = e.per_class
    .map((v, i) => [e.names[i] || `class ${i}`, v])
    .filter(([, v]) => v !== null)
    .sort((a, b) => a[1] - b[1]);
  const rows = (list) => bars(list.map(([name, v]) => [name, v, percent(v)]));
  const box = el('div', {}, rows(items.slice(0, 24)));
  const showAll = () => {
    box.replaceChildren(rows(items));
    button.remove();
  };
  const button = el('button', { type: 'button', class: 'more', onclick: showAll }, `Show all ${items.length} classes`);
  return el(
    'div',
    { class: 'card' },
    el('h3', {}, 'Accuracy by class'),
    el('div', { class: 'small' }, 'Fraction of each class’s test images classified correctly, lowest first.'),
    el('div', { class: 'more' }, box),
    items.length > 24 ? button : null,
  );
}

function details(e) {
  const left = [],
    right = [];
  const over = e.draws > 1 ? `Counts are means over ${repeats(e)}.` : '';
  if (e.per_class && e.per_class.length) left.push(classAccuracies(e));
  if (e.confusion.length) {
    const note = `Rows: true class. Columns: predicted class. Blue: correct. Orange: wrong. ${over}`;
    right.push(
      el(
        'div',
        { class: 'card' },
        el('h3', {}, 'Confusion matrix'),
        el('div', { class: 'small' }, note),
        confusionMatrix(e.names, e.confusion),
      ),
    );
  }
  if (e.pairs.length && (!e.confusion.length || e.names.length > 12)) {
    const rows = e.pairs
      .slice(0, 25)
      .map(([t, p, c, n]) => [
        e.names[t] || String(t),
        e.names[p] || String(p),
        el('td', { class: 'date' }, `${number(c, 3)} of ${number(n, 3)} (${percent(c / n)})`),
      ]);
    right.push(
      el(
        'div',
        { class: 'card words' },
        el('h3', {}, 'Most frequent confusions'),
        over ? el('div', { class: 'small' }, over) : null,
        table(['True class', 'Predicted', 'Images'], rows),
      ),
    );
  }
  if (e.calibration && e.calibration.bins.length) {
    const error = known(e.calibration.ece) ? `: error ${percent(e.calibration.ece)}` : '';
    const note =
      'Error (ECE): mean difference between confidence and accuracy; 0 % is best. ' +
      'Bars above the dashed line are underconfident, below it overconfident.';
    left.push(
      el(
        'div',
        { class: 'card' },
        el('h3', {}, `Calibration${error}`),
        el('div', { class: 'small' }, note),
        calibration(e.calibration),
      ),
    );
  }
  const columns = [left, right]
    .filter((column) => column.length)
    .map((column) => el('div', { class: 'column' }, column));
  return columns.length ? el('div', { class: 'two more' }, columns) : null;
}

// The accuracies of a single run, one row each.
function runAccuracies(entries) {
  const small = (text) => el('div', { class: 'small' }, text);
  const rows = entries.map((e) => [
    el('td', {}, el('b', {}, e.title), small(e.note), small(e.settings)),
    el(
      'td',
      {},
      el('b', {}, percent(e.top1)),
      known(e.baseline) ? small(`untrained: ${percent(e.baseline)}`) : null,
      small(interval(e)),
      small(deviation(e)),
      range(e.top1, ...(e.interval || [null, null])),
    ),
    percent(e.top5),
    el('td', { class: 'small' }, sizes(e)),
    el('td', { class: 'small date' }, e.date.slice(0, 10) || '–'),
  ]);
  return table(['Protocol', 'Top‑1', 'Top‑5', 'Images', 'Date'], rows, [2], true);
}

// One row per run or method, one column per protocol and test; `rows` are [name, runs].
function accuracyTable(heading, rows, questions) {
  const latest = (run, question) => run.evaluations.filter((e) => e.question === question).pop();
  const entries = rows.map(([, list]) => questions.map(([q]) => list.map((run) => latest(run, q)).filter(Boolean)));
  const value = (found) => (found.length ? mean(found.map((e) => e.top1)) : null);
  const best = questions.map((_, n) => Math.max(...entries.map((row) => value(row[n]) ?? -1)));
  const spread = (found) => {
    if (!found.length) return '';
    if (found.length === 1) return joined(interval(found[0]), deviation(found[0]));
    const top1 = found.map((e) => e.top1);
    return `${percent(Math.min(...top1))} to ${percent(Math.max(...top1))}, ${counted(found.length, 'training')}`;
  };
  const cell = (found, n) =>
    el(
      'td',
      { class: found.length && value(found) === best[n] ? 'best' : null },
      percent(value(found)),
      spread(found) ? el('div', { class: 'small' }, spread(found)) : null,
    );
  const unique = (e) => questions.filter(([, other]) => other.title === e.title).length === 1;
  const heads = questions.map(([, e]) =>
    el(
      'th',
      { 'data-title': unique(e) ? e.title : joined(e.title, e.settings) },
      el('span', {}, e.title),
      el('div', { class: 'small' }, joined(e.settings, counted(e.test_images, 'test image'))),
    ),
  );
  return table(
    [heading, ...heads],
    rows.map(([name], i) => [el('b', {}, name), ...entries[i].map(cell)]),
    [],
    true,
  );
}

function accuracies(entries) {
  const evaluated = runs.filter((run) => entries.some((entry) => entry.run === run)),
    byRun = evaluated.map((run) => [run.name, [run]]);
  const questions = [...new Map(entries.map(({ e }) => [e.question, e]))];
  const members = (g) => evaluated.filter((run) => run.group === g);
  const byMethod = report.groups.map((group, g) => [group.name, members(g)]).filter(([, list]) => list.length);
  if (byMethod.length === byRun.length) return accuracyTable('Run', byRun, questions);
  return [
    el('div', { class: 'small' }, 'Mean over the trainings of a method, with minimum and maximum.'),
    accuracyTable('Method', byMethod, questions),
    el(
      'details',
      {},
      el('summary', {}, `All ${counted(byRun.length, 'training')}`),
      accuracyTable('Run', byRun, questions),
    ),
  ];
}

// Metrics other than accuracy: one table per protocol, with an explanation of each metric.
function otherMetrics(entries) {
  return [...new Set(entries.map(({ e }) => e.protocol))].map((protocol) => {
    const rows = entries.filter(({ e }) => e.protocol === protocol);
    // the entry with most metrics first: it has the order of the page, and older entries lack some
    const fullest = [...rows].sort((a, b) => b.e.metrics.length - a.e.metrics.length);
    const columns = [...new Map(fullest.flatMap(({ e }) => e.metrics.map((m) => [m.title, m])))];
    const value = (e, title) => {
      const metric = e.metrics.find((m) => m.title === title);
      return metric ? formatted(metric.value, metric.kind) : '–';
    };
    const cells = rows.map(({ run, e }) => [
      el('td', {}, one ? null : el('b', {}, run.name), el('div', { class: 'small' }, joined(e.settings, sizes(e)))),
      ...columns.map(([title]) => value(e, title)),
    ]);
    const content = table(
      [one ? '' : 'Run', ...columns.map(([title]) => title)],
      cells,
      columns.map((_, i) => i + 1),
      true,
    );
    const notes = columns.map(([title, metric]) => el('div', {}, el('b', {}, `${title}: `), metric.note));
    const { title, note } = rows[0].e;
    return el(
      'div',
      { class: 'card more', id: `metrics-${protocol}` },
      el('h3', {}, title),
      el('div', { class: 'small' }, note),
      rows.length > 12 ? el('details', {}, el('summary', {}, counted(rows.length, 'training')), content) : content,
      el('div', { class: 'small more' }, notes),
    );
  });
}

function showEvaluation() {
  const all = runs.flatMap((run) => run.evaluations.map((e) => ({ run, e })));
  if (!all.length) return;
  const classified = all.filter(({ e }) => !e.metrics.length),
    others = all.filter(({ e }) => e.metrics.length);
  const detailed = classified.filter(
    ({ run, e }) => run.shown && (e.per_class.length || e.confusion.length || e.pairs.length || e.calibration),
  );
  const slot = el('div', {});
  const open = (i) => put(slot, details(detailed[i].e));
  const options = detailed.map(({ run, e }, i) =>
    el('option', { value: i }, `${one ? '' : `${run.name}: `}${e.title}${e.settings ? ` (${e.settings})` : ''}`),
  );
  const chooser = el(
    'select',
    { 'aria-label': 'Evaluation shown in detail', id: 'detail', onchange: () => open(Number(chooser.value)) },
    options,
  );
  const note =
    'Accuracy on labelled test images. Top‑1: the first prediction is correct. Top‑5: one of the first five is. ' +
    'Ranges are 95 % confidence intervals.';
  section(
    'evaluation',
    'Evaluation',
    classified.length ? note : null,
    classified.length
      ? el('div', { class: 'card' }, one ? runAccuracies(classified.map(({ e }) => e)) : accuracies(classified))
      : null,
    otherMetrics(others),
    detailed.length
      ? [el('div', { class: 'tools more' }, el('span', { class: 'small' }, 'Details of'), chooser), slot]
      : null,
  );
  if (detailed.length) open(0);
}
