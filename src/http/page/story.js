// One user's story: what came, what was written, what was decided, in order of time.

import { find, make, readable, showFacts, timeOf } from './dom.js';
import { full, precise, toDate } from './format.js';

const ABOUT = { event: 'event', change: 'written', deletion: 'deletion' };

function lineOf({ at, about, text }) {
  const date = toDate(at);
  const when =
    date === null
      ? make('span', { className: 'when' }, 'now')
      : make('time', { className: 'when', dateTime: at, title: full(date) }, precise(date));
  const kind = make('span', { className: `about ${about}` }, ABOUT[about] ?? about);
  return make('li', { className: about }, when, kind, make('span', {}, readable(text)));
}

function factsOf({ present, erased, others, windows }) {
  const seen = windows.map(({ pull, runId, state }) => `${pull} run ${runId} (${state})`);
  const also = others.length === 0 ? null : `${others.join(', ')} had the login id too`;
  if (erased !== null) return [['now', ['erased ', timeOf(erased.erasedAt), ': nothing is kept']]];
  if (present === null)
    return [
      ['now', 'not in the mirror'],
      ['others', also],
    ];
  const { state, deletedAt, observedAt, changedAt, witness, createdTime, modifiedTime } = present;
  return [
    ['now', state === 'live' ? 'live' : ['a tombstone since ', timeOf(deletedAt)]],
    ['last observed', [timeOf(observedAt), ` by ${witness}`]],
    ['last changed here', timeOf(changedAt)],
    ['created in Descope', createdTime === null ? null : timeOf(createdTime)],
    ['modified in Descope', modifiedTime === null ? null : timeOf(modifiedTime)],
    ['read by', seen.length === 0 ? null : seen.join(', ')],
    ['test user', present.test ? 'yes' : null],
    ['others', also],
  ];
}

/** Shows what /api/users/:id/explain answered. */
export function showStory(explanation) {
  const { userId, story, truncated } = explanation;
  find('story-title').replaceChildren('Story of ', make('span', { className: 'code' }, userId));
  find('trail').href = `/events#${encodeURIComponent(userId)}`;
  showFacts(find('present'), factsOf(explanation));
  const list = find('lines');
  list.replaceChildren(...story.map(lineOf));
  if (story.length === 0) list.append(make('li', {}, 'Nothing has happened to this user so far.'));
  if (truncated) {
    list.prepend(make('li', { className: 'quiet' }, 'There is more: only the latest is listed.'));
  }
  find('hint').hidden = true;
}
