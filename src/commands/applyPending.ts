import { pause } from '../abort.ts';
import { countApplied, listPending } from '../inbox/pending.ts';

import type { Engine } from '../engine.ts';

/** Events to be looked at again soon are waited for; those put off for longer are the service's. */
const SOON_SECONDS = 5;
/** Waits in a row that bring nothing: what is put off again and again (for a sweep's end, say) is theirs too. */
const VAIN_WAITS = 3;
const EVENTS_AT_ONCE = 1_000;
const EVENTS_A_CHUNK = 100;

/**
 * Applies what the inbox holds and is due, also what is due again within a few seconds. Returns how
 * many events are applied now; what was put off or given up is not among them.
 */
export async function applyPending(
  engine: Pick<Engine, 'mirror' | 'applier' | 'signal'>,
): Promise<number> {
  let applied = 0;
  let vainWaits = 0;
  for (;;) {
    const due = await listPending(engine.mirror, { seconds: SOON_SECONDS, most: EVENTS_AT_ONCE });
    if (due.length === 0) return applied;
    const now = due.filter((event) => event.waitMs === 0).map((event) => event.eventId);
    if (now.length === 0) {
      if (vainWaits++ === VAIN_WAITS) return applied;
      await pause(Math.ceil(due[0]?.waitMs ?? 0) + 10, engine.signal);
      continue;
    }
    const chunks: Promise<void>[] = [];
    for (let at = 0; at < now.length; at += EVENTS_A_CHUNK) {
      chunks.push(engine.applier.apply(now.slice(at, at + EVENTS_A_CHUNK)));
    }
    await Promise.all(chunks);
    const settled = await countApplied(engine.mirror, now);
    if (settled > 0) vainWaits = 0;
    applied += settled;
  }
}
