import { z } from 'zod';

import { verifySample } from '../src/pull/sample.ts';
import { defineJob, KEEP } from './define.ts';

import type { VerifyDeps } from '../src/pull/drift.ts';

/** Compares counts and a random sample with Descope, and writes what it found. */
export const verify = defineJob({
  name: 'verify',
  queue: 'pulls',
  payload: z.strictObject({}),
  options: { attempts: 1, ...KEEP },
  async process(deps: { readonly verify: VerifyDeps }, _payload, signal): Promise<void> {
    await verifySample(deps.verify, signal);
  },
});
