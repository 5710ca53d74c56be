import { Presets, SingleBar } from 'cli-progress';

import type { CommandContext } from './command.ts';

/** What a fill has done so far. */
export interface FillProgress {
  readonly users: number;
  /** Users in the directory, as Descope counted them; null until it did. */
  readonly total: number | null;
  readonly requests: number;
}

export interface ProgressView {
  show(progress: FillProgress): void;
  stop(): void;
}

/** Beside the bar a line holds numbers and words of about so many characters. */
const BESIDE_BAR = 72;
const LONGEST_BAR = 40;
const SHORTEST_BAR = 8;

/** JSON lines come this often at most. */
const LINE_EVERY_MS = 1_000;

/** A bar on a terminal, lines of JSON with `--json`, nothing in a plain pipe. */
export function createProgressView(
  context: CommandContext,
  verb: 'filling' | 'comparing' = 'filling',
): ProgressView {
  if (context.json) return createJsonLines(context);
  if (!context.isTerminal) return { show: () => undefined, stop: () => undefined };
  const columns = context.screen.columns ?? BESIDE_BAR + LONGEST_BAR;
  const bar = new SingleBar(
    {
      barsize: Math.max(SHORTEST_BAR, Math.min(LONGEST_BAR, columns - BESIDE_BAR)),
      format: `${verb} {bar} {value}/{total} users · {rate} users/s · {requests} requests · {left} left`,
      etaBuffer: 50,
      hideCursor: true,
      clearOnComplete: false,
    },
    Presets.shades_grey,
  );
  const startedAt = performance.now();
  let isShown = false;
  let first = 0;
  return {
    show({ users, total, requests }) {
      if (!isShown) {
        isShown = true;
        first = users;
        bar.start(total ?? 0, users, { rate: '–', requests, left: '–' });
      }
      const rate = ((users - first) * 1000) / Math.max(1, performance.now() - startedAt);
      bar.setTotal(Math.max(total ?? 0, users));
      const left = rate > 0 ? `${Math.ceil(Math.max(0, (total ?? users) - users) / rate)} s` : '–';
      bar.update(users, { rate: Math.round(rate), requests, left });
    },
    stop() {
      if (isShown) bar.stop();
    },
  };
}

/** How often the progress is looked up. */
const SHOW_EVERY_MS = 200;

/** Now and then, one at a time: a fast fill must not be slowed by being watched. */
export function throttled(show: () => Promise<void>): () => void {
  let notBeforeMs = 0;
  return () => {
    if (performance.now() < notBeforeMs) return;
    notBeforeMs = Infinity;
    show()
      .catch(() => undefined)
      .finally(() => {
        notBeforeMs = performance.now() + SHOW_EVERY_MS;
      });
  };
}

function createJsonLines(context: CommandContext): ProgressView {
  const startedAt = performance.now();
  let lastAt = -Infinity;
  return {
    show({ users, total, requests }) {
      const now = performance.now();
      if (now - lastAt < LINE_EVERY_MS) return;
      lastAt = now;
      const seconds = Math.round((now - startedAt) / 100) / 10;
      context.stderr(JSON.stringify({ progress: { users, total, requests, seconds } }));
    },
    stop: () => undefined,
  };
}
