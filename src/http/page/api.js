// Asks the admin API. What goes wrong is one line for a person.

const DEADLINE_MS = 15_000;

/** Without a deadline: some answers take as long as Descope's budget does. */
export const PATIENT = Number.POSITIVE_INFINITY;

async function ask(path, init, deadlineMs) {
  const patience = Number.isFinite(deadlineMs) ? { signal: AbortSignal.timeout(deadlineMs) } : {};
  let response;
  try {
    response = await fetch(path, { ...init, ...patience });
  } catch (error) {
    const isLate = error.name === 'TimeoutError';
    throw new Error(isLate ? 'Rollcall did not answer in time.' : 'Rollcall does not answer.', {
      cause: error,
    });
  }
  // The session is over: the same address now shows the login form.
  if (response.status === 401) location.reload();
  if (!response.ok) throw new Error(await readFailure(response));
  return response;
}

/** The server's own words, where it has any. */
async function readFailure(response) {
  const words = await response.json().catch(() => null);
  const said = words?.error;
  return typeof said === 'string'
    ? `Rollcall says: ${said}.`
    : `Rollcall answered ${response.status}.`;
}

/** @throws Error with one line for a person */
export async function getJson(path) {
  return (await ask(path, {}, DEADLINE_MS)).json();
}

/** The answer itself. The header says that it comes from a page of ours. @throws as `getJson` */
export function post(path, body, deadlineMs = DEADLINE_MS) {
  const headers = { 'content-type': 'application/json', 'x-rollcall': '1' };
  return ask(path, { method: 'POST', headers, body: JSON.stringify(body) }, deadlineMs);
}

/** @throws as `getJson` */
export async function postJson(path, body, deadlineMs = DEADLINE_MS) {
  return (await post(path, body, deadlineMs)).json();
}
