/** What a request asked for; `control` is not Descope's and never counted. */
export const REQUEST_KINDS = [
  'userSearch',
  'userLoad',
  'userGet',
  'audit',
  'license',
  'connector',
  'keys',
  'other',
] as const;
export type RequestKind = (typeof REQUEST_KINDS)[number];

export interface LoggedRequest {
  readonly kind: RequestKind;
  /** 0: the connection was cut, or no answer was ever given. */
  readonly status: number;
  /** When it arrived, epoch ms, without the simulated skew. */
  readonly atMs: number;
}

/** The list is for tests and eyes; the counts are kept for ever. */
const MOST_LISTED = 20_000;

/** Every request that reached the simulated API. */
export class RequestLog {
  private listed: LoggedRequest[] = [];
  private readonly counts = new Map<string, number>();

  add(request: LoggedRequest): void {
    this.listed.push(request);
    if (this.listed.length > 2 * MOST_LISTED) this.listed = this.listed.slice(-MOST_LISTED);
    const key = `${request.kind} ${request.status}`;
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
  }

  /** The latest requests, oldest first. */
  get list(): readonly LoggedRequest[] {
    return this.listed.slice(-MOST_LISTED);
  }

  /** How many requests of a kind (all kinds where absent) were answered with a status (any where absent). */
  countOf(kind?: RequestKind, status?: number): number {
    let count = 0;
    for (const [key, times] of this.counts) {
      const [ofKind, ofStatus] = key.split(' ');
      if ((!kind || kind === ofKind) && (status === undefined || String(status) === ofStatus)) {
        count += times;
      }
    }
    return count;
  }

  /** How many requests were answered 429. */
  get tooMany(): number {
    return this.countOf(undefined, 429);
  }

  /** Counts by kind, then by status. */
  summary(): Record<string, Record<string, number>> {
    const summary: Record<string, Record<string, number>> = {};
    for (const [key, times] of this.counts) {
      const [kind = '', status = ''] = key.split(' ');
      summary[kind] = { ...summary[kind], [status]: times };
    }
    return summary;
  }

  reset(): void {
    this.listed = [];
    this.counts.clear();
  }
}
