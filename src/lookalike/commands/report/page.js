// Builds the page: one section after the other, each only if it has content.

const report = read('report');
const runs = report.runs,
  one = runs.length === 1;
const shown = runs.filter((r) => r.shown); // of a comparison, a training of the best method
const main = el('main', {});
const links = [];
document.body.append(main);

function section(id, title, note, ...content) {
  const node = el('section', { id }, el('h2', {}, title), note ? el('p', { class: 'note' }, note) : null, content);
  links.push([id, title, node]);
  main.append(node);
  return node;
}

// Sets the text of the last section's link.
const shorten = (title) => {
  links[links.length - 1][1] = title;
};

// An error in one part is shown in its place; the other parts are not affected.
function attempt(name, act) {
  try {
    act();
  } catch (error) {
    console.error(error);
    main.append(el('p', { class: 'card more failure' }, `This part could not be shown: ${name} (${error.message}).`));
  }
}

function showTop() {
  main.append(
    el(
      'header',
      { class: 'top' },
      el('h1', {}, report.title),
      one && runs[0].paper ? el('p', { class: 'note lead' }, cited(runs[0].paper)) : null,
      el('p', { class: 'small' }, `Created by lookalike ${report.version}, ${report.date}.`),
    ),
  );
}

function showOverview() {
  const overview = el('div', { id: 'overview' }),
    alone = runs.filter((run) => run.of < 0);
  if (one) fill(overview, {}, [verdictCard(runs[0]), tiles(runs[0]), el('div', { class: 'card' }, facts(runs[0]))]);
  else if (alone.length) fill(overview, {}, [runTable(alone)]);
  if (overview.hasChildNodes()) links.push(['overview', 'Overview', overview]);
  for (const run of runs) {
    for (const problem of run.problems) {
      overview.append(el('p', { class: 'small' }, `${one ? '' : `${run.name}: `}${problem}`));
    }
  }
  main.append(overview);
}

// The legend of the curves; a click hides or shows the runs of a group.
function curveLegend(curves, pressed) {
  return el(
    'div',
    { class: 'keys', id: 'runs' },
    report.groups.map((group, g) => {
      const members = runs.flatMap((run, i) => (run.group === g ? [i] : []));
      const toggle = () => {
        const hide = !curves.hidden.has(members[0]);
        for (const i of members)
          if (hide) curves.hidden.add(i);
          else curves.hidden.delete(i);
        pressed(key, !hide);
        curves.redraw();
      };
      const name = group.size > 1 ? `${group.name} (${counted(group.size, 'seed')})` : group.name;
      const key = el(
        'button',
        { type: 'button', class: 'key', 'aria-pressed': 'true', onclick: toggle },
        swatch(g),
        el('span', {}, name),
      );
      return key;
    }),
  );
}

function showCurves() {
  const keys = Object.keys(report.curves).filter((k) => runs.some((r) => r.curves.series[k]));
  if (!keys.length) return;
  const curves = new Curves(runs, report.curves);
  const pressed = (button, on) => button.setAttribute('aria-pressed', String(on));
  const byStep = el('button', { type: 'button', 'aria-pressed': 'true', onclick: () => axis(false) }, 'Steps');
  const byEpoch = el('button', { type: 'button', 'aria-pressed': 'false', onclick: () => axis(true) }, 'Epochs');
  const axis = (epochs) => {
    curves.byEpoch = epochs;
    pressed(byStep, !epochs);
    pressed(byEpoch, epochs);
    curves.redraw();
  };
  const notes = [
    one ? '' : 'Click a name to hide or show its curves.',
    runs.some((r) => r.later) ? 'Thick lines are the first seed of a method, thin lines its other seeds.' : '',
    report.groups.length > SERIES ? 'Dashes and marker shapes distinguish curves of the same colour.' : '',
  ]
    .filter(Boolean)
    .join(' ');
  const visible = keys.filter((k) => report.curves[k].main),
    collapsed = keys.filter((k) => !report.curves[k].main);
  const titles = collapsed
    .slice(0, 4)
    .map((k) => report.curves[k].title)
    .join(', ');
  section(
    'curves',
    'Training curves',
    'Point at a curve to read all curves at that step.',
    el(
      'div',
      { class: 'tools' },
      curves.canEpoch ? [byStep, byEpoch] : null,
      one ? null : curveLegend(curves, pressed),
    ),
    notes ? el('p', { class: 'small' }, notes) : null,
    el(
      'div',
      { class: 'grid' },
      visible.map((k) => curves.chart(k)),
    ),
    collapsed.length
      ? el(
          'details',
          { class: 'more' },
          el(
            'summary',
            {},
            `${counted(collapsed.length, 'more curve')}: ${titles}${collapsed.length > 4 ? ', …' : ''}`,
          ),
          el(
            'div',
            { class: 'grid' },
            collapsed.map((k) => curves.chart(k)),
          ),
        )
      : null,
  );
  shorten('Curves');
}

