import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../src/commands/backfill.ts';
import * as sync from '../src/commands/sync.ts';
import * as verify from '../src/commands/verify.ts';
import { parseConfig } from '../src/config.ts';
import { toExclusion, withoutExcludedAnywhere } from '../src/exclude.ts';
import { alignExclusion } from '../src/pull/exclusion.ts';
import { runCommand } from './commands/context.ts';
import { eventually } from './support/eventually.ts';
import { dumpSchema } from './support/queueDump.ts';
import { bodyOf, createScene, createWorld, realUserIds, type Scene } from './support/world.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

const needs = { descope: false, receives: false, serves: false };
const parse = (text: string) => parseConfig({ MIRROR_EXCLUDE: text }, needs).MIRROR_EXCLUDE.names;

/** The same scene under another setting. */
function under(s: Scene, text: string) {
  return { ...s, config: parseConfig({ ...s.env, MIRROR_EXCLUDE: text }) };
}

const PHONE = '+4915566778899';
const PERSON = {
  phone: PHONE,
  picture: 'https://pictures.example/secret.png',
  customAttributes: { plan: 'plan-of-the-secret-kind', seats: 7 },
  test: false,
} as const;
const VALUES = [PHONE, PERSON.picture, PERSON.customAttributes.plan];

async function shown(s: Scene): Promise<string[]> {
  const text = await dumpSchema(s.database.mirror, 'descope');
  return VALUES.filter((value) => text.includes(value));
}

describe('MIRROR_EXCLUDE', () => {
  it.each([
    ['', []],
    ['phone, picture', ['phone', 'picture']],
    ['given_name,GivenName,verified_phone', ['givenName', 'verifiedPhone']],
    ['customAttributes.plan,custom_attributes', ['customAttributes', 'customAttributes.plan']],
    ['raw.favouriteColour,raw.phone', ['phone', 'raw.favouriteColour']],
  ])('reads %j', (text, names) => {
    expect(parse(text)).toEqual(names);
  });

  it('tells in one message what cannot be left out, and what is possible', () => {
    expect(() => parse('phnoe,login_ids,raw.userId')).toThrow(
      /cannot leave out loginIds, the service needs it.*cannot leave out userId/,
    );
    expect(() => parse('phnoe')).toThrow(
      /knows no field "phnoe": it takes email, phone, .*customAttributes\.<name>.*raw\.<name>/,
    );
  });
});

describe('an event', () => {
  it('keeps nothing under the name of a field that is left out, at any depth', () => {
    const record = {
      action: 'UserModified',
      data: {
        Change: { phone: PHONE, added_roles: ['admin'], custom_attribute_plan: 'x', name: 'Ada' },
        user: { Phone: PHONE, custom_attributes: { plan: 'x', seats: 7 } },
      },
      text: JSON.stringify({ phone: PHONE, kept: 1 }),
    };
    const exclusion = toExclusion(['phone', 'roleNames', 'customAttributes.plan']);
    expect(withoutExcludedAnywhere(record, exclusion)).toEqual({
      action: 'UserModified',
      data: { Change: { name: 'Ada' }, user: { custom_attributes: { seats: 7 } } },
      text: '{"kept":1}',
    });
  });
});

describe('tenants that are left out', () => {
  it('are not told by records either, under whatever name', () => {
    const record = {
      action: 'UserModified',
      tenants: ['T2acme'],
      data: { Change: { added_multi_tenant_roles: { T2acme: ['admin'] }, name: 'Ada' } },
    };
    expect(withoutExcludedAnywhere(record, toExclusion(['userTenants']))).toEqual({
      action: 'UserModified',
      data: { Change: { name: 'Ada' } },
    });
  });

  it('are no columns of events, of those before either', async () => {
    const w = await createWorld({ simulator: { users: 3 } });
    scene = w;
    const [userId = ''] = realUserIds(w);
    await w.post(bodyOf('UserModified', { userId, tenants: ['T2secret'] }));
    const told = async () => (await dumpSchema(w.database.mirror, 'descope')).includes('T2secret');
    expect(await told()).toBe(true);
    await alignExclusion(w.database.mirror, toExclusion(['userTenants']));
    expect(await told()).toBe(false);
  });
});

