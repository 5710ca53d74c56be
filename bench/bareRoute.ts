import { createHmac, timingSafeEqual } from 'node:crypto';

import express from 'express';

import { serve } from './programs.ts';

import type { AddressInfo } from 'node:net';

/*
 * What a webhook costs at the very least: read the body, check the signature, answer. It keeps nothing.
 */

const functions = {
  async listen(asked: { readonly hmacSecret: string }) {
    const app = express();
    app.disable('x-powered-by');
    app.post('/webhooks/descope', express.raw({ type: () => true }), (request, response) => {
      const expected = createHmac('sha256', asked.hmacSecret)
        .update(request.body as Buffer)
        .digest();
      const given = Buffer.from(String(request.headers['x-descope-webhook-s256']), 'base64');
      const isSame = given.length === expected.length && timingSafeEqual(given, expected);
      response.status(isSame ? 202 : 401).json({ accepted: 1 });
    });
    return new Promise<{ port: number }>((resolve) => {
      const server = app.listen(0, '127.0.0.1', () => {
        resolve({ port: (server.address() as AddressInfo).port });
      });
      // As long as ours: between two phases connections are idle.
      server.keepAliveTimeout = 65_000;
    });
  },
};
export type BareRouteApi = typeof functions;

serve(functions);