function showTeacher(run) {
  const d = run.distillation,
    t = d.teacher,
    s = d.student;
  const millions = (parameters) => `${number(parameters / 1e6, 3)} million`;
  const rows = [
    ['Encoder', t.name, s.name, ''],
    ['Image size', `${t.image_size} px`, `${s.image_size} px`, ''],
    ['Feature dimensions', String(t.dim), String(s.dim), ''],
    ['Parameters', millions(t.parameters), millions(s.parameters), percent(s.parameters / t.parameters)],
    ['GFLOP/image', number(t.gflops, 3), number(s.gflops, 3), percent(s.gflops / t.gflops)],
    [
      `Images/s (${d.device})`,
      number(t.images_per_s, 3),
      number(s.images_per_s, 3),
      `${number(s.images_per_s / t.images_per_s, 3)} times`,
    ],
    ...Object.entries(d.kept || {}).map(([p, ratio]) => [
      `${protocolTitle(p)} top‑1`,
      percent(t.accuracy[p]),
      percent(s.accuracy[p]),
      percent(ratio),
    ]),
  ];
  const note =
    'The student is trained to reproduce the features of a larger, pretrained teacher. ' +
    `Agreement on ${counted(d.images, 'image')} of ${d.of}: mean cosine similarity ${number(d.cosine, 3)} ` +
    `(1: identical); ${percent(d.overlap)} of the ten nearest neighbours are the same.`;
  section(
    `teacher-${links.length}`,
    'Teacher and student',
    note,
    el(
      'div',
      { class: 'card' },
      table([one ? '' : run.name, 'Teacher', 'Student', 'Student / teacher'], rows, [1, 2, 3]),
    ),
  );
}

function showMaps() {
  const content = read('maps');
  if (!content.maps.length) {
    if (!report.mapNotes.length) return;
    section(
      'map-section',
      'Map of the embedding',
      'This page has no map:',
      report.mapNotes.map((note) => el('p', {}, note)),
      el('p', { class: 'small' }, 'To add one: lookalike report RUN --images FOLDER'),
    );
    shorten('Map');
    return;
  }
  const sets = content.sets.map((s) => new Images(s)),
    built = new Map();
  const home = el('div', {}),
    sheet = el('div', {}),
    how = el('p', { class: 'note' }),
    whose = el('p', { class: 'note' });
  const open = (i) => {
    const map = content.maps[i],
      images = sets[map.images];
    if (!built.has(i)) {
      const view = new EmbeddingMap(map, images);
      built.set(i, { view, rows: el('div', {}, neighbourSheet(view)) });
    }
    const { view, rows } = built.get(i),
      encoder = one ? '' : `Encoder: ${map.run}. `;
    home.replaceChildren(view.root);
    sheet.replaceChildren(rows);
    whose.textContent = `${encoder}Each row: an image and the images with the most similar features (cosine).`;
    const sample =
      view.count + map.unreadable < images.all ? `, a random sample of ${images.all.toLocaleString('en-US')}` : '';
    const unreadable = map.unreadable ? ` ${counted(map.unreadable, 'image')} could not be read.` : '';
    how.textContent =
      `${encoder}${counted(view.count, 'image')} of ${images.of}${sample}. Each dot is an image; ` +
      'similar images are near each other. Directions and distances between far groups have no meaning. ' +
      `Projection: ${map.how}.${unreadable}`;
  };
  const options = content.maps.map((map, i) => el('option', { value: i }, map.run));
  const chooser = el(
    'select',
    { 'aria-label': 'Run', id: 'which', onchange: (e) => open(Number(e.target.value)) },
    options,
  );
  const here = section(
    'map-section',
    'Map of the embedding',
    null,
    how,
    options.length > 1 ? el('div', { class: 'tools' }, chooser) : null,
    home,
  );
  shorten('Map');
  section('neighbours', 'Nearest neighbours', null, whose, sheet);
  shorten('Neighbours');
  open(0);
  for (const note of report.mapNotes) here.append(el('p', { class: 'small' }, `No map of ${note}`));
}

