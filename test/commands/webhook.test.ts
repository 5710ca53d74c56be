import { createHmac } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { sql } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, it, test } from 'vitest';

import { parseCommandLine } from '../../src/commands/commandLine.ts';
import { PIPE } from '../../src/commands/screen.ts';
import * as webhook from '../../src/commands/webhook.ts';
import { parseConfig } from '../../src/config.ts';
import { Stopping, UsageError } from '../../src/errors.ts';
import { findSigning, SIGNATURE_HEADER } from '../../src/webhook/authenticate.ts';
import { applyBehaviour } from '../../src/simulator/behaviour.ts';
import { startReceiver } from '../simulator/client.ts';
import { eventually } from '../support/eventually.ts';
import { startProcess } from '../support/process.ts';
import { freePort } from '../support/redisServer.ts';
import { bodyOf, createScene, postTo, realUserIds, type Scene } from '../support/world.ts';
import { runCommand, textOf, type Outcome } from './context.ts';

import type { CommandOptions } from '../../src/commands/command.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(env: Record<string, string> = {}): Promise<Scene> {
  scene = await createScene({ simulator: { users: 20 }, env });
  return scene;
}

describe('the command line of webhook', () => {
  const view = { version: '', screen: PIPE, write: () => undefined };

  it('hands on what was typed', () => {
    const words = ['webhook', 'check', '--header', 'A: 1', '--header', 'B: 2', '--body', 'x'];
    expect(parseCommandLine(words, view)?.options).toEqual({
      action: 'check',
      header: ['A: 1', 'B: 2'],
      body: 'x',
    });
  });

  it('guesses at what was misspelt, and wants credentials to create only', () => {
    expect(() => parseCommandLine(['webhook', 'creat'], view)).toThrow(/did you mean create\?/);
    const needs = (action: string) =>
      parseCommandLine(['webhook', action], view)?.description.needs({ action }).descope;
    expect([needs('create'), needs('check')]).toEqual([true, false]);
  });
});

