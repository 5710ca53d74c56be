import { Router, type Response } from 'express';

/*
 * `/api/stream`: the status as server-sent events, at once and then every two seconds. One reader for all
 * pages that are open; none while there are none.
 */

export interface StatusStream {
  readonly router: Router;
  /** Ends every stream; none begins after this. */
  stop(): void;
}

export interface StatusStreamOptions {
  /** What `/api/status` answers. */
  readonly read: () => Promise<unknown>;
  readonly onError?: ((error: unknown) => void) | undefined;
}

const EVERY_MS = 2_000;
/** What was read before that is told to nobody who comes. */
const OLDEST_MS = 2 * EVERY_MS;
const MOST_STREAMS = 100;
const RETRY_AFTER_SECONDS = 5;
const HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-store',
  // Or nginx would collect events before it passes them on.
  'X-Accel-Buffering': 'no',
};
/** The status cannot be read at the moment: what a page shows is old. */
const UNAVAILABLE = 'event: unavailable\ndata: {"error":"the status cannot be read"}\n\n';

/** The event `status` carries what `read` answers; `unavailable` comes in its place where that fails. */
export function createStatusStream({ read, onError }: StatusStreamOptions): StatusStream {
  const open = new Set<Response>();
  let timer: NodeJS.Timeout | undefined;
  /** The newest message, for who comes between two, and when it was begun to be read. */
  let latest: { readonly message: string; readonly readMs: number } | undefined;
  let isReading = false;
  /** How often nobody was left. */
  let pauses = 0;
  let isStopped = false;

  async function tick(): Promise<void> {
    if (isReading) return;
    isReading = true;
    const begun = { pauses, readMs: performance.now() };
    let message = UNAVAILABLE;
    try {
      message = `event: status\ndata: ${JSON.stringify(await read())}\n\n`;
    } catch (error) {
      onError?.(error);
    }
    isReading = false;
    if (begun.pauses !== pauses) {
      // Everybody left meanwhile, and who came since is told what is so now, not then.
      if (open.size > 0) await tick();
      return;
    }
    if (open.size > 0) latest = { message, readMs: begun.readMs };
    for (const response of open) {
      // Who does not keep up misses some: the next is newer anyway, and nothing piles up here.
      if (!response.writableNeedDrain) response.write(message);
    }
  }

  function begin(response: Response): void {
    open.add(response);
    timer ??= setInterval(() => void tick(), EVERY_MS);
    response.on('close', () => {
      open.delete(response);
      if (open.size === 0) pause();
    });
    response.writeHead(200, HEADERS);
    response.flushHeaders();
    // An old one is there where reading takes long: the next comes when it comes.
    if (latest && performance.now() - latest.readMs < OLDEST_MS) response.write(latest.message);
    else void tick();
  }

  function pause(): void {
    clearInterval(timer);
    timer = undefined;
    latest = undefined;
    pauses++;
  }

  const router = Router();
  router.get('/api/stream', (_request, response) => {
    if (!isStopped && open.size < MOST_STREAMS) begin(response);
    else {
      response.status(503).set('Retry-After', String(RETRY_AFTER_SECONDS));
      response.json({ error: isStopped ? 'stopping' : `${MOST_STREAMS} pages are open already` });
    }
  });
  return {
    router,
    stop() {
      isStopped = true;
      for (const response of open) response.end();
      open.clear();
      pause();
    },
  };
}
