// What the charts show of the history, as numbers and as words. Pure.

import { count, duration, percent } from './format.js';

/*
 * A chart: its title, and what it says where it has nothing to show; its lines, each with a label, the
 * value of a point (null: not known), how a row of the table sums up several, and its look.
 */

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const highest = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity);
const rate = (value) => (value > 0 && value < 10 ? value.toFixed(1) : count(value));

/** Between two lines of the grid: what a duration names without rounding. */
const ROUND_SECONDS = [
  ...[1, 2, 5, 10, 20, 60, 120, 300, 600, 1_200, 3_600, 7_200, 18_000, 36_000, 86_400, 172_800],
  ...[432_000, 864_000, 1_728_000],
];

/** The charts of a history; its counts are shown by the minute, whatever its step. */
export function chartsOf({ step }, budgetPerMinute) {
  const minutes = step === 'hour' ? 60 : 1;
  const perMinute = (key) => (point) => point[key] / minutes;
  return [
    {
      id: 'lag',
      title: 'How far behind',
      none: 'The lag of each minute appears here once the first sweep is complete.',
      format: duration,
      steps: ROUND_SECONDS,
      lines: [{ label: 'lag', read: (point) => point.lagSeconds, sum: highest, look: 1 }],
    },
    {
      id: 'lost',
      title: 'Webhooks lost',
      none: 'The share of events that no webhook brought appears here once the audit trail was read.',
      format: percent,
      least: 0.1,
      lines: [{ label: 'lost', read: (point) => point.lossRate, sum: mean, look: 2 }],
    },
    {
      id: 'told',
      title: 'Events a minute, by who told first',
      none: 'Events appear here by who told of them first: a webhook, the audit trail, or an archive.',
      format: rate,
      lines: [
        { label: 'webhook', read: perMinute('byWebhook'), sum: mean, look: 1 },
        { label: 'audit', read: perMinute('byAudit'), sum: mean, look: 2 },
        { label: 'archive', read: perMinute('byArchive'), sum: mean, look: 3 },
      ],
    },
    {
      id: 'applied',
      title: 'Events applied a minute',
      none: 'How many events were applied each minute appears here.',
      format: rate,
      lines: [{ label: 'applied', read: perMinute('applied'), sum: mean, look: 1 }],
    },
    {
      id: 'requests',
      title: 'Requests to Descope a minute',
      none: 'Requests sent each minute appear here, against the budget.',
      format: rate,
      lines: [
        { label: 'sent', read: perMinute('requests'), sum: mean, look: 1 },
        { label: 'throttled', read: perMinute('throttled'), sum: mean, look: 2 },
        ...(budgetPerMinute > 0
          ? [{ label: 'budget', read: () => budgetPerMinute, sum: mean, look: 'limit' }]
          : []),
      ],
    },
  ];
}

/**
 * Columns as uPlot wants them: times in epoch seconds, then each line's values. Where a step is missing
 * nothing ran; a column of nulls there keeps the lines from bridging it.
 */
export function columnsOf({ step, points }, lines) {
  const stepSeconds = step === 'hour' ? 3_600 : 60;
  const columns = [[], ...lines.map(() => [])];
  const put = (at, values) => {
    columns[0].push(at);
    values.forEach((value, index) => columns[index + 1].push(value));
  };
  for (const point of points) {
    const at = Date.parse(point.at) / 1000;
    const last = columns[0].at(-1);
    if (last !== undefined && at - last > 1.5 * stepSeconds) {
      put(
        last + stepSeconds,
        lines.map(() => null),
      );
    }
    put(
      at,
      lines.map(({ read }) => read(point) ?? null),
    );
  }
  return columns;
}

const known = (column) => column.filter((value) => value !== null && Number.isFinite(value));

/** "12 s now, at most 95 s"; of several lines "webhook 31 now, at most 40 · audit …". */
export function summaryOf({ lines, format }, columns) {
  const said = lines.flatMap(({ label, look }, index) => {
    const values = known(columns[index + 1]);
    if (values.length === 0) return [];
    const name = lines.length === 1 ? '' : `${label} `;
    if (look === 'limit') return [`${label} ${format(values[0])}`];
    return [`${name}${format(values.at(-1))} now, at most ${format(highest(values))}`];
  });
  return said.join(' · ');
}

/** The same at one place in time; what is not known is left out. */
export function valuesAt({ lines, format }, columns, index) {
  const said = lines.flatMap(({ label }, line) => {
    const value = columns[line + 1][index];
    return value === null ? [] : [lines.length === 1 ? format(value) : `${label} ${format(value)}`];
  });
  return said.join(' · ') || 'not known';
}

const TABLE_ROWS = 24;

/** At most 24 rows over the whole range, the newest first: when each begins, and each line's text. */
export function tableOf({ lines, format }, columns) {
  const size = Math.max(1, Math.ceil(columns[0].length / TABLE_ROWS));
  const rows = [];
  for (let from = 0; from < columns[0].length; from += size) {
    const texts = lines.map(({ sum }, line) => {
      const values = known(columns[line + 1].slice(from, from + size));
      return values.length === 0 ? '–' : format(sum(values));
    });
    rows.unshift({ at: columns[0][from], texts });
  }
  return rows;
}

/** Whether a chart has anything to show but its limit. */
export function isEmpty({ lines }, columns) {
  return lines.every(({ look }, line) => look === 'limit' || known(columns[line + 1]).length === 0);
}