describe('rollcall webhook create', () => {
  const create = (s: Scene, options: CommandOptions, json = true): Promise<Outcome> =>
    runCommand(webhook, s, { action: 'create', ...options }, { json });

  it('makes a connector that streams everything, signed with a secret of its own', async () => {
    const s = await begin({ WEBHOOK_BEARER_TOKENS: 'of-the-connector' });
    const receiver = await startReceiver();
    try {
      const made = await create(s, { url: receiver.url, name: 'Mirror' });
      expect(made).toMatchObject({ exitCode: 0 });
      const { hmacSecret, ...rest } = made.json();
      expect(rest).toEqual({
        ...{ created: true, name: 'Mirror', url: receiver.url },
        id: expect.stringMatching(/^CI/) as string,
      });
      expect(hmacSecret).toMatch(/^[0-9a-f]{64}$/);
      const [one = '', ...others] = realUserIds(s);
      s.simulator.directory.modifyUser(one, { name: 'Somebody Else' });
      s.simulator.directory.deleteBatch(others.slice(0, 3));
      await s.simulator.delivery.idle();
      const bodies = receiver.delivered.map(({ body }) => body).join('\n');
      expect(bodies).toContain('"UserModified"');
      expect(bodies).toContain('"UsersDeleted"');
      for (const { body, headers } of receiver.delivered) {
        const signature = String(headers[SIGNATURE_HEADER]);
        expect(findSigning(Buffer.from(body), signature, [String(hmacSecret)])).not.toBeNull();
        expect(headers['authorization']).toBe('Bearer of-the-connector');
      }
      const [budget] = await s.query<{ granted: number }>(
        sql`select granted::int from ${s.database.mirror.t.budgets} where name = 'api'`,
      );
      expect(budget?.granted).toBeGreaterThanOrEqual(1);
    } finally {
      await receiver.stop();
    }
  });

  it('prints the secret once, on stdout only, and adds the path where none is given', async () => {
    const s = await begin();
    const made = await create(s, { url: 'https://rollcall.example.com' }, false);
    expect(made.exitCode).toBe(0);
    expect(made.stdout[0]).toMatch(
      /^created the audit webhook connector "Rollcall" \(CI\w+\): .* https:\/\/rollcall\.example\.com\/webhooks\/descope$/,
    );
    const [, secret = ''] =
      /^WEBHOOK_HMAC_SECRETS=([0-9a-f]{64})$/m.exec(made.stdout.join('\n')) ?? [];
    expect(textOf(made).split(secret)).toHaveLength(2);
    expect(made.stderr.join('\n')).toMatch(/beside the 1 you have/);
    await s.assertPrivate(textOf(made));
    expect(s.logs.join('\n')).not.toContain(secret);
  });

  it('stopped, says that the connector may exist', async () => {
    const s = await begin();
    const stderr: string[] = [];
    const options = { url: 'https://rollcall.example.com' };
    const stopped = runCommand(
      webhook,
      s,
      { action: 'create', ...options },
      {
        signal: AbortSignal.abort(),
        json: true,
        stderr,
      },
    );
    await expect(stopped).rejects.toThrow(Stopping);
    expect(stderr.join()).toMatch(
      /^stopped: the connector "Rollcall" may exist\. Look for it .* delete/,
    );
  });

  test.each([
    ['noSuchOperation', /Descope refused connector: HTTP 404/],
    ['forbidden', /may not create connectors \(HTTP 403\)/],
  ] as const)(
    'where Descope says %s it tells how to by hand, exit 3',
    async (connector, reason) => {
      const s = await begin({ WEBHOOK_API_KEY: 'X-Api-Key:of-the-connector' });
      applyBehaviour(s.simulator.behaviour, { connector });
      const url = 'https://rollcall.example.com/webhooks/descope';
      const steps = await create(s, { url }, false);
      expect(steps.exitCode).toBe(3);
      const text = steps.stdout.join('\n');
      expect(steps.stdout[0]).toMatch(reason);
      expect(text).toContain(`Base URL: ${url}`);
      expect(text).toMatch(/Authentication Type: API Key, .*WEBHOOK_API_KEY/);
      expect(text).not.toContain('of-the-connector');
      expect(text.match(/[0-9a-f]{64}/g)).toHaveLength(1);
      expect(s.simulator.requests.countOf('connector')).toBe(1);
      expect((await create(s, { url })).json()).toMatchObject({
        created: false,
        isUncertain: false,
      });
    },
  );

  it('where no answer came it says that the connector may be there; makes no database', async () => {
    const s = await begin();
    const nowhere = `http://127.0.0.1:${await freePort()}`;
    const env = { ...s.env, DATABASE_URL: '', DESCOPE_BASE_URL: nowhere };
    const folder = join(tmpdir(), `rollcall-webhook-${process.pid}`);
    const outcome = await runCommand(
      webhook,
      { config: parseConfig(env), logs: s.logs },
      { action: 'create', url: 'https://rollcall.example.com' },
      { folder },
    );
    expect(outcome.exitCode).toBe(3);
    expect(outcome.stdout.join('\n')).toMatch(/ECONNREFUSED[\s\S]*not known: look for it first/);
    expect(existsSync(folder)).toBe(false);
  });

  test.each([
    [{}, /--url must be where Descope reaches us/],
    [{ url: 'rollcall.example.com' }, /--url must be/],
    [{ url: 'ftp://rollcall.example.com' }, /--url must be/],
    [{ url: 'https://ada:lovelace@rollcall.example.com' }, /set WEBHOOK_BASIC instead/],
  ])('%j is a usage error, and nothing is asked', async (options, message) => {
    const s = await begin();
    await expect(create(s, options)).rejects.toThrow(UsageError);
    await expect(create(s, options)).rejects.toThrow(message);
    expect(s.simulator.requests.countOf()).toBe(0);
  });
});

