// The numbers of the overview, each with what there is to say of it.

import { find, isInUse, make, setText, timeOf } from './dom.js';
import { count, counted, DASH, delay, duration, percent } from './format.js';

/** Text, or nodes: those are left alone while somebody points at them or is in them. */
function put(place, content) {
  if (typeof content === 'string') setText(place, content);
  else if (!isInUse(place)) place.replaceChildren(...content);
}

/** One number: its value, a line below it, and whether somebody should look at it. */
function showNumber(id, value, more, warns = false) {
  const tile = find(id);
  tile.classList.toggle('warn', warns);
  put(tile.querySelector('.value'), value);
  put(tile.querySelector('.more'), more);
}

function showEvents({ events }) {
  showNumber('hour', count(events.receivedLastHour), `${count(events.appliedLastHour)} applied`);
  showNumber('pending', count(events.pending), 'received, not yet applied');
  const isParked = events.parked > 0;
  const why = isParked ? (events.parkedReason ?? 'no reason told') : 'none was given up';
  showNumber('parked', count(events.parked), why, isParked);
  const button = find('replay');
  // The button is not taken away from under somebody who has just used it.
  if (isParked || document.activeElement !== button) button.hidden = !isParked;
  showNumber(
    'loss',
    percent(events.lossRate),
    events.lossRateDay === null
      ? 'known once the audit trail was read'
      : `last hour; ${percent(events.lossRateDay)} in a day. The audit pull found them`,
    events.lossRate > 0.2,
  );
  showNumber(
    'delay',
    delay(events.webhookDelaySeconds),
    events.webhookDelayDaySeconds === null
      ? 'known once a webhook came'
      : `median of the last hour; ${delay(events.webhookDelayDaySeconds)} in a day`,
  );
}

function showGaps({ gaps, gapWindows, gapsRefilledLastDay }) {
  const refilled = `${count(gapsRefilledLastDay)} refilled in the last day`;
  const [oldest] = gapWindows;
  const about = oldest ? `oldest: ${oldest.pull}, ${oldest.reason ?? 'no reason told'}` : refilled;
  showNumber('gaps', count(gaps), about, gaps > 0);
}

/** Of all budgets together; whoever is silent is named. */
function showBudget({ budget }) {
  const sum = (key) => budget.reduce((total, one) => total + one[key], 0);
  const silent = budget.filter((one) => one.silentSeconds > 0);
  const each = budget.map(({ name, granted }) => `${count(granted)} ${name}`).join(', ');
  const throttled = sum('throttled');
  const more = silent.length
    ? silent.map((one) => `${one.name} silent for ${duration(one.silentSeconds)}`).join(', ')
    : `${each || 'none yet'}; ${throttled === 0 ? 'never throttled' : `${count(throttled)} throttled`}`;
  showNumber('budget', count(sum('granted')), more, silent.length > 0);
}

function showSweep({ lastSweep }) {
  if (lastSweep === null) {
    showNumber('sweep', DASH, 'none has ended yet');
    return;
  }
  const { outcome, rowsRead, requests, finishedAt } = lastSweep;
  const what = `, ${counted(rowsRead, 'user')} in ${counted(requests, 'request')}`;
  showNumber('sweep', outcome, [timeOf(finishedAt), what], outcome !== 'complete');
}

function showProof({ lastProof, driftPpm, driftSample, driftRemains }) {
  const isProven = lastProof !== null;
  showNumber(
    'proof',
    isProven ? [timeOf(lastProof)] : DASH,
    isProven ? 'everyone was compared with Descope' : 'the first complete sweep is one',
  );
  const how =
    driftSample === null ? 'everyone compared' : `estimated from ${counted(driftSample, 'user')}`;
  const drift = driftPpm === null ? DASH : `${count(driftPpm)} ppm`;
  showNumber('drift', drift, driftPpm === null ? 'no verification has run' : how, driftRemains);
}

/** All of them, from one status. */
export function showNumbers(status) {
  const { users, heldDeletions } = status;
  showNumber('live', count(users.live), `and ${counted(users.tombstones, 'tombstone')}`);
  showEvents(status);
  const isHeld = heldDeletions > 0;
  const more = isHeld
    ? [make('a', { href: '/deletions' }, 'approve or reject')]
    : 'none waits for a person';
  showNumber('deletions', count(heldDeletions), more, isHeld);
  showGaps(status);
  showBudget(status);
  showSweep(status);
  showProof(status);
}
