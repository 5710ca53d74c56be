// The coverage of each pull, as a line of windows and in words.

import { ago, duration, full, moment, toDate } from './format.js';
import { find, make } from './dom.js';

const NAMES = { sweep: 'sweep, by when users were created' };
const STATES = { proven: 'proven complete', open: 'being read', gap: 'gap' };

/** A window's place in the range, as shares of it; null where it lies outside. */
function placeOf({ from, to }, range) {
  const share = (ms) => Math.min(1, Math.max(0, (ms - range.fromMs) / (range.toMs - range.fromMs)));
  const start = share(toDate(from).getTime());
  const end = share(to === null ? range.toMs : toDate(to).getTime());
  return end > start ? { start, end } : null;
}

function showWindow(window, range) {
  const place = placeOf(window, range);
  if (place === null) return null;
  const title = `${STATES[window.state]}: ${full(toDate(window.from))} to ${
    window.to === null ? 'now' : full(toDate(window.to))
  }${window.error ? `, ${window.error}` : ''}`;
  const made = make('span', { className: `window ${window.state}`, title });
  made.style.left = `${place.start * 100}%`;
  // One that is too short to be seen is a pixel or two wide all the same.
  made.style.width = `max(2px, ${(place.end - place.start) * 100}%)`;
  return made;
}

function secondsOf(windows, range) {
  const ms = windows.map((window) => placeOf(window, range)).filter((place) => place !== null);
  const share = ms.reduce((sum, { start, end }) => sum + end - start, 0);
  return (share * (range.toMs - range.fromMs)) / 1000;
}

/** "complete to 12 s ago" or "2 gaps, 4 min in all". */
function wordsOf({ watermark, windows }, range) {
  const gaps = windows.filter(({ state }) => state === 'gap');
  const date = toDate(watermark);
  const to = date === null ? 'nothing proven yet' : `complete to ${ago(date, range.toMs)}`;
  if (gaps.length === 0) return to;
  const long = duration(secondsOf(gaps, range));
  return `${to}, but ${gaps.length === 1 ? 'for a gap of' : `${gaps.length} gaps,`} ${long}${
    gaps.length === 1 ? '' : ' in all'
  }`;
}

function showPull(pull, range) {
  const words = wordsOf(pull, range);
  return [
    make('h3', {}, NAMES[pull.pull] ?? pull.pull),
    make('p', { className: 'quiet' }, words),
    make(
      'div',
      { className: 'track', role: 'img', 'aria-label': `${pull.pull}: ${words}` },
      pull.windows.map((window) => showWindow(window, range)),
    ),
  ];
}

/** Shows the answer of /api/coverage about the last so many hours. */
export function showCoverage(coverage, hours) {
  const [from, to] = [toDate(coverage.from), toDate(coverage.to)];
  const range = { fromMs: from.getTime(), toMs: to.getTime() };
  const ends = make(
    'p',
    { className: 'ends quiet' },
    make('span', {}, moment(from, hours)),
    make('span', {}, 'now'),
  );
  const none = make(
    'p',
    { className: 'empty' },
    'The windows that the pulls have read appear here.',
  );
  const pulls = coverage.pulls.map((pull) => make('article', {}, showPull(pull, range)));
  find('coverage').replaceChildren(...(pulls.length === 0 ? [none] : [...pulls, ends]));
}