describe('rollcall webhook check', () => {
  const SECRETS = ['an-older-secret-of-this-test', 'the-newer-secret-of-this-test'];
  const [OLD = '', NEW = ''] = SECRETS;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'rollcall-check-'));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const BODY = '[{ "action": "UserModified", "userId": "U1", "name": "Zoë <z&z>" }]\n';
  const anew = JSON.stringify(JSON.parse(BODY));
  const sign = (
    signed: string | Buffer,
    encoding: 'base64' | 'base64url' | 'hex' = 'base64',
    key: string | Buffer = NEW,
  ) => createHmac('sha256', key).update(signed).digest(encoding);

  async function check(
    body: string | Buffer,
    options: CommandOptions = {},
    env: Record<string, string> = { WEBHOOK_HMAC_SECRETS: SECRETS.join(',') },
  ): Promise<Outcome & { answer: Record<string, unknown> }> {
    const file = join(folder, 'body');
    await writeFile(file, body);
    const config = parseConfig(env, { descope: false, receives: false, serves: false });
    const asked = { action: 'check', body: file, ...options };
    const outcome = await runCommand(webhook, { config, logs: [] }, asked, { json: true });
    const said = textOf(outcome);
    for (const secret of SECRETS) expect(said).not.toContain(secret);
    expect(said).not.toContain('Zoë');
    return { ...outcome, answer: outcome.json() };
  }

  test.each([
    ['raw', sign(BODY), 'the body as it came', 'base64', ''],
    ['url-safe base64', sign(BODY, 'base64url'), 'the body as it came', 'base64', ''],
    ['hex', sign(BODY, 'hex'), 'the body as it came', 'hex', ''],
    ['hex with a prefix', `sha256=${sign(BODY, 'hex')}`, 'the body as it came', 'hex', 'sha256='],
    ['written anew', sign(anew), 'the body parsed and written anew (JSON.stringify)', 'base64', ''],
    ['base64', sign(Buffer.from(BODY).toString('base64')), 'the base64 of the body', 'base64', ''],
  ])('%s: says which secret, which bytes, which spelling', async (_what, signature, ...told) => {
    const { exitCode, answer } = await check(BODY, { signature });
    const [bytes, encoding, prefix] = told;
    expect(exitCode).toBe(0);
    expect(answer).toMatchObject({
      ...{ matched: true, accepted: true, reasons: [] },
      signature: { secret: 2, bytes, encoding, prefix, isAccepted: true },
      envelope: { form: 'an array of 1 record', events: { UserModified: 1 }, ignored: 0 },
    });
    // What matches, the webhook takes.
    expect(findSigning(Buffer.from(BODY), signature, SECRETS)?.secretIndex).toBe(1);
  });

  test.each([
    ['without the line break at its end', BODY, BODY.trimEnd()],
    ['with a line break at its end', BODY.trimEnd(), BODY],
    ['with LF', BODY.replaceAll(', ', ',\r\n'), BODY.replaceAll(', ', ',\n')],
    ['with CR LF', BODY.replaceAll(', ', ',\n'), BODY.replaceAll(', ', ',\r\n').trimEnd() + '\r\n'],
    ['as Go writes it', anew, anew.replace('<z&z>', '\\u003cz\\u0026z\\u003e')],
    ['written anew, with a line break', ` ${anew}`, `${anew}\n`],
    ['indented', anew, JSON.stringify(JSON.parse(BODY), null, 2)],
  ])('a body that was changed when it was captured: signed %s', async (what, captured, sent) => {
    const signature = sign(sent, 'base64', OLD);
    const { exitCode, answer } = await check(captured, { signature });
    expect(exitCode).toBe(0);
    expect(answer).toMatchObject({ matched: true, accepted: false });
    expect(answer['signature']).toMatchObject({ secret: 1, isAccepted: false });
    expect((answer['signature'] as { bytes: string }).bytes).toContain(what);
    expect(answer['reasons']).toEqual([expect.stringMatching(/not byte for byte/)]);
    expect(findSigning(Buffer.from(captured), signature, SECRETS)).toBeNull();
  });

  test.each<[string, string, RegExp]>([
    ['another secret', sign(BODY, 'base64', 'other'), /none of our 2 HMAC secrets signed this/],
    ['no signature', '', /give the connector an HMAC secret/],
    ['the secret itself', NEW, /the signature is the secret itself/],
    ['SHA-1', createHmac('sha1', NEW).update(BODY).digest('base64'), /one of SHA-1/],
    ['SHA-512', createHmac('sha512', NEW).update(BODY).digest('hex'), /one of SHA-512/],
    ['a cut one', sign(BODY).slice(0, 20), /15 bytes, not 32 \(was it cut off\?\)/],
    [
      'a secret with a line break',
      sign(BODY, 'base64', `${OLD}\n`),
      /^HMAC secret 1 has a line break at its end/,
    ],
    [
      'a decoded secret',
      sign(BODY, 'base64', Buffer.from(NEW, 'base64')),
      /^HMAC secret 2 is used as the bytes that its base64 stands for/,
    ],
  ])('%s: no match, and the likely reason', async (_what, signature, reason) => {
    const { exitCode, answer } = await check(BODY, { signature });
    expect(exitCode).toBe(3);
    expect(answer).toMatchObject({ matched: false, accepted: false, signature: null });
    expect(answer['reasons']).toEqual([expect.stringMatching(reason)]);
  });

  it('tells quotes that a file kept, an empty body and one cut off', async () => {
    const quoted = await check(
      BODY,
      { signature: sign(BODY, 'hex', 'quoted') },
      {
        WEBHOOK_HMAC_SECRETS: '"quoted"',
      },
    );
    expect(quoted.answer['reasons']).toEqual([expect.stringMatching(/^HMAC secret 1 has quotes/)]);
    const empty = await check('', { signature: sign(BODY) });
    expect(empty.answer['reasons']).toEqual([
      expect.stringMatching(/the body is empty/),
      'the body is not JSON',
    ]);
    const cut = await check(BODY.slice(0, 30), { signature: sign(BODY) });
    expect(cut.answer['reasons']).toEqual([
      expect.stringMatching(/may have been cut off/),
      'the body is not JSON',
    ]);
  });

  test.each([
    ['formA-array.json', 'an array of 3 records'],
    ['formB-snakeCase.json', 'a single record'],
    ['formC-excerpt.json', 'only the data of a record'],
    ['formD-nestedUser.json', 'a single record'],
    ['formLines.ndjson', '2 records, one a line'],
  ])('%s comes as %s', async (file, form) => {
    const body = readFileSync(join(import.meta.dirname, '../fixtures/webhooks', file));
    const { exitCode, answer } = await check(body, { signature: sign(body) });
    expect(exitCode).toBe(0);
    expect(answer['envelope']).toMatchObject({ form });
    await check(`{"events":${BODY}}`).then(({ answer: wrapped }) => {
      expect(wrapped['envelope']).toMatchObject({ form: '1 record in the field "events"' });
    });
  });

  it('compares the other authentications, and the project', async () => {
    const env = {
      WEBHOOK_BEARER_TOKENS: 'one-token',
      WEBHOOK_API_KEY: 'X-Api-Key:a-key',
      DESCOPE_PROJECT_ID: 'Pours',
    };
    const body = bodyOf('UserModified', { userId: 'U1', projectId: 'Ptheirs' });
    const header = ['Authorization: Bearer one-token', 'x-api-key:other'];
    const { exitCode, answer } = await check(body, { header }, env);
    expect(exitCode).toBe(3);
    expect(answer).toMatchObject({
      others: [
        { kind: 'bearer', passes: true },
        { kind: 'apiKey', passes: false },
      ],
      envelope: { ofOtherProjects: 1 },
      reasons: [
        expect.stringContaining('WEBHOOK_API_KEY') as string,
        '1 event of another project than Pours: ignored',
      ],
    });
    const right = await check(body, { header: [header[0] ?? '', 'X-API-KEY: a-key'] }, env);
    expect(right.exitCode).toBe(0);
  });

  it('takes the next delivery where told to wait, and acknowledges nothing', async () => {
    const port = await freePort();
    const env = { WEBHOOK_HMAC_SECRETS: NEW, PORT: String(port) };
    const config = parseConfig(env, { descope: false, receives: false, serves: false });
    const waiting = runCommand(webhook, { config, logs: [] }, { action: 'check', wait: '60' });
    const body = bodyOf('UserDeleted', { userId: 'U1' });
    const response = await eventually(() =>
      postTo(port, body, { [SIGNATURE_HEADER]: sign(body), 'content-type': 'application/json' }),
    );
    expect(response.status).toBe(503);
    const outcome = await waiting;
    expect(outcome.exitCode).toBe(0);
    expect(outcome.stdout).toEqual([
      'matches   yes',
      'secret    number 1 of WEBHOOK_HMAC_SECRETS',
      'signed    the body as it came',
      'spelt in  base64',
      'form      an array of 1 record',
      'events    1 × UserDeleted',
    ]);
    expect(outcome.stderr[0]).toContain(`http://localhost:${port}/webhooks/descope`);
  });

  it('ends without a delivery: after its time with 3, and on a signal', async () => {
    const env = { WEBHOOK_HMAC_SECRETS: NEW, PORT: '0' };
    const config = parseConfig(env, { descope: false, receives: false, serves: false });
    const none = await runCommand(webhook, { config, logs: [] }, { action: 'check', wait: '1' });
    expect(none).toMatchObject({ exitCode: 3 });
    expect(none.stdout[0]).toMatch(/^no delivery came/);
    const stopping = new AbortController();
    const asked = { action: 'check', wait: '60' };
    const running = { signal: stopping.signal };
    const waiting = runCommand(webhook, { config, logs: [] }, asked, running);
    stopping.abort();
    await expect(waiting).rejects.toThrow(Stopping);
  });

  test.each<[CommandOptions, Record<string, string>, RegExp]>([
    [{ body: undefined }, { WEBHOOK_HMAC_SECRETS: NEW }, /either --body <file> or --wait/],
    [{ wait: '5' }, { WEBHOOK_HMAC_SECRETS: NEW }, /either --body <file> or --wait/],
    [{ body: undefined, wait: 'long' }, { WEBHOOK_HMAC_SECRETS: NEW }, /--wait must be a whole/],
    [{ body: '/nowhere' }, { WEBHOOK_HMAC_SECRETS: NEW }, /\/nowhere cannot be read \(ENOENT\)/],
    [{ header: ['nothing'] }, { WEBHOOK_HMAC_SECRETS: NEW }, /must read 'Name: value'/],
    [{}, {}, /nothing to compare with/],
  ])('%j with %j is a usage error', async (options, env, message) => {
    await expect(check(BODY, options, env)).rejects.toThrow(message);
    await expect(check(BODY, options, env)).rejects.toThrow(UsageError);
  });

  it('needs no credentials, and reads a body from stdin', async () => {
    const missing = startProcess(['webhook', 'check', '--body', '-', '--signature', 'x']);
    expect(await missing.exit).toBe(2);
    expect(missing.stderr()).toMatch(/^error: webhook check: nothing to compare with/);
    const asked = ['webhook', 'check', '--json', '--body', '-', '--signature', sign('')];
    const child = startProcess(asked, { env: { WEBHOOK_HMAC_SECRETS: OLD } });
    expect(await child.exit).toBe(3);
    expect(child.stdout()).toContain('the body is empty');
  });
});
