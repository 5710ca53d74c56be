// The deletions that the breaker held: a person decides, some or all at once.

import { getJson, PATIENT, postJson } from './api.js';
import {
  complain,
  doing,
  find,
  keepTimesFresh,
  make,
  rowOf,
  say,
  setText,
  timeOf,
  userLink,
} from './dom.js';
import { count, counted, DASH } from './format.js';

const PAGE = 50;
let next = null;

function boxOf({ userId }) {
  const box = make('input', { type: 'checkbox', name: 'user', value: userId });
  return make('label', {}, box, make('span', { className: 'hidden' }, `choose ${userId}`));
}

const COLUMNS = [
  ['', boxOf, 'check'],
  ['user', ({ userId }) => userLink(userId)],
  ['found by', ({ witness }) => witness],
  ['found', ({ nominatedAt }) => timeOf(nominatedAt)],
  ['verified', ({ verifiedAt }) => timeOf(verifiedAt)],
  ['evidence', ({ evidence }) => evidence ?? DASH],
];

const boxes = () => [...find('rows').querySelectorAll('input')];
const chosen = () =>
  boxes()
    .filter((box) => box.checked)
    .map((box) => box.value);

function showChosen() {
  const ids = chosen();
  setText(find('chosen'), ids.length === 0 ? 'none chosen' : `${count(ids.length)} chosen`);
  for (const button of find('held').querySelectorAll('[data-of="chosen"]')) {
    button.disabled = ids.length === 0;
  }
  const every = find('every');
  every.checked = ids.length > 0 && ids.length === boxes().length;
  every.indeterminate = ids.length > 0 && !every.checked;
}

/** The first page again, or the next one below what is shown. */
async function load(after) {
  const from = after === null ? '' : `&after=${encodeURIComponent(after)}`;
  const answer = await getJson(`/api/deletions?limit=${PAGE}${from}`);
  const rows = answer.deletions.map((deletion) => rowOf(deletion, COLUMNS));
  if (after === null) find('rows').replaceChildren(...rows);
  else find('rows').append(...rows);
  const { total } = answer;
  next = answer.next;
  find('held').hidden = total === 0;
  find('empty').hidden = total > 0;
  find('more').hidden = next === null;
  setText(find('title'), total === 0 ? 'No deletion waits' : `${counted(total, 'deletion')} held`);
  showChosen();
}

const VERBS = {
  approve: {
    ask: (users) => `Remove ${users}?`,
    text:
      'Each user is loaded by id once more. Those who are still gone become tombstones, those who ' +
      'are there after all stay.',
    button: 'Approve',
    done: 'approved',
  },
  reject: {
    ask: (users) => `Keep ${users}?`,
    text: 'They stay in the mirror as they are. A later finding may hold them again.',
    button: 'Reject',
    done: 'rejected',
  },
};

/** Whether the person says yes, having read how many users it is about. */
function confirmed(verb, many) {
  const { ask, text, button } = VERBS[verb];
  const dialog = find('confirm');
  setText(find('confirm-title'), ask(counted(many, 'user')));
  setText(find('confirm-text'), text);
  const yes = find('confirm-yes');
  setText(yes, `${button} ${count(many)}`);
  yes.className = verb === 'approve' ? 'danger' : 'primary';
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

async function decide(verb, ofAll) {
  const userIds = chosen();
  // Others may have come since the list was loaded: the number is of now.
  const { total, newest } = ofAll ? await getJson('/api/deletions?limit=1') : {};
  if (!(await confirmed(verb, total ?? userIds.length))) return;
  const body = ofAll ? { all: true, upTo: newest } : { userIds };
  const buttons = [...find('held').querySelectorAll('button')];
  await doing(buttons, async () => {
    say('Deciding… this takes a request to Descope for each hundred users.');
    const { decided } = await postJson(`/api/deletions/${verb}`, body, PATIENT);
    await load(null);
    say(`${counted(decided, 'deletion')} ${VERBS[verb].done}.`);
  });
  showChosen();
  find('main').focus({ preventScroll: true });
}

find('held').addEventListener('submit', (event) => {
  event.preventDefault();
  const { value, dataset } = event.submitter ?? {};
  if (value in VERBS) decide(value, dataset.of === 'all').catch(complain);
});
find('held').addEventListener('change', ({ target }) => {
  if (target === find('every')) for (const box of boxes()) box.checked = target.checked;
  showChosen();
});
find('more').addEventListener('click', ({ currentTarget }) => {
  void doing([currentTarget], () => load(next));
});
keepTimesFresh();
load(null).catch(complain);
