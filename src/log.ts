import { pino, type ChildLoggerOptions, type DestinationStream, type Logger } from 'pino';

import { describeError, findCode, hidePersonalData } from './errors.ts';

import type { Config } from './config.ts';

export type { Logger };

export interface LoggerOptions {
  readonly level: Config['LOG_LEVEL'];
  /** Where the lines go; stderr where absent, since stdout is for the answers of commands. */
  readonly destination?: DestinationStream;
}

/**
 * Fields whose values never reach a log line, at any depth (guarantee G10). Compared without case,
 * `_` and `-`, so that `given_name` and `givenName` are one. A job's or pull's name goes into fields
 * of their own, `job` and `pull`.
 */
const HIDDEN = new Set([
  ...['email', 'emails', 'recoveryemail', 'phone', 'phones', 'recoveryphone', 'name', 'givenname'],
  ...['middlename', 'familyname', 'displayname', 'picture', 'loginid', 'loginids', 'externalid'],
  ...['externalids', 'customattributes', 'payload', 'raw', 'row', 'rows', 'user', 'users', 'body'],
  ...['headers', 'remoteaddress', 'params', 'parameters', 'password', 'authorization', 'cookie'],
  ...['managementkey', 'secret', 'secrets', 'token', 'tokens', 'apikey', 'databaseurl', 'redisurl'],
  ...['descopemanagementkey', 'admintoken', 'webhookhmacsecrets', 'webhookbearertokens'],
  ...['webhookbasic', 'webhookapikey', 'env', 'config'],
]);

/** Deeper than anything we log on purpose; what lies below is dropped rather than trusted. */
const MAX_DEPTH = 4;

/**
 * The logger: one JSON object a line, `{level, time, msg, …}`. Messages are constant sentences, facts
 * go into fields; ids are welcome, personal data and secrets are hidden by the names of their fields,
 * and addresses, phone numbers and passwords in URLs wherever they stand.
 */
export function createLogger({ level, destination }: LoggerOptions): Logger {
  const withStack = level === 'debug' || level === 'trace';
  const safe = (fields: object) => toSafe(fields, withStack, 0) as Record<string, unknown>;
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }), log: safe },
      // `safe` has done it already; pino's own would add the stack.
      serializers: { err: (error: unknown) => error },
      hooks: {
        // A line's text is not left to an error: what it says belongs into the field `err`.
        logMethod(args, method) {
          const [first, text, ...rest] = args as unknown[];
          const fields = first instanceof Error ? { err: first } : first;
          const said = text ?? (typeof fields === 'object' ? '' : undefined);
          method.apply(this, [fields, said, ...rest] as Parameters<typeof method>);
        },
        streamWrite: hidePersonalData,
      },
    },
    // Written at once: the last lines before an exit are the ones that matter.
    destination ?? pino.destination({ dest: 2, sync: true }),
  );
  // pino's formatters do not see a child's fields. Children inherit from the root, this included.
  const child = Reflect.get(logger, 'child') as unknown as CreateChild;
  const createChild: CreateChild = function (fields, options) {
    return child.call(this, safe(fields), options);
  };
  return Object.defineProperty(logger, 'child', { value: createChild });
}

type CreateChild = (this: Logger, fields: object, options?: ChildLoggerOptions) => Logger;

function toSafe(value: unknown, withStack: boolean, depth: number): unknown {
  if (value instanceof Error) return toErrorFields(value, withStack);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null || value instanceof Date) return value;
  if (depth === MAX_DEPTH || ArrayBuffer.isView(value)) return '[hidden]';
  if (Array.isArray(value)) return value.map((item) => toSafe(item, withStack, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      HIDDEN.has(key.toLowerCase().replaceAll(/[_-]/g, '')) && item !== null && item !== undefined
        ? '[hidden]'
        : toSafe(item, withStack, depth + 1),
    ]),
  );
}

interface ErrorFields {
  readonly type: string;
  readonly message: string;
  readonly code?: string;
  readonly stack?: string;
}

/** Never more of an error than this: a database error's detail holds rows, a cause may hold an answer. */
function toErrorFields(error: Error, withStack: boolean): ErrorFields {
  const code = findCode(error);
  return {
    type: error.name,
    message: describeError(error),
    ...(code === undefined ? {} : { code }),
    ...(withStack ? { stack: framesOf(error) } : {}),
  };
}

/** Where an error was thrown, without the message that opens a stack. */
export function framesOf(error: Error): string {
  const lines = (error.stack ?? '').split('\n');
  return lines.filter((line) => /^\s+at /.test(line)).join('\n');
}
