import { readFile } from 'node:fs/promises';

import DescopeClient from '@descope/node-sdk';
import { Ajv } from 'ajv';
import formats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { applyBehaviour } from '../../src/simulator/behaviour.ts';
import { startAsked } from './client.ts';

import type { ValidateFunction } from 'ajv';
import type { Asked } from './client.ts';

/*
 * The simulator's answers, and the requests of the real SDK, against the published contract. Every
 * object is closed before it is compared, so that a misspelt field fails. Where the contract is known
 * to be wrong the exception is named here, one by one.
 */

interface Schema {
  type?: string;
  properties?: Record<string, Schema>;
  additionalProperties?: unknown;
  [key: string]: unknown;
}

/** Proto's int64: the contract says text, every published client sends numbers, servers read both. */
const INT64 = {
  anyOf: [{ type: 'string', pattern: '^-?\\d+$' }, { type: 'integer' }],
};
/** Typed as text in the contract; the clients' own types and the documentation say otherwise. */
const ATTRIBUTE = {
  anyOf: [
    { type: 'string' },
    { type: 'number' },
    { type: 'boolean' },
    { type: 'array', items: { type: 'string' } },
  ],
};

const DEVIATIONS: Record<string, Record<string, Schema>> = {
  SearchUsersRequest: {
    fromCreatedTime: INT64,
    toCreatedTime: INT64,
    fromModifiedTime: INT64,
    toModifiedTime: INT64,
    customAttributes: { type: 'object', additionalProperties: ATTRIBUTE },
  },
  SearchAuditRequest: { from: INT64, to: INT64 },
  ResponseUser: {
    customAttributes: { type: 'object', additionalProperties: ATTRIBUTE },
    // Only Go's client knows it; a switch of the simulator, off unless asked for.
    modifiedTime: { type: 'integer', format: 'int32' },
  },
};

async function loadContract(): Promise<(name: string) => ValidateFunction> {
  const file = new URL('../fixtures/descope-openapi.json', import.meta.url);
  const document = JSON.parse(await readFile(file, 'utf8')) as {
    components: { schemas: Record<string, Schema> };
  };
  const ajv = new Ajv({ allErrors: true, strict: false });
  formats.default(ajv);
  for (const [name, schema] of Object.entries(document.components.schemas)) {
    if (schema.properties) {
      schema.properties = { ...schema.properties, ...DEVIATIONS[name] };
      schema.additionalProperties = false;
    }
  }
  ajv.addSchema(document, 'descope');
  return (name) => {
    const validate = ajv.getSchema(`descope#/components/schemas/${name}`);
    if (!validate) throw new Error(`the contract has no ${name}`);
    return validate as ValidateFunction;
  };
}

let schemaOf: (name: string) => ValidateFunction;
let asked: Asked;

beforeAll(async () => {
  schemaOf = await loadContract();
  asked = await startAsked({ users: 600, seed: 5, sameInstant: 120 });
  const { directory } = asked.simulator;
  const created = directory.createMany(20);
  directory.modifyUser(created[0]?.userId ?? '', { name: 'Renamed', roleNames: ['editor'] });
  directory.createBatch(5);
  directory.deleteBatch(created.slice(5, 9).map((user) => user.userId));
  directory.deleteUser(created[4]?.userId ?? '');
  directory.emit('LoginSucceed', [created[0]?.userId ?? '']);
});

afterAll(async () => {
  await asked.simulator.stop();
});

function expectValid(name: string, value: unknown): void {
  const validate = schemaOf(name);
  validate(value);
  expect(validate.errors ?? [], name).toEqual([]);
}

const realUser = (): string => {
  for (const user of asked.simulator.directory.users()) if (!user.test) return user.userId;
  throw new Error('no users');
};

describe('answers are what the contract promises', () => {
  test('every user, searched page by page', async () => {
    for (let page = 0; page < 7; page++) {
      const { status, body } = await asked.post('/v2/mgmt/user/search', {
        page,
        withTestUser: true,
      });
      expect(status).toBe(200);
      expectValid('UsersResponse', body);
    }
  });

  test('the older search, a load by ids and a load of one', async () => {
    const userId = realUser();
    expectValid('UsersResponse', (await asked.post('/v1/mgmt/user/search', {})).body);
    const load = await asked.post('/v1/mgmt/users/load', {
      userIds: [userId],
      includeInvalidUsers: true,
    });
    expectValid('UsersResponse', load.body);
    expect(load.body).toEqual({ users: [asked.simulator.directory.answer(userId)], total: 1 });
    const one = await asked.get(`/v1/mgmt/user?userId=${userId}`);
    expectValid('UserResponse', one.body);
    expect(one.body['user']).toEqual(asked.simulator.directory.answer(userId));
  });

  test('audit records, those about several users too', async () => {
    const { body } = await asked.post('/v1/mgmt/audit/search', {});
    expectValid('SearchAuditResponse', body);
    const audits = body['audits'] as { action: string; occurred: string }[];
    expect(new Set(audits.map((audit) => audit.action))).toEqual(
      new Set([
        'UserCreated',
        'UserModified',
        'UserDeleted',
        'UsersCreated',
        'UsersDeleted',
        'LoginSucceed',
      ]),
    );
    expect(audits.every((audit) => /^\d{13}$/.test(audit.occurred))).toBe(true);
  });

  test('modifiedTime is sent only when the switch is on', async () => {
    expect((await asked.search({ limit: 1 })).users[0]).not.toHaveProperty('modifiedTime');
    applyBehaviour(asked.simulator.behaviour, { sendModifiedTime: true });
    const found = await asked.search({ limit: 50 });
    applyBehaviour(asked.simulator.behaviour, { sendModifiedTime: false });
    expectValid('UsersResponse', found);
    expect(found.users[0]?.modifiedTime).toBeGreaterThan(1_000_000_000);
  });

  test('the closed contract does notice a misspelt field', () => {
    const validate = schemaOf('UsersResponse');
    expect(validate({ users: [{ userID: 'U1' }], total: 1 })).toBe(false);
    expect(validate({ users: [{ customAttributes: { nested: {} } }], total: 1 })).toBe(false);
  });
});

