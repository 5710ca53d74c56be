import { describeError, Stopping, UsageError } from '../errors.ts';

import type { Config } from '../config.ts';
import type { ExitCode } from './command.ts';

export interface Failure {
  readonly exitCode: ExitCode;
  /** stopped: a signal asked for it, and who sent that needs not be told. */
  readonly kind: 'usage' | 'postgres' | 'redis' | 'failed' | 'stopped';
  /** What went wrong and the remedy; no personal data, no secret. */
  readonly message: string;
  /** The remedy alone; null where none is known. */
  readonly remedy: string | null;
}

type Addresses = Partial<Pick<Config, 'DATABASE_URL' | 'REDIS_URL'>>;

const NETWORK_CODES = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ETIMEDOUT',
  'EHOSTUNREACH',
]);

/** Postgres' own codes that a setting or a statement by the database's owner mends. */
const POSTGRES_REMEDIES: Readonly<Record<string, string>> = {
  '28P01': 'Postgres refuses the password. Check user and password in DATABASE_URL',
  '28000': 'Postgres refuses the user. Check DATABASE_URL, and pg_hba.conf on the server',
  '3D000': 'the database of DATABASE_URL does not exist. Create it: create database <name>',
  '42501': 'the user of DATABASE_URL lacks a right. Make it the owner of its database or schema',
  '53300': 'Postgres has no connection left. Raise max_connections, or run fewer processes',
  '08P01':
    'a pooler refuses what we ask of each connection. Set ignore_startup_parameters = statement_timeout in pgbouncer',
  '57P03': 'Postgres is starting or stopping. Try again in a moment',
  '25006': 'Postgres is read-only. Let DATABASE_URL name the primary, not a replica',
};

/** What an error means to a person at a terminal. Pure; the process prints it and ends with its code. */
export function explainFailure(error: unknown, addresses: Addresses): Failure {
  if (error instanceof UsageError) {
    return { exitCode: 2, kind: 'usage', message: error.message, remedy: null };
  }
  if (error instanceof Stopping) {
    const message = 'stopped by a signal before it was done';
    return { exitCode: 1, kind: 'stopped', message, remedy: null };
  }
  const said = describeError(error);
  for (const link of chainOf(error)) {
    const remedy = POSTGRES_REMEDIES[link.code];
    if (remedy !== undefined) return failed('postgres', said, remedy);
    if (/\b(WRONGPASS|NOAUTH|NOPERM)\b/.test(link.message)) {
      return failed('redis', said, 'Redis refuses us. Check user and password in REDIS_URL');
    }
    // Descope's own failures say all there is to say.
    if (link.name.startsWith('Descope')) break;
    if (NETWORK_CODES.has(link.code) || /connection timeout|timeout expired/i.test(link.message)) {
      return isRedis(link, addresses)
        ? failed('redis', said, 'cannot reach Redis. Is it running, and is REDIS_URL right?')
        : failed(
            'postgres',
            said,
            'cannot reach Postgres. Is it running, and is DATABASE_URL right?',
          );
    }
  }
  return failed('failed', said);
}

function failed(kind: Failure['kind'], said: string, remedy: string | null = null): Failure {
  const message = remedy === null ? said : `${remedy} (${said})`;
  return { exitCode: 1, kind, message: message.replaceAll(/\s*\n\s*/g, ' '), remedy };
}

interface Link {
  readonly name: string;
  readonly message: string;
  readonly code: string;
  readonly port: number | undefined;
}

/** The error, what caused it, and the attempts it sums up, outermost first. */
function* chainOf(error: unknown): Generator<Link> {
  if (!(error instanceof Error)) return;
  yield {
    name: error.name,
    message: error.message,
    code: 'code' in error && typeof error.code === 'string' ? error.code : '',
    port: 'port' in error && typeof error.port === 'number' ? error.port : undefined,
  };
  if (error instanceof AggregateError) {
    for (const attempt of error.errors) yield* chainOf(attempt);
  }
  yield* chainOf(error.cause);
}

function isRedis(link: Link, { DATABASE_URL, REDIS_URL }: Addresses): boolean {
  const nodes = REDIS_URL ?? [];
  const database = portOf(DATABASE_URL, 5432);
  return link.port !== database && nodes.some((node) => portOf(node, 6379) === (link.port ?? 6379));
}

function portOf(url: string | undefined, standard: number): number {
  return Number(url !== undefined && URL.canParse(url) ? new URL(url).port : 0) || standard;
}
