// The page: one section after the other, each only where there is something to show.

const report = read('report');
const runs = report.runs, one = runs.length === 1;
const shown = runs.filter((r) => r.shown);  // of a comparison's trainings the best one
const main = el('main', {});
const links = [];
document.body.append(main);

function section(id, title, note, ...content) {
  const made = el('section', { id }, el('h2', {}, title), note ? el('p', { class: 'note' }, note) : null, content);
  links.push([id, title, made]);
  main.append(made);
  return made;
}

// What goes wrong in one part is said in its place, and the others stand.
function attempt(what, act) {
  try {
    act();
  } catch (error) {
    console.error(error);
    main.append(el('p', { class: 'card more failure' }, `This part could not be shown: ${what} (${error.message}).`));
  }
}

function showTop() {
  main.append(el('header', { class: 'top' }, el('h1', {}, report.title),
    one && runs[0].paper ? el('p', { class: 'note lead' }, cited(runs[0].paper)) : null,
    el('p', { class: 'small' }, `Written by lookalike ${report.version}, ${report.date}.`)));
}

function showOverview() {
  const overview = el('div', { id: 'overview' }), alone = runs.filter((run) => run.of < 0);
  if (one) fill(overview, {}, [verdictCard(runs[0]), tiles(runs[0]), el('div', { class: 'card' }, facts(runs[0]))]);
  else if (alone.length) fill(overview, {}, [runTable(alone)]);
  if (overview.hasChildNodes()) links.push(['overview', 'Overview', overview]);
  for (const run of runs) for (const problem of run.problems) overview.append(el('p', { class: 'small' }, `${one ? '' : `${run.name}: `}${problem}`));
  main.append(overview);
}

function showCurves() {
  const keys = Object.keys(report.curves).filter((k) => runs.some((r) => r.curves.series[k]));
  if (!keys.length) return;
  const curves = new Curves(runs, report.curves);
  const pressed = (button, on) => button.setAttribute('aria-pressed', String(on));
  const byStep = el('button', { type: 'button', 'aria-pressed': 'true', onclick: () => axis(false) }, 'Steps');
  const byEpoch = el('button', { type: 'button', 'aria-pressed': 'false', onclick: () => axis(true) }, 'Epochs');
  const axis = (epochs) => { curves.byEpoch = epochs; pressed(byStep, !epochs); pressed(byEpoch, epochs); curves.redraw(); };
  const members = (g) => runs.flatMap((run, i) => (run.group === g ? [i] : []));
  const legend = one ? null : el('div', { class: 'keys', id: 'runs' }, report.groups.map((group, g) => {
    const key = el('button', { type: 'button', class: 'key', 'aria-pressed': 'true', onclick: () => {
      const hide = !curves.hidden.has(members(g)[0]);
      for (const i of members(g)) if (hide) curves.hidden.add(i); else curves.hidden.delete(i);
      pressed(key, !hide);
      curves.redraw();
    } }, swatch(g), el('span', {}, group.size > 1 ? `${group.name} (${group.size})` : group.name));
    return key;
  }));
  const signs = [runs.some((r) => r.later) ? 'Thin lines are further trainings of a method.' : '', report.groups.length > SERIES ? 'Dashes, squares and triangles tell apart those of one colour.' : '', one ? '' : 'A click hides or shows.'].filter(Boolean).join(' ');
  const [shown, folded] = [keys.filter((k) => report.curves[k].main), keys.filter((k) => !report.curves[k].main)];
  section('curves', 'Curves', 'How the training went. Point at a curve to read all of them at that moment.',
    el('div', { class: 'tools' }, curves.canEpoch ? [byStep, byEpoch] : null, legend),
    signs ? el('p', { class: 'small' }, signs) : null,
    el('div', { class: 'grid' }, shown.map((k) => curves.chart(k))),
    folded.length ? el('details', { class: 'more' }, el('summary', {}, `${several(folded.length, 'more curve')}: ${folded.slice(0, 4).map((k) => report.curves[k].title.toLowerCase()).join(', ')}${folded.length > 4 ? ' ...' : ''}`), el('div', { class: 'grid' }, folded.map((k) => curves.chart(k)))) : null);
}

function showTeacher(run) {
  const d = run.distillation, t = d.teacher, s = d.student;
  const row = (title, a, b, share) => [title, a, b, share];
  section(`teacher-${links.length}`, 'Teacher and student', `The student learns to say what a larger, pretrained network says. Agreement on ${several(d.images, 'image')} of ${d.of}: mean cosine ${number(d.cosine, 3)} (1 is the same), and ${percent(d.overlap)} of the ten nearest neighbours are the same.`,
    el('div', { class: 'card' }, table([one ? '' : run.name, 'Teacher', 'Student', 'Student / teacher'], [
      row('Encoder', t.name, s.name, ''), row('Image size', `${t.image_size} px`, `${s.image_size} px`, ''), row('Numbers per image', String(t.dim), String(s.dim), ''),
      row('Parameters', `${number(t.parameters / 1e6, 3)} million`, `${number(s.parameters / 1e6, 3)} million`, percent(s.parameters / t.parameters)),
      row('GFLOP per image', number(t.gflops, 3), number(s.gflops, 3), percent(s.gflops / t.gflops)),
      row(`Images/s (${d.device})`, number(t.images_per_s, 3), number(s.images_per_s, 3), `${number(s.images_per_s / t.images_per_s, 3)} times`),
      ...Object.entries(d.kept || {}).map(([p, share]) => row(`${protocolWords(p)} top-1`, percent(t.accuracy[p]), percent(s.accuracy[p]), `${percent(share)} kept`)),
    ], [1, 2, 3])));
}

