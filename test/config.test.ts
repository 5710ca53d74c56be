import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';

import { describe, expect, test } from 'vitest';

import { listCautions, parseConfig, settings, type Needs } from '../src/config.ts';
import { UsageError } from '../src/errors.ts';

const required = {
  DESCOPE_PROJECT_ID: 'P2test',
  DESCOPE_MANAGEMENT_KEY: 'K2test',
  WEBHOOK_HMAC_SECRETS: 'one-secret',
};

function messageOf(env: Record<string, string>, needs?: Needs): string {
  try {
    parseConfig(env, needs);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error('parsed without a complaint');
}

describe('parseConfig', () => {
  test('has the documented defaults', () => {
    expect(parseConfig(required)).toEqual({
      DESCOPE_PROJECT_ID: 'P2test',
      DESCOPE_MANAGEMENT_KEY: 'K2test',
      MIRROR_SCHEMA: 'descope',
      MIRROR_EXCLUDE: { names: [] },
      REDIS_URL: null,
      PORT: 8787,
      ADMIN_PORT: 8788,
      ADMIN_HOST: '127.0.0.1',
      WEBHOOK_HMAC_SECRETS: ['one-secret'],
      WEBHOOK_BEARER_TOKENS: [],
      WEBHOOK_BASIC: null,
      WEBHOOK_API_KEY: null,
      WEBHOOK_ALLOW_UNAUTHENTICATED: false,
      API_BUDGET_PER_MINUTE: 100,
      AUDIT_BUDGET_PER_MINUTE: 8,
      PAGE_SIZE: 100,
      PULL_MODIFIED_CRON: '* * * * *',
      PULL_AUDIT_CRON: '* * * * *',
      SWEEP_CRON: '0 3 * * *',
      VERIFY_CRON: '*/15 * * * *',
      PULL_OVERLAP_SECONDS: 300,
      PULL_SETTLE_SECONDS: 5,
      DESCOPE_TIME_UNIT: 'auto',
      INCLUDE_TEST_USERS: false,
      BREAKER_MAX_COUNT: 500,
      BREAKER_MAX_PERCENT: 5,
      EVENT_ARCHIVE: 'users',
      EVENT_RETENTION_DAYS: 30,
      TOMBSTONE_RETENTION_DAYS: 30,
      FEED_RETENTION_DAYS: 30,
      FEED_NOTIFY: false,
      OUTGOING_URLS: [],
      OUTGOING_SECRETS: [],
      OUTGOING_BODY: 'thin',
      WORKER_CONCURRENCY: 200,
      LOG_LEVEL: 'info',
      OTEL_SERVICE_NAME: 'rollcall',
    });
  });

  test('no secret has a default (G9)', () => {
    const config = parseConfig({ ...required, WEBHOOK_HMAC_SECRETS: '', WEBHOOK_BASIC: 'u:p' });
    expect(config.ADMIN_TOKEN).toBeUndefined();
    expect(config.WEBHOOK_HMAC_SECRETS).toEqual([]);
  });

  test('reads lists, pairs, flags and clusters', () => {
    const config = parseConfig({
      ...required,
      WEBHOOK_HMAC_SECRETS: ' new , old ,',
      WEBHOOK_BASIC: 'descope:pass:with:colons',
      WEBHOOK_API_KEY: 'X-Api-Key: abc',
      WEBHOOK_ALLOW_UNAUTHENTICATED: 'TRUE',
      REDIS_URL: 'redis://a:6379, redis://b:6379',
      SWEEP_CRON: 'off',
      PULL_AUDIT_CRON: '*/10 * * * * *',
      BREAKER_MAX_PERCENT: '2.5',
    });

    expect(config.WEBHOOK_HMAC_SECRETS).toEqual(['new', 'old']);
    expect(config.WEBHOOK_BASIC).toEqual({ name: 'descope', value: 'pass:with:colons' });
    expect(config.WEBHOOK_API_KEY).toEqual({ name: 'X-Api-Key', value: 'abc' });
    expect(config.WEBHOOK_ALLOW_UNAUTHENTICATED).toBe(true);
    expect(config.REDIS_URL).toEqual(['redis://a:6379', 'redis://b:6379']);
    expect(config.SWEEP_CRON).toBeNull();
    expect(config.PULL_AUDIT_CRON).toBe('*/10 * * * * *');
    expect(config.BREAKER_MAX_PERCENT).toBe(2.5);
  });

  test('takes empty values for unset and ignores what is not ours', () => {
    const config = parseConfig({ ...required, PORT: '', DATABASE_URL: '  ', EDITOR: 'vi' });
    expect(config.PORT).toBe(8787);
    expect(config.DATABASE_URL).toBeUndefined();
    expect(config).not.toHaveProperty('EDITOR');
    expect(Object.isFrozen(config)).toBe(true);
  });

  test('tells every mistake in one message', () => {
    const message = messageOf({
      PORT: '99999',
      PAGE_SIZE: 'many',
      SWEEP_CRON: 'nightly',
      DESCOPE_TIME_UNIT: 'minutes',
      ADMIN_HOST: '0.0.0.0',
    });

    expect(message).toMatch(/^8 settings are wrong: /);
    expect(message).not.toContain('\n');
    for (const name of [
      ...['DESCOPE_PROJECT_ID', 'DESCOPE_MANAGEMENT_KEY', 'PORT', 'PAGE_SIZE', 'SWEEP_CRON'],
      ...['DESCOPE_TIME_UNIT', 'WEBHOOK_HMAC_SECRETS', 'ADMIN_TOKEN'],
    ]) {
      expect(message).toMatch(new RegExp(`[:;] ${name} `));
    }
  });

  test.each([
    ['DATABASE_URL', 'mysql://user:hunter2@host/db'],
    ['DATABASE_URL', 'hunter2'],
    ['REDIS_URL', 'https://:hunter2@host'],
    ['WEBHOOK_BASIC', 'hunter2'],
    ['WEBHOOK_API_KEY', ':hunter2'],
    ['WEBHOOK_API_KEY', 'hunter2:'],
    ['OUTGOING_URLS', 'https://hunter2:hunter2@host/hook'],
    ['OUTGOING_URLS', 'https://host/hunter2,https://host/hunter2'],
    ['OUTGOING_SECRETS', 'whsec_hunter2'],
  ])('a wrong %s is named without its value, which may be a secret (G10)', (name, value) => {
    const message = messageOf({ ...required, [name]: value });
    expect(message).toContain(name);
    expect(message).not.toContain('hunter2');
  });

  test.each([
    ['PORT', '-1'],
    ['PORT', '80.5'],
    ['PORT', '0x'],
    ['API_BUDGET_PER_MINUTE', '0'],
    ['BREAKER_MAX_PERCENT', '101'],
    ['INCLUDE_TEST_USERS', 'perhaps'],
    ['MIRROR_SCHEMA', 'Users; drop schema public'],
    ['SWEEP_CRON', '* * *'],
    ['SWEEP_CRON', '0 24 * * *'],
    ['LOG_LEVEL', 'loud'],
    ['EVENT_ARCHIVE', 'none'],
    ['OUTGOING_URLS', 'ftp://host/file'],
    ['OUTGOING_SECRETS', 'whsec_dG9vIHNob3J0'],
    ['OUTGOING_BODY', 'fat'],
    ['DESCOPE_BASE_URL', 'api.descope.com'],
  ])('refuses %s=%s', (name, value) => {
    expect(messageOf({ ...required, [name]: value })).toContain(`${name} must be`);
  });

  test.each([
    ['WEBHOOK_API_KEY', 'X-Api-Key: '],
    ['WEBHOOK_BASIC', 'user:  '],
  ])('%s without a secret is none: whoever sends nothing would have it (G9)', (name, value) => {
    expect(messageOf({ ...required, [name]: value })).toContain(`${name} must have the form`);
  });

  test('blanks around a value, as files of secrets end with, are none of it', () => {
    const given = { ...required, DESCOPE_PROJECT_ID: 'P1\n', ADMIN_TOKEN: ' token\n' };
    const { DESCOPE_PROJECT_ID, ADMIN_TOKEN } = parseConfig(given);
    expect([DESCOPE_PROJECT_ID, ADMIN_TOKEN]).toEqual(['P1', 'token']);
  });

  test('a service without webhook authentication starts only when that is said (G9)', () => {
    const env = { DESCOPE_PROJECT_ID: 'P', DESCOPE_MANAGEMENT_KEY: 'K' };

    expect(messageOf(env)).toContain('WEBHOOK_HMAC_SECRETS is required');
    expect(() => parseConfig({ ...env, WEBHOOK_ALLOW_UNAUTHENTICATED: 'true' })).not.toThrow();
    expect(() => parseConfig({ ...env, WEBHOOK_BEARER_TOKENS: 'a' })).not.toThrow();
    expect(() => parseConfig(env, { descope: true, receives: false, serves: true })).not.toThrow();
  });

  test('outgoing deliveries need a secret each, or one for all (G9)', () => {
    const secret = `whsec_${Buffer.alloc(24, 1).toString('base64')}`;
    const urls = { ...required, OUTGOING_URLS: 'https://a/hook, http://b/hook, https://c' };

    expect(messageOf(urls)).toContain('OUTGOING_SECRETS is required with OUTGOING_URLS');
    expect(messageOf({ ...urls, OUTGOING_SECRETS: `${secret},${secret}` })).toContain('2 for 3');
    for (const OUTGOING_SECRETS of [secret, `${secret} ${secret}, ${secret}, ${secret}`]) {
      const { OUTGOING_URLS } = parseConfig({ ...urls, OUTGOING_SECRETS });
      expect(OUTGOING_URLS).toEqual(['https://a/hook', 'http://b/hook', 'https://c']);
    }
    expect(() =>
      parseConfig(urls, { descope: true, receives: false, serves: false }),
    ).not.toThrow();
  });

  test('an admin port that others can reach needs a token (G9)', () => {
    const open = { ...required, ADMIN_HOST: '0.0.0.0' };

    expect(messageOf(open)).toContain('ADMIN_TOKEN is required');
    // A worker answers no webhooks, but opens that port as the others do.
    expect(() => parseConfig(open, { descope: true, receives: false, serves: true })).toThrow(
      /ADMIN_TOKEN is required/,
    );
    expect(() => parseConfig({ ...open, ADMIN_TOKEN: 'a' })).not.toThrow();
    expect(() => parseConfig({ ...required, ADMIN_HOST: 'localhost' })).not.toThrow();
  });

  test('a short token of an open admin port is taken, with a word of caution', () => {
    const cautions = (env: object) => listCautions(parseConfig({ ...required, ...env }));
    expect(cautions({ ADMIN_HOST: '0.0.0.0', ADMIN_TOKEN: 'fifteen letters' })).toEqual([
      expect.stringMatching(/^ADMIN_TOKEN has fewer than 16 characters .*openssl rand/),
    ]);
    expect(cautions({ ADMIN_HOST: '0.0.0.0', ADMIN_TOKEN: 'sixteen letters!' })).toEqual([]);
    expect(cautions({ ADMIN_TOKEN: 'a' })).toEqual([]);
  });

  test('a command that does not talk to Descope needs no credentials', () => {
    const config = parseConfig({}, { descope: false, receives: false, serves: false });
    expect(config.DESCOPE_PROJECT_ID).toBe('');
  });
});

describe('.env.example', () => {
  const example = parseEnv(readFileSync(join(import.meta.dirname, '../.env.example'), 'utf8'));

  test('names every setting and no other', () => {
    expect(Object.keys(example).sort()).toEqual(Object.keys(settings).sort());
  });

  test('shows the defaults', () => {
    const parsed = parseConfig({ ...example, ...required });
    expect(parsed).toEqual(parseConfig(required));
    // A setting left empty would show no default, so only those without one may be.
    const optional = [
      'DESCOPE_BASE_URL',
      'DATABASE_URL',
      'REDIS_URL',
      'ADMIN_TOKEN',
      'MIRROR_EXCLUDE',
    ];
    for (const [name, value] of Object.entries(example)) {
      if (name in required || optional.includes(name)) continue;
      if (/^WEBHOOK_|^OTEL_EXPORTER_|^OUTGOING_/.test(name)) continue;
      expect(value, name).not.toBe('');
    }
  });
});
