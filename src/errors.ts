/**
 * Every failure we name. The set is closed; each class carries what its handler needs. What a job's
 * failure means to the queue is decided in one place, `jobs/workers.ts`; what it means to a person
 * at a terminal in another, `src/main.ts`.
 */

/** The provider says "slow down" (429). Wait `retryAfterMs`; costs no attempt. */
export class DescopeThrottled extends Error {
  readonly retryAfterMs: number;
  constructor(resource: string, retryAfterMs: number) {
    super(`Descope throttles ${resource}; silent for ${Math.ceil(retryAfterMs / 1000)} s`);
    this.name = 'DescopeThrottled';
    this.retryAfterMs = retryAfterMs;
  }
}

/** No usable answer: network, deadline, 5xx, or a body that is not what the contract promises. */
export class DescopeUnavailable extends Error {
  readonly status: number | undefined;
  constructor(resource: string, reason: string, status?: number, cause?: unknown) {
    super(`Descope gave no usable answer to ${resource}: ${reason}`, { cause });
    this.name = 'DescopeUnavailable';
    this.status = status;
  }
}

/** Descope understood and refused (4xx): asking the same again cannot help. */
export class DescopeRejected extends Error {
  readonly status: number;
  /** Descope's own code, such as `E112102` ("user not found"); empty where none was sent. */
  readonly errorCode: string;
  constructor(resource: string, status: number, errorCode: string) {
    super(`Descope refused ${resource}: HTTP ${status}${errorCode ? ` ${errorCode}` : ''}`);
    this.name = 'DescopeRejected';
    this.status = status;
    this.errorCode = errorCode;
  }
}

/** The management key is wrong, expired or lacks a role (401, 403). Nothing works until it is mended. */
export class DescopeUnauthorised extends Error {
  readonly status: number;
  constructor(resource: string, status: number) {
    super(
      `Descope refuses the management key for ${resource} (HTTP ${status}). ` +
        'Check DESCOPE_PROJECT_ID and DESCOPE_MANAGEMENT_KEY: the key may have expired or lack the role to read users.',
    );
    this.name = 'DescopeUnauthorised';
    this.status = status;
  }
}

/** A setting, argument or combination is wrong. One message lists every mistake; exit code 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** A job's payload is not one we understand. */
export class InvalidPayload extends Error {
  constructor(job: string, reason: string) {
    super(`job ${job} carries a payload that is not its own: ${reason}`);
    this.name = 'InvalidPayload';
  }
}

/** The process is stopping; the work goes on after the next start. */
export class Stopping extends Error {
  constructor() {
    super('stopping');
    this.name = 'Stopping';
  }
}

/** A window could not be proven complete; it stays a gap and is read again. */
export class WindowUnproven extends Error {
  constructor(reason: string) {
    super(`window not proven complete: ${reason}`);
    this.name = 'WindowUnproven';
  }
}

/**
 * An error as one line for a person, a log or a table, without personal data and passwords. Drizzle
 * puts a failed statement's parameters, our users, into its message: the cause speaks instead.
 */
export function describeError(error: unknown): string {
  if (error instanceof Error && 'query' in error && 'params' in error) {
    return error.cause === undefined ? 'a database query failed' : describeError(error.cause);
  }
  if (error instanceof AggregateError && error.message === '') {
    return error.errors.map(describeError).join('; ');
  }
  return hidePersonalData(error instanceof Error ? error.message : String(error));
}

/** The first `code` that an error or what caused it tells: a SQLSTATE, `ECONNREFUSED` and the like. */
export function findCode(error: unknown): string | undefined {
  for (let link = error; link instanceof Error; link = link.cause) {
    if ('code' in link && typeof link.code === 'string') return link.code;
  }
  return undefined;
}

/** The last net, for text that should not hold any: credentials in URLs, mail addresses, phone numbers. */
export function hidePersonalData(text: string): string {
  return text
    .replaceAll(/:\/\/[^\s/"'@]*@/g, '://[hidden]@')
    .replaceAll(/[\w.!#$%&'*+=?^`{|}~-]+@[\w-]+(\.[\w-]+)+/g, '[email]')
    .replaceAll(/(?<![\w:.])\+\d{7,15}\b/g, '[phone]');
}
