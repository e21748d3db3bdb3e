// How good runs are: accuracies, other figures, and the details of an evaluation.

const interval = (e) => (e.interval ? `${percent(e.interval[0])} to ${percent(e.interval[1])}` : '');
const drawn = (e) => (e.protocol === 'semi' ? 'draw' : 'seed');
const deviation = (e) => (known(e.deviation) ? `± ${percent(e.deviation)} over ${several(e.draws, drawn(e))}` : '');
const over = (e) => (e.draws > 1 ? ` Counts are the mean of ${several(e.draws, drawn(e))}.` : '');
const joined = (...parts) => parts.filter(Boolean).join(', ');
const sized = (e) => joined(e.train_images ? several(e.train_images, 'labelled image') : '', known(e.test_images) ? `${e.test_images.toLocaleString('en-US')} to test` : '', e.classes === 1 ? '1 class' : e.classes ? `${e.classes} classes` : '');

function details(e) {
  const made = [], right = [];
  if (e.per_class && e.per_class.length) {
    const items = e.per_class.map((v, i) => [e.names[i] || `class ${i}`, v]).filter(([, v]) => v !== null).sort((a, b) => a[1] - b[1]);
    const rows = (list) => bars(list.map(([n, v]) => [n, v, percent(v)]));
    const box = el('div', {}, rows(items.slice(0, 24)));
    const all = items.length > 24 ? el('button', { type: 'button', class: 'more', onclick: () => { box.replaceChildren(rows(items)); all.remove(); } }, `Show all ${items.length} classes`) : null;
    made.push(el('div', { class: 'card' }, el('h3', {}, 'Class by class'), el('div', { class: 'small' }, 'Share of each class’s test images that are named rightly, worst first.'), el('div', { class: 'more' }, box), all));
  }
  if (e.confusion.length) right.push(el('div', { class: 'card' }, el('h3', {}, 'What is taken for what'), el('div', { class: 'small' }, `Rows are true classes, columns what was answered. Blue is right, orange is wrong.${over(e)}`), confusionMatrix(e.names, e.confusion)));
  if (e.pairs.length && (e.names.length > 40 || !e.confusion.length || e.names.length > 12)) right.push(el('div', { class: 'card words' }, el('h3', {}, 'Most often confused'), e.draws > 1 ? el('div', { class: 'small' }, over(e).trim()) : null, table(['True', 'Taken for', 'Images'], e.pairs.slice(0, 25).map(([t, p, c, n]) => [e.names[t] || String(t), e.names[p] || String(p), el('td', { class: 'date' }, `${number(c, 3)} of ${number(n, 3)} (${percent(c / n)})`)]))));
  if (e.calibration && e.calibration.bins.length) made.push(el('div', { class: 'card' }, el('h3', {}, `Calibration${known(e.calibration.ece) ? `: error ${percent(e.calibration.ece)}` : ''}`), el('div', { class: 'small' }, 'How far stated confidence and real accuracy lie apart on average (ECE); 0 % is best. Bars above the dashed line are too modest, below it too sure.'), calibration(e.calibration)));
  return made.length + right.length ? el('div', { class: 'two more' }, [made, right].map((column) => (column.length ? el('div', { class: 'column' }, column) : null))) : null;
}

// A run's accuracies, one row each.
function ownAccuracies(entries) {
  return table(['Protocol', 'Top‑1', 'Top‑5', 'Images', 'Date'], entries.map((e) => [
    el('td', {}, el('b', {}, e.title), el('div', { class: 'small' }, e.note), el('div', { class: 'small' }, e.settings)),
    el('td', {}, el('b', {}, percent(e.top1)), known(e.baseline) ? el('div', { class: 'small' }, `untrained: ${percent(e.baseline)}`) : null, el('div', { class: 'small' }, interval(e)), el('div', { class: 'small' }, deviation(e)), range(e.top1, ...(e.interval || [null, null]))),
    percent(e.top5), el('td', { class: 'small' }, sized(e)), el('td', { class: 'small date' }, e.date.slice(0, 10) || '–')]), [2], true);
}