describe('a field that is left out', () => {
  const SETTING = 'phone,picture,customAttributes.plan';

  it('is nowhere in the mirror, which is complete and without drift all the same', async () => {
    const w = await createWorld({
      simulator: { users: 30 },
      env: { MIRROR_EXCLUDE: SETTING, EVENT_ARCHIVE: 'all' },
    });
    scene = w;
    w.deliver();
    const { userId } = w.simulator.directory.createUser(PERSON);
    await w.post(bodyOf('UserModified', { userId, data: { Change: { phone: PHONE } } }));
    w.simulator.directory.modifyUser(userId, { phone: '' });
    w.simulator.directory.modifyUser(userId, { phone: PHONE, status: 'disabled' });
    const { t } = w.database.mirror;
    await eventually(async () => {
      const found = await w.query(
        sql`select phone, picture, custom_attributes, status from ${t.users} where user_id = ${userId}`,
      );
      expect(found).toEqual([
        { phone: null, picture: null, custom_attributes: { seats: 7 }, status: 'disabled' },
      ]);
    });
    await runCommand(sync, w);
    expect((await runCommand(verify, w)).exitCode).toBe(0);
    expect(await shown(w)).toEqual([]);
    const feed = await w.query<{ changed: string[] }>(sql`select changed from ${t.userChanges}`);
    expect(feed.flatMap(({ changed }) => changed)).not.toContain('phone');
  });

  it('is taken out of what is there when the setting changes, and read again when it changes back', async () => {
    const s = await createScene({ simulator: { users: 1_100 }, env: { PULL_SETTLE_SECONDS: '0' } });
    scene = s;
    const { userId } = s.simulator.directory.createUser(PERSON);
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    s.simulator.directory.modifyUser(userId, { phone: '+4900000000000' });
    s.simulator.directory.modifyUser(userId, { phone: PHONE });
    await runCommand(sync, s);
    expect(await shown(s)).toEqual(VALUES);
    const { mirror } = s.database;
    const { t } = mirror;
    const changes = () =>
      s.query<{ n: number }>(sql`select count(*)::int as n from ${t.userChanges}`);
    const before = await changes();

    await alignExclusion(mirror, under(s, SETTING).config.MIRROR_EXCLUDE);
    expect(await shown(s)).toEqual([]);
    expect((await runCommand(verify, under(s, SETTING))).exitCode).toBe(0);
    const left = await s.query(
      sql`select 1 from ${t.users} where phone is not null or picture is not null or raw ? 'phone'`,
    );
    expect(left).toEqual([]);
    // Nobody has changed, and the next sweep finds it so.
    expect((await runCommand(backfill, under(s, SETTING))).exitCode).toBe(0);
    expect(await changes()).toEqual(before);

    // A command beside the service, and without its setting, brings nothing back.
    await expect(runCommand(backfill, s)).rejects.toThrow(
      'the mirror leaves out customAttributes.plan, phone, picture, and MIRROR_EXCLUDE says none',
    );
    expect(await shown(s)).toEqual([]);

    await alignExclusion(mirror, s.config.MIRROR_EXCLUDE);
    expect((await runCommand(verify, s)).exitCode).toBe(3);
    const [open] = await s.query<{ reason: string }>(
      sql`select reason from ${t.syncRuns} where pull = 'sweep' and outcome is null`,
    );
    expect(open?.reason).toBe('fields that were left out are mirrored again');
    expect((await runCommand(backfill, s)).exitCode).toBe(0);
    await s.assertEqual();
    expect(realUserIds(s)).toContain(userId);
  });
});