// Content of each shown run; of several runs all but the first are collapsed.
function perRun(list, content) {
  if (list.length === 1) return [one ? null : el('p', { class: 'note' }, `Run: ${list[0].name}.`), content(list[0])];
  return list.map((run, i) => el('details', { open: i === 0 }, el('summary', {}, run.name), content(run)));
}

function showPictures() {
  const list = shown.filter((run) => run.pictures.length);
  if (!list.length) return;
  const figure = ({ title, note, url }) =>
    el(
      'figure',
      { class: 'card' },
      el('figcaption', {}, el('h3', {}, title), el('span', { class: 'small' }, note)),
      el('img', { src: url, alt: `${title}: ${note}` }),
    );
  section(
    'pictures',
    'Views, attention and features',
    null,
    perRun(list, (run) => run.pictures.map(figure)),
  );
  shorten('Pictures');
}

function code(title, text) {
  const button = el('button', { type: 'button', onclick: () => copy(text, button) }, 'Copy');
  return el(
    'div',
    { class: 'code card' },
    el('div', { class: 'head' }, el('h3', {}, title), button),
    el('pre', {}, text),
  );
}

function showUse() {
  if (!shown.length) return;
  section(
    'use',
    'How to use the encoder',
    'The encoder maps an image to a vector; similar images have similar vectors.',
    perRun(shown, (run) => [code('Python', run.use.python), code('Command line', run.use.shell)]),
  );
  shorten('Use');
}

attempt('the title', showTop);
attempt('the overview', showOverview);
report.comparisons.forEach((found, i) => attempt(`the comparison ${found.name}`, () => showComparison(found, i)));
attempt('the curves', showCurves);
attempt('the evaluations', showEvaluation);
for (const run of runs) {
  const found = run.distillation;
  if (found && found.teacher && found.student) attempt('teacher and student', () => showTeacher(run));
}
attempt('the map', showMaps);
attempt('the pictures', showPictures);
attempt('the usage', showUse);
main.append(el('footer', { class: 'small' }, 'This page is self-contained and loads nothing from a network.'));

// ---------------------------------------------------------------- navigation and theme

const root = document.documentElement,
  STORED = 'lookalike-theme';
const dark = () =>
  (root.style.colorScheme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
const changed = () => {
  theme.textContent = dark() ? 'Light' : 'Dark';
  for (const act of themed) act();
};
const switchTheme = () => {
  root.style.colorScheme = dark() ? 'light' : 'dark';
  try {
    localStorage.setItem(STORED, root.style.colorScheme);
  } catch {
    /* no storage for local files */
  }
  changed();
};
const theme = el('button', {
  type: 'button',
  id: 'theme',
  title: 'Switch between light and dark',
  onclick: switchTheme,
});
try {
  root.style.colorScheme = localStorage.getItem(STORED) || '';
} catch {
  /* as above */
}
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
const anchors = links.map(([id, title]) => el('a', { href: `#${id}` }, title));
document.body.prepend(
  el('div', { class: 'bar' }, el('div', {}, el('nav', { 'aria-label': 'Contents' }, anchors), theme)),
);
changed();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const i = links.findIndex(([, , node]) => node === entry.target);
      if (entry.isIntersecting) anchors.forEach((a, n) => a.classList.toggle('here', n === i));
    }
  },
  { rootMargin: '-15% 0px -75% 0px' },
);
for (const [, , node] of links) watcher.observe(node);
