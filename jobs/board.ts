import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';

import type { RequestListener } from 'node:http';
import type { Queues } from './queues.ts';

/** Where it is mounted: the board's own pages and calls lie below. */
const BOARD_PATH = '/queues';

/** What each queue carries, for whoever looks at the board. */
const DESCRIPTIONS: Readonly<Record<string, string>> = {
  events: 'Applies what webhooks and the audit trail told of: one job a delivery',
  pulls: 'Reads from Descope: modified users, the audit trail, sweeps, verifications',
};

/**
 * bull-board over our queues, to be mounted at `/queues`; whoever mounts it lets in whom it should. Jobs
 * hold ids only, so nothing in it is personal. Read-only: it shows jobs and changes none.
 */
export function createQueueBoard(
  queues: Pick<Queues, 'opened' | 'ping'>,
  { isReadOnly }: { readonly isReadOnly: boolean },
): RequestListener {
  const serverAdapter = new ExpressAdapter();
  serverAdapter.setBasePath(BOARD_PATH);
  createBullBoard({
    queues: queues.opened.map(
      (queue) =>
        new BullMQAdapter(queue, {
          readOnlyMode: isReadOnly,
          description: DESCRIPTIONS[queue.name] ?? '',
        }),
    ),
    serverAdapter,
    options: {
      uiConfig: { boardTitle: 'Rollcall', miscLinks: [{ text: 'Dashboard', url: '/' }] },
      // BullMQ waits for ever for a queue that is away; asked first, the board answers 500 in seconds.
      handlerHooks: { before: () => queues.ping() },
    },
  });
  const board = serverAdapter.getRouter() as RequestListener & { disable(setting: string): void };
  board.disable('x-powered-by');
  return board;
}
