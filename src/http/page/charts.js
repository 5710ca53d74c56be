// Draws the charts with uPlot, which the page loads before this. Beside each picture stand its words:
// a summary, the values under the pointer, and a table.

import { find, make, setText, timeOf } from './dom.js';
import { moment, tick } from './format.js';
import { chartsOf, columnsOf, isEmpty, summaryOf, tableOf, valuesAt } from './history.js';

const HEIGHT = 170;
/** Between two times below a chart, in seconds: nothing is told of less than a minute. */
const TIME_STEPS = [
  ...[
    60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000,
  ],
];
/** Lines are told apart by more than their colour. */
const DASHES = { 2: [5, 3], 3: [2, 3], limit: [8, 5] };

/** What is on the page, by the chart's id. */
const shown = new Map();
let latest = null;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The frame of one chart, once. */
function createFrame({ id, title, lines }) {
  const titleId = `chart-${id}`;
  const said = make('p', { className: 'words' });
  const place = make('div', { className: 'plot' });
  const rows = make('tbody');
  const heads = ['from', ...lines.map(({ label }) => label)];
  const table = make(
    'details',
    {},
    make('summary', {}, 'As a table'),
    make(
      'table',
      { 'aria-labelledby': titleId },
      make(
        'thead',
        {},
        make(
          'tr',
          {},
          heads.map((text) => make('th', { scope: 'col' }, text)),
        ),
      ),
      rows,
    ),
  );
  const keys = lines.length > 1 ? make('ul', { className: 'legend' }, lines.map(keyOf)) : null;
  const heading = make('h3', { id: titleId }, title);
  const card = make('article', { className: 'card chart' }, heading, said, keys, place, table);
  const frame = { card, said, place, rows, table, plot: null, columns: [], chart: null };
  table.addEventListener('toggle', () => {
    fillTable(frame);
  });
  return frame;
}

function keyOf({ label, look }) {
  return make('li', {}, make('span', { className: `key line look-${look}` }), label);
}

/** Only one that is open is filled. */
function fillTable({ table, rows, chart, columns }) {
  if (!table.open || chart === null) return;
  rows.replaceChildren(
    ...tableOf(chart, columns).map(({ at, texts }) =>
      make(
        'tr',
        {},
        make('td', {}, timeOf(at * 1000)),
        texts.map((text) => make('td', {}, text)),
      ),
    ),
  );
}

/** Few points are shown as such: of one alone there would be no line. */
const isSparse = (_, __, first, last) => last - first < 12;

function seriesOf({ label, look }) {
  const stroke = colour(`--look-${look}`);
  return {
    label,
    stroke,
    width: look === 'limit' ? 1 : 2,
    dash: DASHES[look],
    fill: look === 1 ? colour('--look-1-fill') : undefined,
    points: { size: 5, show: look !== 'limit' && isSparse },
  };
}

function axesOf({ format, steps }, hours) {
  const axis = {
    stroke: colour('--quiet'),
    font: `11px ${getComputedStyle(document.body).fontFamily}`,
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };
  const times = (_, splits) => splits.map((at) => tick(new Date(at * 1000), hours));
  const values = (_, splits) => splits.map((value) => format(value));
  return [
    { ...axis, values: times, incrs: TIME_STEPS, size: 28, gap: 8, space: 64 },
    { ...axis, values, size: 56, space: 32, ...(steps && { incrs: steps }) },
  ];
}

/** From the first point to the last; one alone stands in the middle of a few minutes. */
const fromFirst = (_, first, last) => (first === last ? [first - 120, last + 120] : [first, last]);

/** From nothing up, so that a small change looks small. */
const fromZero = (least) => (_, __, most) => [0, Math.max(most * 1.08, least)];

function optionsOf(frame, chart, hours, width) {
  const showWords = (plot) => {
    const { idx } = plot.cursor;
    if (typeof idx !== 'number' || plot.cursor.left < 0) setText(frame.said, frame.words);
    else {
      const at = moment(new Date(frame.columns[0][idx] * 1000), hours);
      setText(frame.said, `${at}: ${valuesAt(chart, frame.columns, idx)}`);
    }
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: 'overview' }, drag: { x: false, y: false }, y: false },
    scales: { x: { range: fromFirst }, y: { range: fromZero(chart.least ?? 1) } },
    axes: axesOf(chart, hours),
    series: [{}, ...chart.lines.map(seriesOf)],
    hooks: { setCursor: [showWords] },
  };
}

function draw(frame, hours) {
  const { chart, columns, place } = frame;
  frame.plot?.destroy();
  frame.plot = null;
  place.replaceChildren();
  if (isEmpty(chart, columns)) {
    place.removeAttribute('role');
    place.removeAttribute('aria-label');
    place.append(make('p', { className: 'empty' }, chart.none));
    return;
  }
  place.setAttribute('role', 'img');
  place.setAttribute('aria-label', `${chart.title}: ${frame.summary}`);
  frame.plot = new globalThis.uPlot(
    optionsOf(frame, chart, hours, Math.max(200, place.clientWidth)),
    columns,
    place,
  );
}

function show(history, hours) {
  const grid = find('charts');
  for (const chart of chartsOf(history, Number(grid.dataset.budget))) {
    const frame = shown.get(chart.id) ?? createFrame(chart);
    if (!shown.has(chart.id)) grid.append(frame.card);
    shown.set(chart.id, frame);
    const columns = columnsOf(history, chart.lines);
    const last = columns[0].length - 1;
    const summary = summaryOf(chart, columns);
    // Of several lines the newest values are enough to see; the rest is for those who listen.
    const words = chart.lines.length === 1 || last < 0 ? summary : valuesAt(chart, columns, last);
    Object.assign(frame, { chart, columns, summary, words });
    setText(frame.said, words);
    frame.table.hidden = isEmpty(chart, columns);
    draw(frame, hours);
    fillTable(frame);
  }
}

/** Shows the answer of /api/history about the last so many hours. */
export function showCharts(history, hours) {
  latest = { history, hours };
  show(history, hours);
}

function drawAgain() {
  if (latest !== null) show(latest.history, latest.hours);
}

// A picture knows neither the width it is given nor the colours of the page.
let width = innerWidth;
addEventListener('resize', () => {
  if (innerWidth !== width) drawAgain();
  width = innerWidth;
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAgain);
