import { toError } from './api.ts';
import { hash } from './random.ts';

import type { ApiAnswer } from './api.ts';
import type { Fault } from './faults.ts';

/** How an answer goes out. */
export interface Reply {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** `half`: the first half of the body, then the connection is cut. `never`: silence. */
  readonly how: 'whole' | 'half' | 'cut' | 'never';
  /** How long it is kept back. */
  readonly afterMs: number;
}

export function toReply(answer: ApiAnswer, headers: Readonly<Record<string, string>> = {}): Reply {
  return {
    status: answer.status,
    contentType: 'application/json',
    text: JSON.stringify(answer.body),
    headers,
    how: 'whole',
    afterMs: 0,
  };
}

const PROXY_PAGE =
  '<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n' +
  '<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n';

/** The rows of an answer: a search's or load's users, or an audit search's records. */
function rowsOf(answer: ApiAnswer): { name: string; rows: readonly unknown[] } | undefined {
  for (const name of ['users', 'audits']) {
    const rows = answer.body[name];
    if (Array.isArray(rows)) return { name, rows };
  }
  return undefined;
}

/** The answer with only some of its rows; an answer without rows becomes `{}`. */
function withRows(
  answer: ApiAnswer,
  keep: (row: unknown, index: number) => boolean,
  changes: Readonly<Record<string, unknown>> = {},
): ApiAnswer {
  const held = rowsOf(answer);
  if (!held) return { status: 200, body: {} };
  return {
    status: answer.status,
    body: { ...answer.body, [held.name]: held.rows.filter(keep), ...changes },
  };
}

/** What a fault makes of a true answer. `turn`, the number of the request, says which rows are lost. */
export function spoil(answer: ApiAnswer, fault: Fault, turn: number): Reply {
  const whole = toReply(answer);
  switch (fault.kind) {
    case 'status500':
      return toReply(toError(500, 'E011500', 'Internal server error'));
    case 'status502html':
      return { ...whole, status: 502, contentType: 'text/html', text: PROXY_PAGE };
    case 'status503':
      return toReply(toError(503, 'E011503', 'Service unavailable'));
    case 'status403':
      return toReply(toError(403, 'E011403', 'Forbidden'));
    case 'emptyObject':
      return toReply({ status: 200, body: {} });
    case 'emptyPage':
      return toReply(withRows(answer, () => false));
    case 'zeroTotal':
      return toReply(withRows(answer, () => false, { total: 0 }));
    case 'partialPage':
      // The first row always goes, so that a page of one is partial too; of the others a quarter.
      return toReply(withRows(answer, (_, index) => index > 0 && hash(turn, index) % 4 > 0));
    case 'hang':
      return { ...whole, status: 0, how: 'never' };
    case 'reset':
      return { ...whole, status: 0, how: 'cut' };
    case 'truncated':
      return { ...whole, how: 'half' };
    case 'slow':
      return { ...whole, afterMs: fault.delayMs };
    case 'stale':
      return whole;
  }
}
