// Follows the status: by a stream of events, or by asking where there is none.

import { getJson } from './api.js';

/** The stream says something every 2 s. */
const SILENT_MS = 8_000;
const AGAIN_MS = 5_000;
const LOOK_MS = 1_000;

/**
 * Calls `onStatus` with each status. Calls `onTrouble` with null when one came, and every second while
 * none does with when the last came (epoch ms) and why. A page nobody looks at asks nothing.
 */
export function followStatus(onStatus, onTrouble) {
  let source = null;
  let again = null;
  let seenMs = Date.now();
  let heardMs = Date.now();
  let trouble = null;

  function take(status) {
    seenMs = heardMs = Date.now();
    trouble = null;
    onTrouble(null);
    onStatus(status);
  }

  function lose(why = 'connection lost') {
    trouble = { seenMs, why };
    onTrouble(trouble);
  }

  function close() {
    source?.close();
    source = null;
    clearTimeout(again);
  }

  function open() {
    close();
    heardMs = Date.now();
    const opened = new EventSource('/api/stream');
    source = opened;
    opened.addEventListener('status', (event) => {
      take(JSON.parse(event.data));
    });
    opened.addEventListener('unavailable', () => {
      heardMs = Date.now();
      lose('the status cannot be read');
    });
    opened.addEventListener('error', () => {
      // Cut short, the browser tries again by itself; refused, it does not.
      if (opened.readyState === EventSource.CLOSED) void poll();
      else lose();
    });
  }

  async function poll() {
    close();
    try {
      take(await getJson('/api/status'));
    } catch {
      lose();
    }
    if (document.visibilityState === 'visible') again = setTimeout(open, AGAIN_MS);
  }

  setInterval(() => {
    if (document.visibilityState !== 'visible') return;
    if (source !== null && Date.now() - heardMs > SILENT_MS) {
      // Nothing came for long: the connection may be dead without having been told.
      lose();
      open();
    } else if (trouble !== null) onTrouble(trouble);
  }, LOOK_MS);
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') open();
    else close();
  });
  // Before a page goes into the browser's cache its stream must be gone, or it could not go there.
  addEventListener('pagehide', close);
  open();
}
