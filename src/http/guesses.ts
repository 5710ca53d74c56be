import { createHash } from 'node:crypto';

import { ipKeyGenerator, rateLimit } from 'express-rate-limit';

import { credentialOf } from './access.ts';

import type { Request, RequestHandler, Response } from 'express';

/*
 * Slows down whoever guesses the token with every request, as the login form does for who types it. More
 * generous than that: a scraper that was told an old token, or a page that a new token logged out, is no
 * guesser, and brings the same again and again. That counts once.
 */

const GUESSES = 100;
const WINDOW_MS = 15 * 60_000;
/** Addresses whose last wrong credential is remembered; of more the oldest is forgotten. */
const REMEMBERED = 10_000;

export interface GuessLimit {
  /** Passes on who brings no credential, or may still be wrong; answers others by `refuse`. */
  readonly door: RequestHandler;
  /** Stands behind whoever was wrong: counts it, and passes on. */
  readonly count: RequestHandler;
}

/** By the address that connects to us: behind a proxy, one for all. */
export function limitGuesses(refuse: (response: Response) => void): GuessLimit {
  const limiter = rateLimit({
    windowMs: WINDOW_MS,
    limit: GUESSES,
    keyGenerator: addressOf,
    standardHeaders: false,
    legacyHeaders: false,
    validate: { xForwardedForHeader: false, forwardedHeader: false },
    // The last one that is looked at is answered as those before.
    handler: (_request, _response, next) => {
      next();
    },
  });
  const lastWrong = new Map<string, string>();
  return {
    async door(request, response, next) {
      const known = credentialOf(request.headers) && (await limiter.getKey(addressOf(request)));
      if (!known || known.totalHits < GUESSES) {
        next();
        return;
      }
      const leftMs = (known.resetTime?.getTime() ?? 0) - Date.now();
      response.set('Retry-After', String(Math.max(1, Math.ceil(leftMs / 1000))));
      refuse(response);
    },
    count(request, response, next) {
      const address = addressOf(request);
      const credential = credentialOf(request.headers);
      const hash = createHash('sha256').update(credential).digest('base64url');
      if (credential === '' || lastWrong.get(address) === hash) {
        next();
        return;
      }
      const [oldest] = lastWrong.size < REMEMBERED ? [] : lastWrong.keys();
      if (oldest !== undefined) lastWrong.delete(oldest);
      lastWrong.set(address, hash);
      void limiter(request, response, next);
    },
  };
}

function addressOf({ ip = '' }: Request): string {
  return ipKeyGenerator(ip);
}
