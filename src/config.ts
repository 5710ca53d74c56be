import { validate } from 'node-cron';
import { z } from 'zod';

import { UsageError } from './errors.ts';
import { parseExcluded, toExclusion } from './exclude.ts';
import { checkOutgoing, outgoingSettings } from './outgoingSettings.ts';

/*
 * The only list of settings. `.env.example` is tested against it; nothing but `src/main.ts` reads
 * the environment, and modules are handed the few fields they need.
 */

const wholeNumber = (fallback: number, min: number, max: number) =>
  z
    .string()
    .optional()
    .transform((text, context) => {
      if (text === undefined) return fallback;
      const value = Number(text);
      if (Number.isInteger(value) && value >= min && value <= max) return value;
      context.addIssue(`must be a whole number from ${min} to ${max}, not "${text}"`);
      return z.NEVER;
    });

const percent = (fallback: number) =>
  z
    .string()
    .optional()
    .transform((text, context) => {
      if (text === undefined) return fallback;
      const value = Number(text);
      if (Number.isFinite(value) && value >= 0 && value <= 100) return value;
      context.addIssue(`must be a percentage from 0 to 100, not "${text}"`);
      return z.NEVER;
    });

const flag = (fallback: boolean) =>
  z
    .string()
    .optional()
    .transform((text, context) => {
      if (text === undefined) return fallback;
      if (['true', '1', 'yes', 'on'].includes(text.toLowerCase())) return true;
      if (['false', '0', 'no', 'off'].includes(text.toLowerCase())) return false;
      context.addIssue(`must be true or false, not "${text}"`);
      return z.NEVER;
    });

const list = z
  .string()
  .optional()
  .transform((text) =>
    (text ?? '')
      .split(',')
      .map((part) => part.trim())
      .filter((part) => part !== ''),
  );

/** `URL.parse` would say it shorter, but not on every Node 20. */
const hasProtocol = (text: string, protocols: readonly string[]) =>
  URL.canParse(text) && protocols.includes(new URL(text).protocol);

const url = (protocols: readonly string[], example: string) =>
  z.string().refine(
    (text) => hasProtocol(text, protocols),
    // Never the value itself: a database URL holds a password.
    { error: `must be an address such as ${example}` },
  );

const cron = (fallback: string) =>
  z
    .string()
    .optional()
    .transform((text, context) => {
      const value = (text ?? fallback).trim();
      if (value === 'off') return null;
      const fields = value.split(/\s+/).length;
      if ((fields === 5 || fields === 6) && validate(value)) return value;
      context.addIssue(
        `must be a cron line of 5 fields (or 6, with seconds first) or "off", not "${value}"`,
      );
      return z.NEVER;
    });

const pair = (separator: string, shape: string) =>
  z
    .string()
    .optional()
    .transform((text, context) => {
      if (text === undefined) return null;
      const at = text.indexOf(separator);
      const [name, value] = [text.slice(0, at).trim(), text.slice(at + 1).trim()];
      // An empty secret would be that of every delivery that has none.
      if (at > 0 && name !== '' && value !== '') return { name, value };
      context.addIssue(`must have the form ${shape}`);
      return z.NEVER;
    });

