// The overview: what the status stream says, put in its places.

import { getJson, PATIENT, postJson } from './api.js';
import { showCharts } from './charts.js';
import { showCoverage } from './coverage.js';
import {
  doing,
  find,
  isInUse,
  keepTimesFresh,
  make,
  say,
  setText,
  showRows,
  timeOf,
  userLink,
} from './dom.js';
import { count, counted, DASH, duration, full, toDate } from './format.js';
import { followStatus } from './live.js';
import { showNumbers } from './numbers.js';
import { createProgress } from './progress.js';

/** Charts get a point a minute; a coarser one moves less. */
const HISTORY_EVERY_MS = 60_000;
const DEFAULT_HOURS = 1;

const readProgress = createProgress();
let hours = DEFAULT_HOURS;

/** Read aloud when the state changes, not with every second that passes. */
function showSentence({ state, sentence, asOf }) {
  const headline = find('sentence');
  setText(headline, sentence);
  if (headline.dataset.state !== state) {
    headline.dataset.state = state;
    setText(find('state'), sentence);
    document.title = `${state[0].toUpperCase()}${state.slice(1)} · Rollcall`;
  }
  const date = toDate(asOf);
  setText(find('as-of'), date === null ? '' : `as of ${full(date)}`);
}

function showHeld({ heldDeletions }) {
  const place = find('held');
  place.hidden = !(heldDeletions > 0);
  if (place.hidden || isInUse(place)) return;
  const verb = heldDeletions === 1 ? 'waits' : 'wait';
  const text = `${counted(heldDeletions, 'deletion')} ${verb} for you`;
  if (place.textContent !== text) place.replaceChildren(make('a', { href: '/deletions' }, text));
}

function showProgress({ sweep }) {
  find('progress').hidden = sweep === null;
  const left = readProgress(sweep, Date.now());
  if (sweep === null) return;
  const bar = find('progress-bar');
  if (sweep.total > 0) {
    bar.max = sweep.total;
    bar.value = Math.min(sweep.rowsRead, sweep.total);
  } else bar.removeAttribute('value');
  const of = sweep.total === null ? '' : ` of ${count(sweep.total)}`;
  const time = left === null ? '' : `, about ${duration(left)} left`;
  const requests = counted(sweep.requests, 'request');
  setText(
    find('progress-text'),
    `Sweep: ${count(sweep.rowsRead)}${of} users read in ${requests}${time}`,
  );
}

function showDemo({ demo }) {
  const place = find('demo');
  place.hidden = !demo;
  if (!demo) return;
  const differences = demo.equal ? '' : ` (${count(demo.differences)} differ)`;
  setText(place, `demo: mirror equals directory ${demo.equal ? '✓' : '✗'}${differences}`);
  place.dataset.equal = String(demo.equal);
}

function showLastError({ lastError }) {
  const date = toDate(lastError?.at);
  const when = date === null ? '' : `${full(date)}: `;
  setText(find('trouble'), lastError ? `${when}${lastError.message}` : '');
}

function showChanges({ recentChanges }) {
  const body = find('changes');
  if (isInUse(body)) return;
  showRows(
    body,
    recentChanges.map((change) => ({ ...change, at: Date.now() - change.ageSeconds * 1000 })),
    [
      ['when', ({ at }) => timeOf(at)],
      ['user', ({ userId }) => userLink(userId)],
      ['change', ({ kind }) => kind],
      ['fields', ({ changed }) => changed.join(', ') || DASH],
      ['witness', ({ witness }) => witness],
    ],
    'Users that are created, changed, deleted or restored appear here.',
  );
}

function showPulls({ watermarks, lastRuns }) {
  const pulls = new Set([...watermarks, ...lastRuns].map(({ pull }) => pull));
  const rows = [...pulls].sort().map((pull) => ({
    pull,
    watermark: watermarks.find((one) => one.pull === pull),
    run: lastRuns.find((one) => one.pull === pull),
  }));
  showRows(find('pulls'), rows, [
    ['pull', ({ pull }) => pull],
    ['complete to', ({ watermark }) => timeOf(watermark?.completeTo)],
    ['lag', ({ watermark }) => duration(watermark?.lagSeconds), 'number'],
    ['last run', ({ run }) => (run ? [run.outcome, run.reason].filter(Boolean).join(': ') : DASH)],
  ]);
}

function showQueues({ queues, queueProblem }) {
  const numbers = ['waiting', 'active', 'delayed', 'failed'];
  showRows(
    find('queues'),
    queues,
    [
      ['queue', ({ name }) => name],
      ...numbers.map((key) => [key, (queue) => count(queue[key]), 'number']),
    ],
    queueProblem === null ? 'none' : `cannot be asked: ${queueProblem}`,
  );
}

function show(status) {
  for (const part of [showSentence, showHeld, showProgress, showDemo, showLastError]) part(status);
  showNumbers(status);
  for (const part of [showChanges, showPulls, showQueues]) part(status);
}

function showTrouble(trouble) {
  const place = find('connection');
  place.classList.toggle('lost', trouble !== null);
  if (trouble === null) {
    setText(place, '');
    return;
  }
  find('sentence').dataset.state = 'unknown';
  setText(find('state'), trouble.why);
  const seconds = (Date.now() - trouble.seenMs) / 1000;
  setText(place, `${trouble.why}, last seen ${duration(seconds)} ago`);
}

async function updateCharts() {
  if (document.visibilityState !== 'visible') return;
  const asked = hours;
  try {
    const [points, coverage] = await Promise.all([
      getJson(`/api/history?hours=${asked}`),
      getJson(`/api/coverage?hours=${asked}`),
    ]);
    if (asked !== hours) return;
    showCharts(points, asked);
    showCoverage(coverage, asked);
    setText(find('charts-trouble'), '');
  } catch (error) {
    setText(find('charts-trouble'), `The history cannot be shown. ${error.message}`);
  }
}

/** The range is in the address, so that it can be kept and passed on. */
function chooseRange(chosen) {
  const buttons = [...find('ranges').querySelectorAll('button')];
  const known = buttons.some((button) => Number(button.dataset.hours) === chosen);
  hours = known ? chosen : DEFAULT_HOURS;
  for (const button of buttons) {
    button.setAttribute('aria-pressed', String(Number(button.dataset.hours) === hours));
  }
  void updateCharts();
}

find('ranges').addEventListener('click', ({ target }) => {
  const chosen = target.dataset.hours;
  if (chosen === undefined) return;
  history.replaceState(null, '', `?hours=${chosen}`);
  chooseRange(Number(chosen));
});
find('replay').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], async () => {
    const { events } = await postJson('/api/replay', { failed: true }, PATIENT);
    say(`${counted(events, 'parked event')} will be applied again.`);
  });
});
setInterval(() => void updateCharts(), HISTORY_EVERY_MS);
document.addEventListener('visibilitychange', () => void updateCharts());
keepTimesFresh();
chooseRange(Number(new URLSearchParams(location.search).get('hours')));
followStatus(show, showTrouble);
