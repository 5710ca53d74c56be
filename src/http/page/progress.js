// How long a sweep still takes, from how fast it went of late.

const LATELY_MS = 60_000;
/** Less than that says nothing about speed. */
const TELLING_MS = 4_000;

/**
 * Takes each status's sweep with when it came (epoch ms); answers the seconds left, null where that
 * cannot be told. A sweep that was interrupted says little by when it began: what was seen counts first.
 */
export function createProgress() {
  let runId = null;
  let seen = [];
  return (sweep, nowMs) => {
    if (sweep === null || sweep.runId !== runId) seen = [];
    runId = sweep?.runId ?? null;
    if (sweep === null || !(sweep.total > 0)) return null;
    seen = [...seen.filter(([atMs]) => nowMs - atMs <= LATELY_MS), [nowMs, sweep.rowsRead]];
    const [firstMs, firstRows] = seen[0];
    const read = sweep.rowsRead - firstRows;
    const left = sweep.total - sweep.rowsRead;
    if (nowMs - firstMs < TELLING_MS || read <= 0 || left <= 0) return null;
    return ((nowMs - firstMs) / 1000 / read) * left;
  };
}