function showMaps() {
  const drawnMaps = read('maps');
  if (drawnMaps.maps.length) {
    const sets = drawnMaps.sets.map((s) => new Images(s)), made = new Map();
    const home = el('div', {}), sheet = el('div', {}), how = el('p', { class: 'note' }), whose = el('p', { class: 'note' });
    const open = (i) => {
      const content = drawnMaps.maps[i], images = sets[content.images];
      if (!made.has(i)) { const map = new EmbeddingMap(content, images); made.set(i, { map, sheet: el('div', {}, neighbourSheet(map)) }); }
      const { map, sheet: rows } = made.get(i);
      home.replaceChildren(map.root);
      sheet.replaceChildren(rows);
      whose.textContent = `${one ? '' : `By the encoder of ${content.run}. `}The first image of each row, and those whose features are most like its own.`;
      how.textContent = `${one ? '' : `By the encoder of ${content.run}. `}Every dot is one of ${several(map.count, 'image')} of ${images.of}${map.count + content.left < images.all ? ` (drawn at random from ${images.all.toLocaleString('en-US')})` : ''}. Images that the encoder takes for alike lie near each other; directions and the distances between far groups mean nothing. Made by ${content.how}.${content.left ? ` ${several(content.left, 'image')} could not be read.` : ''}`;
    };
    const chooser = drawnMaps.maps.length > 1 ? el('div', { class: 'tools' }, el('select', { 'aria-label': 'Run', id: 'which', onchange: (e) => open(Number(e.target.value)) }, drawnMaps.maps.map((m, i) => el('option', { value: i }, m.run)))) : null;
    const here = section('map-section', 'Map of the images', null, how, chooser, home);
    links[links.length - 1][1] = 'Map';
    section('neighbours', 'Nearest neighbours', null, whose, sheet);
    links[links.length - 1][1] = 'Neighbours';
    open(0);
    for (const note of report.mapNotes) here.append(el('p', { class: 'small' }, `No map of ${note}`));
  } else if (report.mapNotes.length) {
    section('map-section', 'Map of the images', 'There is none on this page:', report.mapNotes.map((note) => el('p', {}, note)), el('p', { class: 'small' }, 'Give images with lookalike report RUN --images FOLDER.'));
    links[links.length - 1][1] = 'Map';
  }
}

function showPictures() {
  if (shown.some((r) => r.pictures.length)) {
    section('pictures', 'What it sees', null, shown.filter((r) => r.pictures.length).map((run, i) => {
      const figures = run.pictures.map((p) => el('figure', { class: 'card' }, el('figcaption', {}, el('h3', {}, p.title), el('span', { class: 'small' }, p.note)), el('img', { src: p.url, alt: `${p.title}: ${p.note}` })));
      return shown.length === 1 ? [one ? null : el('p', { class: 'note' }, `Of ${run.name}.`), figures] : el('details', { open: i === 0 }, el('summary', {}, run.name), figures);
    }));
  }
}

function code(title, text) {
  const button = el('button', { type: 'button', onclick: () => copy(text, button) }, 'Copy');
  return el('div', { class: 'code card' }, el('div', { class: 'head' }, el('h3', {}, title), button), el('pre', {}, text));
}

function showUse() {
  if (shown.length) {
    section('use', 'How to use it', 'The encoder turns an image into a vector; similar images get similar vectors.',
      shown.map((run, i) => {
        const both = [code('In Python', run.use.python), code('On the command line', run.use.shell)];
        return shown.length === 1 ? [one ? null : el('p', { class: 'note' }, `Of ${run.name}.`), both] : el('details', { open: i === 0 }, el('summary', {}, run.name), both);
      }));
  }
}

attempt('the title', showTop);
attempt('the overview', showOverview);
report.comparisons.forEach((found, i) => attempt(`the comparison ${found.name}`, () => showComparison(found, i)));
attempt('the curves', showCurves);
attempt('the evaluations', showEvaluation);
for (const run of runs) if (run.distillation && run.distillation.teacher && run.distillation.student) attempt('teacher and student', () => showTeacher(run));
attempt('the map', showMaps);
attempt('the pictures', showPictures);
attempt('how to use it', showUse);
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
document.body.prepend(el('div', { class: 'bar' }, el('div', {}, el('nav', { 'aria-label': 'Contents' }, anchors), theme)));
changed();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const i = links.findIndex(([, , node]) => node === entry.target);
    if (entry.isIntersecting) anchors.forEach((a, n) => a.classList.toggle('here', n === i));
  }
}, { rootMargin: '-15% 0px -75% 0px' });
for (const [, , node] of links) watcher.observe(node);
