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
  /** The newest message, for who comes between two; empty while there is none. */
  let latest = '';
  let isReading = false;
  let isStopped = false;

  async function tick(): Promise<void> {
    if (isReading) return;
    isReading = true;
    let message = UNAVAILABLE;
    try {
      message = `event: status\ndata: ${JSON.stringify(await read())}\n\n`;
    } catch (error) {
      onError?.(error);
    }
    isReading = false;
    if (open.size > 0) latest = message;
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
    if (latest === '') void tick();
    else response.write(latest);
  }

  function pause(): void {
    clearInterval(timer);
    timer = undefined;
    latest = '';
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