export const settings = {
  DESCOPE_PROJECT_ID: z.string({ error: 'is required: the id of the Descope project (P…)' }),
  DESCOPE_MANAGEMENT_KEY: z.string({
    error: 'is required: create one in the Descope console under Company → Management Keys',
  }),
  DESCOPE_BASE_URL: url(['http:', 'https:'], 'https://api.descope.com').optional(),
  DATABASE_URL: url(
    ['postgres:', 'postgresql:'],
    'postgres://user:password@host:5432/database',
  ).optional(),
  REDIS_URL: z
    .string()
    .optional()
    .transform((text, context) => {
      if (text === undefined) return null;
      const nodes = text.split(',').map((node) => node.trim());
      const good = nodes.every((node) => hasProtocol(node, ['redis:', 'rediss:']));
      if (good) return nodes;
      context.addIssue(
        'must be an address such as redis://host:6379, or several with commas between for a cluster',
      );
      return z.NEVER;
    }),
  MIRROR_SCHEMA: z
    .string()
    .default('descope')
    .refine((text) => /^[a-z_][a-z0-9_]{0,49}$/.test(text), {
      error: 'must be a plain schema name: lower-case letters, digits and _, 50 at most',
    }),
  MIRROR_EXCLUDE: list.transform((names, context) => {
    const parsed = names.map(parseExcluded);
    const mistakes = parsed.flatMap((one) => ('mistake' in one ? [one.mistake] : []));
    for (const mistake of mistakes) context.addIssue(mistake);
    if (mistakes.length > 0) return z.NEVER;
    return toExclusion(parsed.flatMap((one) => ('name' in one ? [one.name] : [])));
  }),
  PORT: wholeNumber(8787, 0, 65535),
  ADMIN_PORT: wholeNumber(8788, 0, 65535),
  ADMIN_HOST: z.string().default('127.0.0.1'),
  ADMIN_TOKEN: z.string().optional(),
  WEBHOOK_HMAC_SECRETS: list,
  WEBHOOK_BEARER_TOKENS: list,
  WEBHOOK_BASIC: pair(':', 'user:password'),
  WEBHOOK_API_KEY: pair(':', 'Header-Name:value'),
  WEBHOOK_ALLOW_UNAUTHENTICATED: flag(false),
  API_BUDGET_PER_MINUTE: wholeNumber(100, 1, 10_000_000),
  AUDIT_BUDGET_PER_MINUTE: wholeNumber(8, 1, 10_000_000),
  PAGE_SIZE: wholeNumber(100, 1, 10_000),
  PULL_MODIFIED_CRON: cron('* * * * *'),
  PULL_AUDIT_CRON: cron('* * * * *'),
  SWEEP_CRON: cron('0 3 * * *'),
  VERIFY_CRON: cron('*/15 * * * *'),
  PULL_OVERLAP_SECONDS: wholeNumber(300, 0, 86_400),
  PULL_SETTLE_SECONDS: wholeNumber(5, 0, 3_600),
  DESCOPE_TIME_UNIT: z
    .enum(['auto', 'ms', 's'], { error: 'must be auto, ms or s' })
    .default('auto'),
  INCLUDE_TEST_USERS: flag(false),
  BREAKER_MAX_COUNT: wholeNumber(500, 0, 1_000_000_000),
  BREAKER_MAX_PERCENT: percent(5),
  EVENT_ARCHIVE: z.enum(['users', 'all'], { error: 'must be users or all' }).default('users'),
  EVENT_RETENTION_DAYS: wholeNumber(30, 1, 36_500),
  TOMBSTONE_RETENTION_DAYS: wholeNumber(30, 1, 36_500),
  FEED_RETENTION_DAYS: wholeNumber(30, 1, 36_500),
  FEED_NOTIFY: flag(false),
  ...outgoingSettings,
  WORKER_CONCURRENCY: wholeNumber(200, 1, 10_000),
  LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'silent'], {
      error: 'must be trace, debug, info, warn, error or silent',
    })
    .default('info'),
  // OpenTelemetry's own names: other OTEL_… variables are read by its libraries themselves.
  OTEL_EXPORTER_OTLP_ENDPOINT: url(['http:', 'https:'], 'http://localhost:4318').optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: url(
    ['http:', 'https:'],
    'http://localhost:4318/v1/traces',
  ).optional(),
  OTEL_SERVICE_NAME: z.string().default('rollcall'),
} as const;

const schema = z.object(settings);

/** Our settings, parsed and frozen; names are those of the environment. */
export type Config = Readonly<z.output<typeof schema>>;

/** What a command needs from the environment beyond what every command needs. */
export interface Needs {
  /** The command talks to Descope. */
  readonly descope: boolean;
  /** The command answers webhooks. */
  readonly receives: boolean;
  /** The command opens the admin port. */
  readonly serves: boolean;
}

const LOOPBACK = new Set(['127.0.0.1', 'localhost', '::1']);