describe('the real SDK', () => {
  const bodies: { path: string; body: unknown }[] = [];

  const createSdk = (managementKey = asked.simulator.managementKey) =>
    DescopeClient({
      projectId: asked.simulator.projectId,
      managementKey,
      baseUrl: asked.simulator.url,
      fetch: (input, init) => {
        const url = input instanceof Request ? input.url : String(input);
        if (typeof init?.body === 'string') {
          bodies.push({ path: new URL(url).pathname, body: JSON.parse(init.body) as unknown });
        }
        return fetch(input, init);
      },
    });

  const lastBody = (): unknown => bodies.at(-1)?.body;

  test('searches users with requests of the contract, and reads the answers', async () => {
    const found = await createSdk().management.user.search({
      limit: 7,
      page: 1,
      roles: [],
      sort: [{ field: 'createdTime', desc: false }],
      fromCreatedTime: 1,
      toCreatedTime: Date.now() + 1000,
      customAttributes: {},
      withTestUser: false,
    });
    expect(found.ok).toBe(true);
    expect(found.data?.total).toBe(asked.simulator.directory.realSize);
    expect(found.data?.users).toHaveLength(7);
    expectValid('SearchUsersRequest', lastBody());
    expect(lastBody()).toMatchObject({ fromCreatedTime: 1, sort: [{ field: 'createdTime' }] });
  });

  test('loads users by id, and by login id', async () => {
    const sdk = createSdk();
    const userId = realUser();
    const many = await sdk.management.user.loadUsers([userId, 'U0'], true);
    expectValid('LoadUsersRequest', lastBody());
    expect(many.data).toEqual([asked.simulator.directory.answer(userId)]);
    const loginId = asked.simulator.directory.answer(userId)?.loginIds[0] ?? '';
    expect((await sdk.management.user.load(loginId)).data?.userId).toBe(userId);
    expect((await sdk.management.user.loadByUserId(userId)).data?.userId).toBe(userId);
  });

  test.each([400, 404] as const)(
    'is told of a missing user with E112102 and %i',
    async (status) => {
      applyBehaviour(asked.simulator.behaviour, { missingUserStatus: status });
      const missing = await createSdk().management.user.loadByUserId('U0');
      expect(missing).toMatchObject({ ok: false, code: status, error: { errorCode: 'E112102' } });
    },
  );

  test('searches the audit trail', async () => {
    const found = await createSdk().management.audit.searchAll({
      from: Date.now() - 86_400_000,
      actions: ['UserDeleted', 'UsersDeleted'],
    });
    expectValid('SearchAuditRequest', lastBody());
    expect(found.data?.total).toBe(2);
    expect(typeof found.data?.audits[0]?.occurred).toBe('number');
  });

  test('sets up a webhook that then delivers', async () => {
    const set = await createSdk().management.audit.createAuditWebhook({
      name: 'mirror',
      url: 'http://127.0.0.1:9/hook',
      hmacSecret: 'secret',
      authentication: { apiKey: { key: 'x-key', token: 'value' } },
    });
    expect(set.ok).toBe(true);
    asked.simulator.directory.createUser();
    await asked.simulator.delivery.idle();
    // Nothing listens there.
    expect(asked.simulator.delivery.counters).toMatchObject({ offered: 1, acked: 0, refused: 1 });
  });

  test('is refused with a wrong key', async () => {
    const refused = await createSdk('wrong').management.user.search({ limit: 1 });
    expect(refused).toMatchObject({ ok: false, code: 401 });
  });

  test('is told of a rate limit, and when to come back', async () => {
    const { simulator } = asked;
    applyBehaviour(simulator.behaviour, { limits: { userSearch: 0 } });
    const refused = await createSdk().management.user.search({ limit: 1 });
    applyBehaviour(simulator.behaviour, { limits: { userSearch: null } });
    expect(refused).toMatchObject({
      ok: false,
      code: 429,
      error: { errorCode: 'E130429', retryAfter: 60 },
    });
  });
});