// One row per run or per method, one column per question; `rows` are [name, runs].
function sideBySide(rows, questions) {
  const answers = rows.map(([, list]) => questions.map(([q]) => list.map((r) => r.evaluations.filter((e) => e.question === q).pop()).filter(Boolean)));
  const value = (found) => (found.length ? mean(found.map((e) => e.top1)) : null);
  const best = questions.map((_, n) => Math.max(...answers.map((a) => value(a[n]) ?? -1)));
  const cell = (found, n) => {
    const top1 = found.map((e) => e.top1);
    const small = found.length > 1 ? `${percent(Math.min(...top1))} to ${percent(Math.max(...top1))}, ${several(found.length, 'training')}` : found.length ? joined(interval(found[0]), deviation(found[0])) : '';
    return el('td', { class: found.length && value(found) === best[n] ? 'best' : null }, percent(value(found)), small ? el('div', { class: 'small' }, small) : null);
  };
  const alone = (e) => questions.filter(([, other]) => other.title === e.title).length === 1;
  return table(['Run', ...questions.map(([, e]) => el('th', { 'data-title': alone(e) ? e.title : joined(e.title, e.settings) }, el('span', {}, e.title), el('div', { class: 'small' }, joined(e.settings, several(e.test_images, 'test image')))))],
    rows.map(([name], i) => [el('b', {}, name), ...answers[i].map(cell)]), [], true);
}

function accuracies(judged) {
  const those = runs.map((r) => [r.name, [r]]).filter(([, [r]]) => judged.some(({ run }) => run === r));
  const questions = [...new Map(judged.map(({ e }) => [e.question, e]))];
  const groups = report.groups.map((g, i) => [g.name, those.map(([, [r]]) => r).filter((r) => r.group === i)]).filter(([, list]) => list.length);
  if (groups.length === those.length) return sideBySide(those, questions);
  return [el('div', { class: 'small' }, 'Means over the trainings of a method, with the lowest and the highest.'), sideBySide(groups, questions),
    el('details', {}, el('summary', {}, `All ${several(those.length, 'training')}, one by one`), sideBySide(those, questions))];
}

// Figures that are no accuracy: a table per protocol, with what each of them says.
function figures(measured) {
  return [...new Set(measured.map(({ e }) => e.protocol))].map((protocol) => {
    const rows = measured.filter(({ e }) => e.protocol === protocol);
    // those with most columns first: they have the order of the page, and older ones lack some
    const fullest = [...rows].sort((a, b) => b.e.figures.length - a.e.figures.length);
    const columns = [...new Map(fullest.flatMap(({ e }) => e.figures.map((f) => [f.title, f])))];
    const made = table([one ? '' : 'Run', ...columns.map(([title]) => title)], rows.map(({ run, e }) => [
      el('td', {}, one ? null : el('b', {}, run.name), el('div', { class: 'small' }, joined(e.settings, sized(e)))),
      ...columns.map(([title]) => { const f = e.figures.find((g) => g.title === title); return f ? worded(f.value, f.kind) : '–'; }),
    ]), columns.map((_, i) => i + 1), true);
    const words = el('div', { class: 'small more' }, columns.map(([title, f]) => el('div', {}, el('b', {}, `${title}: `), f.note)));
    const { title, note } = rows[0].e;
    const body = rows.length > 12 ? el('details', {}, el('summary', {}, several(rows.length, 'training')), made) : made;
    return el('div', { class: 'card more', id: `figures-${protocol}` }, el('h3', {}, title), el('div', { class: 'small' }, note), body, words);
  });
}

function showEvaluation() {
  const all = runs.flatMap((run) => run.evaluations.map((e) => ({ run, e })));
  if (!all.length) return;
  const judged = all.filter(({ e }) => !e.figures.length), measured = all.filter(({ e }) => e.figures.length);
  const detailed = judged.filter(({ run, e }) => run.shown && (e.per_class.length || e.confusion.length || e.pairs.length || e.calibration));
  const slot = el('div', {});
  const open = (i) => { const made = details(detailed[i].e); slot.replaceChildren(...(made ? [made] : [])); };
  const chooser = el('select', { 'aria-label': 'Evaluation in detail', id: 'detail', onchange: () => open(Number(chooser.value)) }, detailed.map(({ run, e }, i) => el('option', { value: i }, `${one ? '' : `${run.name}: `}${e.title}${e.settings ? ` (${e.settings})` : ''}`)));
  section('evaluation', 'How good it is', judged.length ? 'Accuracy on labelled images that the encoder was not trained on. Top‑1: the first answer is right. Top‑5: one of the first five is. Ranges hold the true value with 95 % confidence.' : null,
    judged.length ? el('div', { class: 'card' }, one ? ownAccuracies(judged.map(({ e }) => e)) : accuracies(judged)) : null, figures(measured),
    detailed.length ? [el('div', { class: 'tools more' }, el('span', { class: 'small' }, 'In detail'), chooser), slot] : null);
  if (detailed.length) open(0);
}