function crossChecks(config: Config, needs: Needs): string[] {
  return [
    ...(needs.receives ? checkWebhook(config) : []),
    ...(needs.serves ? [...checkAdmin(config), ...checkOutgoing(config)] : []),
  ];
}

function checkWebhook(config: Config): string[] {
  const mistakes: string[] = [];
  const authenticated =
    config.WEBHOOK_HMAC_SECRETS.length > 0 ||
    config.WEBHOOK_BEARER_TOKENS.length > 0 ||
    config.WEBHOOK_BASIC !== null ||
    config.WEBHOOK_API_KEY !== null;
  if (!authenticated && !config.WEBHOOK_ALLOW_UNAUTHENTICATED) {
    mistakes.push(
      'WEBHOOK_HMAC_SECRETS is required (or another WEBHOOK_… authentication): anyone could post events. ' +
        'Set WEBHOOK_ALLOW_UNAUTHENTICATED=true to accept that.',
    );
  }
  if (config.WEBHOOK_BASIC !== null && config.WEBHOOK_BEARER_TOKENS.length > 0) {
    mistakes.push(
      'WEBHOOK_BASIC and WEBHOOK_BEARER_TOKENS use the same header and can never both match: unset one',
    );
  }
  return mistakes;
}

function checkAdmin({ ADMIN_HOST, ADMIN_TOKEN }: Config): string[] {
  if (LOOPBACK.has(ADMIN_HOST) || ADMIN_TOKEN !== undefined) return [];
  return [`ADMIN_TOKEN is required because ADMIN_HOST is ${ADMIN_HOST}, which others can reach`];
}

/** A token that is shorter can be guessed, however slowly. */
const LEAST_TOKEN = 16;

/** What is allowed but unwise, a line each, with the remedy. */
export function listCautions({ ADMIN_HOST, ADMIN_TOKEN }: Config): string[] {
  if (LOOPBACK.has(ADMIN_HOST) || (ADMIN_TOKEN ?? '').length >= LEAST_TOKEN) return [];
  return [
    `ADMIN_TOKEN has fewer than ${LEAST_TOKEN} characters and ADMIN_HOST is ${ADMIN_HOST}, which others can reach: take a long one, such as \`openssl rand -hex 32\` makes`,
  ];
}

/**
 * Reads the settings from `env`, without blanks around them. Empty values count as unset.
 * @throws UsageError with one message that lists every mistake; no value of a secret is in it
 */
export function parseConfig(
  env: Readonly<Record<string, string | undefined>>,
  needs: Needs = { descope: true, receives: true, serves: true },
): Config {
  const given: Record<string, string> = Object.fromEntries(
    Object.entries(env).flatMap(([name, value = '']) => {
      const text = value.trim();
      return name in settings && text !== '' ? [[name, text] as const] : [];
    }),
  );
  if (!needs.descope) {
    given['DESCOPE_PROJECT_ID'] ??= '';
    given['DESCOPE_MANAGEMENT_KEY'] ??= '';
  }
  const parsed = schema.safeParse(given);
  const mistakes = parsed.success
    ? crossChecks(parsed.data, needs)
    : [
        ...parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`),
        // The other mistakes are worth telling in the same breath.
        ...crossChecks(defaultsFor(given), needs),
      ];
  if (!parsed.success || mistakes.length > 0) {
    throw new UsageError(
      `${mistakes.length === 1 ? 'one setting is' : `${mistakes.length} settings are`} wrong: ` +
        mistakes.join('; '),
    );
  }
  return Object.freeze(parsed.data);
}

/** The settings with each wrong one at its default, so that the cross-checks can still run. */
function defaultsFor(given: Record<string, string | undefined>): Config {
  const good = Object.entries(given).filter(
    ([name, value]) => settings[name as keyof typeof settings].safeParse(value).success,
  );
  return schema.parse({
    DESCOPE_PROJECT_ID: '',
    DESCOPE_MANAGEMENT_KEY: '',
    ...Object.fromEntries(good),
  });
}
