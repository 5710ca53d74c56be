import type { Behaviour, Limits } from './behaviour.ts';
import type { RequestKind } from './requestLog.ts';

const MINUTE_MS = 60_000;

type Bucket = keyof Limits;

/** Which limits a request counts against. */
function bucketsOf(kind: RequestKind): readonly Bucket[] {
  switch (kind) {
    case 'userSearch':
    case 'userLoad':
    case 'userGet':
      return ['users', kind];
    case 'audit':
      return ['audit'];
    default:
      return ['other'];
  }
}

/** The rate limits: fixed minutes, and after one request too many a block. */
export class RateLimits {
  private readonly behaviour: Pick<Behaviour, 'limits' | 'penaltyMs'>;
  private readonly windows = new Map<
    Bucket,
    { startedMs: number; used: number; blockedUntilMs: number }
  >();

  constructor(behaviour: Pick<Behaviour, 'limits' | 'penaltyMs'>) {
    this.behaviour = behaviour;
  }

  /** Counts a request at `nowMs`. Returns 0 where it may pass, else how many ms it should stay away. */
  take(kind: RequestKind, nowMs: number): number {
    const waits = bucketsOf(kind).map((bucket) => this.takeFrom(bucket, nowMs));
    return Math.max(...waits);
  }

  /** Forgets what was used, and every block. */
  reset(): void {
    this.windows.clear();
  }

  private takeFrom(bucket: Bucket, nowMs: number): number {
    const most = this.behaviour.limits[bucket];
    if (most === null) return 0;
    const { penaltyMs } = this.behaviour;
    const window = this.windows.get(bucket) ?? { startedMs: nowMs, used: 0, blockedUntilMs: 0 };
    this.windows.set(bucket, window);
    if (nowMs < window.blockedUntilMs) {
      // Asking during the block starts it again: only silence ends it.
      if (penaltyMs > 0) window.blockedUntilMs = nowMs + penaltyMs;
      return window.blockedUntilMs - nowMs;
    }
    if (window.blockedUntilMs > 0 || nowMs >= window.startedMs + MINUTE_MS) {
      Object.assign(window, { startedMs: nowMs, used: 0, blockedUntilMs: 0 });
    }
    window.used++;
    if (window.used <= most) return 0;
    window.blockedUntilMs = penaltyMs > 0 ? nowMs + penaltyMs : window.startedMs + MINUTE_MS;
    return window.blockedUntilMs - nowMs;
  }
}
