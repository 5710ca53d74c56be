import { afterEach, expect, it } from 'vitest';

import { readWindow } from '../../src/pull/readWindow.ts';
import { advanceSweep, startSweep, type SweepDeps } from '../../src/pull/sweep.ts';
import { createPullScene, type PullScene } from './pullScene.ts';

/*
 * A queue gives the job of a killed process to another worker when the job's lock has run out: by then
 * somebody has taken the window over long since, and is reading it.
 */

let scene: PullScene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

/** The same sweep, whose searches wait for what `before` returns. */
function withSearches(sweep: SweepDeps, before: (count: number) => unknown): SweepDeps {
  let count = 0;
  return {
    ...sweep,
    client: {
      ...sweep.client,
      async searchUsers(...args) {
        await before(++count);
        return sweep.client.searchUsers(...args);
      },
    },
  };
}

function createGate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

it('who comes second to a window that is being read asks once and leaves', async () => {
  scene = await createPullScene({ simulator: { users: 300 }, env: { PAGE_SIZE: '20' } });
  const { sweep } = scene.process();
  const { signal } = new AbortController();
  const { runId } = await startSweep(sweep, 'a test');
  const state = await advanceSweep(sweep, runId, signal);
  if (state.kind !== 'reading') throw new Error('nothing to read');
  const [windowId = 0] = state.windowIds;

  const secondHasAsked = createGate();
  const firstIsDone = createGate();
  let asked = 0;
  const second = withSearches(sweep, (count) => {
    asked = count;
    secondHasAsked.open();
    return firstIsDone.opened;
  });
  let outcome: Promise<string> | undefined;
  const first = {
    ...withSearches(sweep, (count) => (count === 1 ? undefined : secondHasAsked.opened)),
    // From the first step on, which is in the middle of the window.
    onStep: () => {
      outcome ??= readWindow(second, windowId, signal);
    },
  };
  expect(await readWindow(first, windowId, signal)).toBe('proven');
  firstIsDone.open();

  expect(await outcome).toBe('left');
  expect(asked).toBe(1);
  expect(await scene.runSweep()).toMatchObject({ outcome: 'complete' });
  await scene.assertEqual();
});
