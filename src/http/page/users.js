// Looks users up and tells their stories. What is typed may be personal: it is sent in a body, and the
// address holds a user id at most.

import { getJson, PATIENT, postJson } from './api.js';
import {
  complain,
  doing,
  find,
  keepTimesFresh,
  say,
  setText,
  showRows,
  timeOf,
  userInAddress,
  userLink,
} from './dom.js';
import { counted, DASH } from './format.js';
import { showStory } from './story.js';

function statusOf({ status, deletedAt }) {
  return deletedAt === null ? (status ?? DASH) : ['gone ', timeOf(deletedAt)];
}

const COLUMNS = [
  ['user', ({ userId }) => userLink(userId)],
  ['name', ({ name }) => name ?? DASH],
  ['login ids', ({ loginIds }) => loginIds.join(', ') || DASH, 'any'],
  ['e-mail', ({ email }) => email ?? DASH, 'any'],
  ['status', statusOf],
];

/** The API answers so many at most, and says where it did not look at all users. */
const MOST = 20;

async function search(thorough) {
  const query = find('query').value.trim();
  const { users, complete } = await postJson('/api/users/search', { query, thorough });
  find('results').hidden = false;
  showRows(find('found'), users, COLUMNS, 'Nobody has this user id, login id or e-mail address.');
  const more = users.length < MOST && complete ? '' : ', perhaps more';
  setText(find('results-title'), `${counted(users.length, 'user')} found${more}`);
  find('partial').hidden = complete;
  find('everyone').hidden = thorough;
  const [only] = users;
  if (users.length === 1 && only) location.hash = encodeURIComponent(only.userId);
  else find('results-title').focus();
}

/** The latest user asked for; an answer about another comes too late. */
let wanted = '';

async function tell(userId) {
  wanted = userId;
  setText(find('error'), '');
  try {
    const explanation = await getJson(`/api/users/${encodeURIComponent(userId)}/explain`);
    if (wanted !== userId) return;
    find('story').hidden = false;
    showStory(explanation);
    document.title = `${userId} · Rollcall`;
    find('story-title').focus({ preventScroll: true });
    find('story-title').scrollIntoView({ block: 'nearest' });
  } catch (error) {
    if (wanted !== userId) return;
    find('story').hidden = true;
    complain(error);
  }
}

function followAddress() {
  if (location.hash === '#main') return;
  const userId = userInAddress();
  if (userId !== '') void tell(userId);
  else find('story').hidden = true;
}

find('search').addEventListener('submit', (event) => {
  event.preventDefault();
  void doing([event.submitter].filter(Boolean), () => search(false));
});
find('everyone').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], () => search(true));
});
find('again').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], async () => {
    const userId = userInAddress();
    const { events } = await postJson('/api/replay', { userId }, PATIENT);
    say(`${counted(events, 'event')} of this user will be applied again.`);
    await tell(userId);
  });
});
addEventListener('hashchange', followAddress);
keepTimesFresh();
followAddress();
