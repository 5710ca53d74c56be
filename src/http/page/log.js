// What people did here and by commands, newest first.

import { getJson } from './api.js';
import { complain, doing, find, keepTimesFresh, rowOf, timeOf } from './dom.js';
import { count, DASH } from './format.js';

const PAGE = 50;
/** What the API gives at once. */
const MOST = 500;
let limit = PAGE;

function told(value) {
  if (Array.isArray(value)) {
    const more = value.length > 5 ? ` and ${count(value.length - 5)} more` : '';
    return `${value.slice(0, 5).map(told).join(', ')}${more}`;
  }
  return value !== null && typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** "userIds: U1, U2 and 7 more; all: true" */
function detailOf({ detail }) {
  const said = Object.entries(detail ?? {}).map(([name, value]) => `${name}: ${told(value)}`);
  return said.join('; ') || DASH;
}

const COLUMNS = [
  ['when', ({ at }) => timeOf(at)],
  ['who', ({ actor }) => actor],
  ['did', ({ action }) => action],
  ['to what', detailOf, 'any'],
  ['outcome', ({ outcome }) => outcome],
];

async function load() {
  const { entries } = await getJson(`/api/admin-log?limit=${limit}`);
  find('rows').replaceChildren(...entries.map((entry) => rowOf(entry, COLUMNS)));
  find('table').hidden = entries.length === 0;
  find('empty').hidden = entries.length > 0;
  // Fewer than asked for: that was all, or all that is given at once.
  find('more').hidden = entries.length < limit || limit >= MOST;
}

find('more').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], () => {
    limit += PAGE;
    return load();
  });
});
keepTimesFresh();
load().catch(complain);
