import { createRequire } from 'node:module';

import express from 'express';

import { serve } from './programs.ts';

import type { AddressInfo } from 'node:net';

/*
 * `@supabase/stripe-sync-engine` as its README sets it up: its own migrations, its own pool of ten. Only
 * the Stripe client is exchanged for one that knows where our fake one is, for it has no setting for that.
 *
 * Loaded when it is used, because it is installed here and not with the product; as CommonJS, because its
 * ES module looks for its migrations by `__dirname`, which ES modules have not, and goes on without.
 */

interface StripeSync {
  stripe: unknown;
  syncBackfill(asked: { readonly object: string }): Promise<{ customers?: { synced: number } }>;
  processWebhook(payload: Buffer, signature: string): Promise<void>;
}

interface Engine {
  readonly StripeSync: new (config: Readonly<Record<string, unknown>>) => StripeSync;
  runMigrations(config: { readonly databaseUrl: string; readonly schema: string }): Promise<void>;
}

type Stripe = new (key: string, config: Readonly<Record<string, unknown>>) => unknown;

const KEY = 'sk_test_bench';
let sync: StripeSync | undefined;

function started(): StripeSync {
  if (!sync) throw new Error('start comes first');
  return sync;
}

const functions = {
  async start(asked: {
    readonly databaseUrl: string;
    readonly stripePort: number;
    readonly webhookSecret: string;
    /** Fetch the customer anew for each webhook, as its setting `revalidateObjectsViaStripeApi` does. */
    readonly revalidate: boolean;
  }) {
    // Of the compiled file: `bench/node_modules` is on its way up.
    const require = createRequire(import.meta.url);
    const engine = require('@supabase/stripe-sync-engine') as Engine;
    const stripe = require('stripe') as Stripe;
    await engine.runMigrations({ databaseUrl: asked.databaseUrl, schema: 'stripe' });
    sync = new engine.StripeSync({
      poolConfig: { connectionString: asked.databaseUrl },
      stripeSecretKey: KEY,
      stripeWebhookSecret: asked.webhookSecret,
      ...(asked.revalidate ? { revalidateObjectsViaStripeApi: ['customer'] } : {}),
    });
    sync.stripe = new stripe(KEY, { host: '127.0.0.1', port: asked.stripePort, protocol: 'http' });
  },
  /** Its own backfill of all customers. */
  async fill() {
    const startedMs = performance.now();
    const { customers } = await started().syncBackfill({ object: 'customer' });
    return { users: customers?.synced ?? 0, seconds: (performance.now() - startedMs) / 1000 };
  },
  /** A route around `processWebhook`, which answers when it is done. */
  async listen() {
    const app = express();
    app.post('/webhooks', express.raw({ type: () => true }), async (request, response) => {
      const signature = request.headers['stripe-signature'];
      await started().processWebhook(request.body as Buffer, String(signature));
      response.status(200).json({ received: true });
    });
    return new Promise<{ port: number }>((resolve) => {
      const server = app.listen(0, '127.0.0.1', () => {
        resolve({ port: (server.address() as AddressInfo).port });
      });
    });
  },
};
export type PeerApi = typeof functions;

serve(functions);
