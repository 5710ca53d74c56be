// The audit trail: searched by filters, read backwards in time, exported. Filters may be personal: they
// are sent in a body, and the address holds a user id at most.

import { PATIENT, post, postJson } from './api.js';
import {
  doing,
  find,
  keepTimesFresh,
  make,
  readable,
  rowOf,
  say,
  setText,
  timeOf,
  userInAddress,
  userLink,
} from './dom.js';
import { counted, DASH, toDate } from './format.js';

const PAGE = 50;
/** Of an event that names many, so many are listed; an export lists all. */
const MOST_USERS = 2;
const TEXTS = ['user', 'actor', 'action', 'tenant', 'changed'];
const INSTANTS = ['since', 'until'];

/** What "older" goes on with: the filters as they were when asked, and where the last page ended. */
let asked = {};
let next = null;
/** Which search is under way: what an earlier one still finds comes too late. */
let turn = 0;

function filters() {
  const texts = TEXTS.map((name) => [name, find(name).value.trim()]);
  // What is picked is a time of the browser's zone.
  const instants = INSTANTS.map((name) => [name, toDate(find(name).value)?.toISOString() ?? '']);
  return Object.fromEntries([...texts, ...instants].filter(([, value]) => value !== ''));
}

const listed = (values) => values?.join(', ') || DASH;

function tenantsOf({ tenantIds }) {
  if (tenantIds.length < 2) return listed(tenantIds);
  return make(
    'span',
    { title: listed(tenantIds) },
    `${tenantIds[0]} and ${tenantIds.length - 1} more`,
  );
}

function usersOf({ userIds, loginIds }) {
  if (userIds.length === 0) return listed(loginIds);
  const shown = userIds.slice(0, MOST_USERS).flatMap((id, at) => [at ? ', ' : '', userLink(id)]);
  const more = userIds.length - MOST_USERS;
  return more > 0 ? [...shown, ` and ${more} more`] : shown;
}

function actionOf({ action }) {
  return make('strong', {}, action);
}

const COLUMNS = [
  ['when', ({ occurredAt }) => timeOf(occurredAt)],
  ['action', actionOf],
  ['users', usersOf, 'any'],
  ['actor', ({ actorId }) => actorId ?? DASH, 'code any'],
  ['tenants', tenantsOf, 'code any'],
  ['changed', ({ changed }) => listed(changed)],
  ['told by', ({ firstWitness }) => firstWitness ?? DASH],
  ['outcome', ({ state, outcome }) => readable([state, outcome].filter(Boolean).join(': '))],
];

function showFound() {
  const shown = find('rows').childElementCount;
  find('older').hidden = next === null;
  const empty = find('empty');
  empty.hidden = shown > 0;
  setText(
    empty,
    Object.keys(asked).length > 0
      ? 'No event of the trail is like that. Leave a filter out, or look further back.'
      : 'Events appear here as webhooks, the audit pull or an import bring them.',
  );
  setText(find('found'), next === null ? counted(shown, 'event') : `The latest ${shown} events`);
}

/**
 * Shows a page more, and returns its rows. An answer comes at once: what is rare is looked for a stretch
 * of time after the other, and shown as it is found.
 */
async function readPage() {
  const mine = ++turn;
  const rows = [];
  const looked = find('looked');
  do {
    const page = { limit: PAGE - rows.length, ...(next === null ? {} : { before: next }) };
    const answer = await postJson('/api/events/search', { ...asked, ...page }).catch((error) => {
      setText(find('found'), 'Events');
      throw error;
    });
    if (mine !== turn) return [];
    next = answer.next;
    const fresh = answer.events.map((event) => rowOf(event, COLUMNS));
    rows.push(...fresh);
    find('rows').append(...fresh);
    find('table').hidden = find('rows').childElementCount === 0;
    looked.hidden = answer.lookedBackTo === null;
    if (!looked.hidden) looked.replaceChildren('Looked back to ', timeOf(answer.lookedBackTo), '…');
  } while (!looked.hidden && rows.length < PAGE);
  looked.hidden = true;
  showFound();
  return rows;
}

async function search() {
  asked = filters();
  next = null;
  find('rows').replaceChildren();
  for (const id of ['table', 'older', 'empty']) find(id).hidden = true;
  setText(find('found'), 'Searching…');
  await readPage();
}

async function goOn() {
  const [first] = await readPage();
  // Who reads by keyboard goes on where the new rows begin.
  first?.setAttribute('tabindex', '-1');
  first?.focus();
}

async function save(format) {
  say('Exporting…');
  const response = await post('/api/events/export', { ...filters(), format }, PATIENT);
  const url = URL.createObjectURL(await response.blob());
  const day = new Date().toISOString().slice(0, 10);
  make('a', { href: url, download: `rollcall-events-${day}.${format}` }).click();
  // The browser has taken it over by then; freed at once, some would save nothing.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  say('Exported.');
}

find('filters').addEventListener('submit', (event) => {
  event.preventDefault();
  void doing([event.submitter].filter(Boolean), search);
});
find('filters').addEventListener('reset', () => {
  // The fields are cleared after this has been told.
  setTimeout(() => void doing([], search));
});
find('older').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], goOn);
});
for (const button of document.querySelectorAll('[data-format]')) {
  button.addEventListener('click', () => {
    void doing([button], () => save(button.dataset.format));
  });
}
function followAddress() {
  if (location.hash === '#main') return;
  find('user').value = userInAddress();
  void doing([], search);
}
addEventListener('hashchange', followAddress);
keepTimesFresh();
followAddress();
