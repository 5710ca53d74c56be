import { sql } from 'drizzle-orm';
import { afterEach, beforeEach, expect, it } from 'vitest';

import * as deliveries from '../../src/commands/deliveries.ts';
import { createScene, type Scene } from '../support/world.ts';
import { runCommand, textOf, type Outcome } from './context.ts';

let scene: Scene;
beforeEach(async () => {
  scene = await createScene({ simulator: { users: 1 } });
});
afterEach(() => scene.stop());

const run = (action: string, ids: readonly string[] = [], json = false): Promise<Outcome> =>
  runCommand(deliveries, scene, { action, ids }, { json });

/** Two endpoints, and of one user a delivery that was given up with one behind it. */
async function arrange(): Promise<string[]> {
  const { t } = scene.database.mirror;
  await scene.query(sql`
    insert into ${t.outgoingEndpoints} (endpoint_id, host, cursor, state, reason)
    values ('e1', 'crm.example.com', '0-0', 'active', null),
           ('e2', 'mail.example.com', '0-0', 'disabled', 'the receiver answered 410 Gone')`);
  const rows = await scene.query<{ id: string }>(sql`
    insert into ${t.outgoingDeliveries} (endpoint_id, webhook_id, cursor, user_id, kind, observed_at,
                                         witness, written_at, state, attempts, error)
    select 'e1', 'msg_' || n, '1-' || n, 'U1', 'updated', now(), 'webhook',
           now() - interval '3 hours', state, attempts, error
    from (values (1, 'parked', 14, 'the receiver answered 500'),
                 (2, 'waiting', 0, null),
                 (3, 'delivered', 1, null)) as d(n, state, attempts, error)
    returning delivery_id::text as id`);
  return rows.map(({ id }) => id);
}

const states = async () => {
  const { t } = scene.database.mirror;
  const rows = await scene.query<{ state: string }>(
    sql`select state from ${t.outgoingDeliveries} order by delivery_id`,
  );
  return rows.map(({ state }) => state);
};

it('says that nothing is posted where no address is set', async () => {
  const listed = await run('list');
  expect(listed).toMatchObject({
    exitCode: 0,
    stdout: ['no changes are posted: OUTGOING_URLS is not set'],
  });
});

it('lists endpoints and what fails, with what can be done, and says no', async () => {
  await arrange();
  const listed = await run('list');
  expect(listed.exitCode).toBe(3);
  const text = textOf(listed);
  expect(text).toMatch(/e1 +crm\.example\.com +active +1 +1 +– +–/);
  expect(text).toMatch(/e2 +mail\.example\.com +disabled .*410 Gone/);
  expect(text).toMatch(/\d+ +e1 +U1 +updated +parked +14 +– +the receiver answered 500/);
  expect(text).toContain('1 delivery is parked: `rollcall deliveries replay` tries again');
  expect(text).toContain('1 endpoint stopped: `rollcall deliveries resume` goes on');
  expect((await run('list', [], true)).json()).toMatchObject({
    endpoints: [{ endpointId: 'e1', parked: 1, waiting: 1 }, { state: 'disabled' }],
    troubled: [{ state: 'parked', attempts: 14 }],
  });
});

it('drops one or puts it back, lets the next go on, and logs who decided', async () => {
  const [first = ''] = await arrange();
  expect((await run('drop', [first])).stdout).toEqual([
    '1 dropped; what waited behind them goes on',
  ]);
  expect(await states()).toEqual(['dropped', 'waiting', 'delivered']);

  const { t } = scene.database.mirror;
  await scene.query(
    sql`update ${t.outgoingDeliveries} set state = 'parked' where state = 'dropped'`,
  );
  expect((await run('replay', [first], true)).json()).toEqual({ replayed: 1 });
  expect(await states()).toEqual(['waiting', 'waiting', 'delivered']);

  expect((await run('resume')).stdout).toEqual(['1 endpoint resumed']);
  const log = await scene.query(sql`select action, detail from ${t.adminLog} order by entry_id`);
  expect(log).toEqual([
    { action: 'deliveries drop', detail: expect.objectContaining({ ids: [first] }) as unknown },
    { action: 'deliveries replay', detail: expect.objectContaining({ ids: [first] }) as unknown },
    { action: 'deliveries resume', detail: expect.objectContaining({ all: true }) as unknown },
  ]);
  expect((await run('list')).exitCode).toBe(0);
});

it('takes numbers for ids, and nothing else', async () => {
  await expect(run('replay', ['U1'])).rejects.toThrow('ids are numbers');
  await expect(run('burn')).rejects.toThrow('say one of list, replay, drop, resume');
});

it('says no where what was named is not there', async () => {
  await arrange();
  for (const action of ['replay', 'drop', 'resume']) {
    expect((await run(action, ['999'])).exitCode).toBe(3);
  }
});
