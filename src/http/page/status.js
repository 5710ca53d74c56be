/* global document, fetch, location, setTimeout, AbortSignal */

// Asks /api/status again and again and shows the answer. Text is only ever set as text, never as HTML.

const EVERY_MS = 2_000;
const DEADLINE_MS = 10_000;
const DASH = '–';

const find = (id) => document.getElementById(id);
const count = (value) => (typeof value === 'number' ? value.toLocaleString('en') : DASH);

function duration(seconds) {
  if (typeof seconds !== 'number') return DASH;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7_200) return `${Math.round(whole / 60)} min`;
  if (whole < 172_800) return `${Math.round(whole / 3_600)} h`;
  return `${Math.round(whole / 86_400)} days`;
}

// Postgres prints zones as +00, which not every browser reads.
function toDate(instant) {
  const date = new Date(
    String(instant)
      .replace(' ', 'T')
      .replace(/([+-]\d\d)$/, '$1:00'),
  );
  return Number.isNaN(date.getTime()) ? null : date;
}

function moment(instant) {
  const date = instant ? toDate(instant) : null;
  if (date === null) return instant ? String(instant) : DASH;
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showRows(id, rows, columns) {
  const made = rows.map((row) => {
    const line = document.createElement('tr');
    line.append(...columns.map(([text, className]) => element('td', text(row), className)));
    return line;
  });
  if (made.length === 0) {
    const cell = element('td', 'none yet', 'quiet');
    cell.colSpan = columns.length;
    const line = document.createElement('tr');
    line.append(cell);
    made.push(line);
  }
  find(id).replaceChildren(...made);
}

function showText(id, text, className) {
  const place = find(id);
  place.hidden = !text;
  place.textContent = text ?? '';
  if (className !== undefined) place.className = className;
}

function showTiles(status) {
  const { users, events } = status;
  const loss =
    typeof events.lossRate === 'number' ? `${(events.lossRate * 100).toFixed(2)} %` : DASH;
  const tiles = [
    ['live users', count(users.live)],
    ['tombstones', count(users.tombstones)],
    ['gaps', count(status.gaps), status.gaps > 0],
    ['deletions held', count(status.heldDeletions), status.heldDeletions > 0],
    ['events received, last hour', count(events.receivedLastHour)],
    ['events applied, last hour', count(events.appliedLastHour)],
    ['events pending', count(events.pending)],
    ['events parked', count(events.parked), events.parked > 0],
    ['webhook loss rate', loss],
  ];
  find('tiles').replaceChildren(
    ...tiles.map(([label, value, warns]) => {
      const tile = element('div', '', warns ? 'tile warn' : 'tile');
      tile.append(element('strong', value), element('span', label));
      return tile;
    }),
  );
}

function showSweeps({ sweep, lastSweep }) {
  find('progress').hidden = !sweep;
  if (sweep) {
    const bar = find('progress-bar');
    if (sweep.total > 0) {
      bar.max = sweep.total;
      bar.value = Math.min(sweep.rowsRead, sweep.total);
    } else bar.removeAttribute('value');
    const of = sweep.total === null ? '' : ` of ${count(sweep.total)}`;
    find('progress-text').textContent =
      `Sweep: ${count(sweep.rowsRead)}${of} users read in ${count(sweep.requests)} requests`;
  }
  const facts = sweep
    ? [
        ['now', `run ${sweep.runId}, since ${moment(sweep.startedAt)}`],
        ['windows', `${count(sweep.windowsProven)} proven, ${count(sweep.windowsOpen)} open`],
      ]
    : [['now', 'none running']];
  facts.push([
    'last',
    lastSweep
      ? `${lastSweep.outcome}, ${moment(lastSweep.finishedAt)}: ` +
        `${count(lastSweep.rowsRead)} users in ${count(lastSweep.requests)} requests`
      : 'none yet',
  ]);
  find('sweeps').replaceChildren(
    ...facts.flatMap(([term, text]) => [element('dt', term), element('dd', text)]),
  );
}

function showDemo(demo) {
  if (!demo) {
    showText('demo', '');
    return;
  }
  const differences = demo.equal ? '' : ` (${count(demo.differences)} differ)`;
  showText(
    'demo',
    `demo: mirror equals directory ${demo.equal ? '✓' : '✗'}${differences}`,
    demo.equal ? 'demo equal' : 'demo differs',
  );
}

function show(status) {
  const headline = find('sentence');
  if (headline.textContent !== status.sentence) headline.textContent = status.sentence;
  headline.dataset.state = status.state;
  showText('as-of', status.asOf ? `as of ${moment(status.asOf)}` : '');
  showDemo(status.demo);
  const { lastError } = status;
  showText('alert', lastError ? `${moment(lastError.at)}: ${lastError.message}` : '');
  showTiles(status);
  showSweeps(status);
  showRows('watermarks', status.watermarks, [
    [(row) => row.pull],
    [(row) => moment(row.completeTo)],
    [(row) => duration(row.lagSeconds), 'number'],
  ]);
  showRows('queues', status.queues, [
    [(row) => row.name],
    ...['waiting', 'active', 'delayed', 'failed'].map((key) => [
      (row) => count(row[key]),
      'number',
    ]),
  ]);
  showRows('budget', status.budget, [
    [(row) => row.name],
    [(row) => count(row.granted), 'number'],
    [(row) => count(row.throttled), 'number'],
    [(row) => moment(row.silentUntil)],
  ]);
  showRows('changes', status.recentChanges, [
    [(row) => row.userId, 'code'],
    [(row) => row.kind],
    [(row) => row.changed.join(', ') || DASH],
    [(row) => row.witness],
    [(row) => duration(row.ageSeconds), 'number'],
  ]);
  find('updated').textContent = `updated ${new Date().toLocaleTimeString()}`;
}

async function update() {
  try {
    const response = await fetch('/api/status', { signal: AbortSignal.timeout(DEADLINE_MS) });
    if (response.status === 401) {
      location.reload();
      return;
    }
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    show(await response.json());
  } catch (error) {
    find('sentence').dataset.state = 'unknown';
    showText('alert', `Rollcall does not answer (${error.message}); what is shown is old.`);
  }
}

async function keepUpdating() {
  // A page nobody looks at asks nothing.
  if (document.visibilityState === 'visible') await update();
  setTimeout(keepUpdating, EVERY_MS);
}

document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') void update();
});
void keepUpdating();
