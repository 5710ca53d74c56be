import type { Database } from './lab.ts';

/*
 * A mirror as it is after a month of a large directory, written by SQL: what pages read, in the spread
 * over time and users that it would have.
 */

export interface Filled {
  readonly users: number;
  readonly events: number;
}

/** What every event of the month has but those that a search is to find. */
const TENANTS = 2_000;
/** Users that a person has to decide on, and events given up. */
const HELD = 3_000;
const PARKED = 1_000;

const userId = (n: string) => `('U2' || lpad((${n})::text, 9, '0') || left(md5((${n})::text), 16))`;
const tenantId = (n: string) => `('T' || left(md5((${n} % ${TENANTS})::text), 24))`;
const address = (n: string) =>
  `(left(md5((${n})::text), 8) || '.' || (${n}) || '@example' || (${n}) % 40 || '.com')`;

/** One in fifty is gone; a third have a telephone number too, half belong to a tenant. */
function fillUsers(users: number): string[] {
  return [
    `insert into descope.users (user_id, login_ids, email, phone, name, given_name, family_name,
       status, verified_email, role_names, custom_attributes, created_time, modified_time, raw,
       content_hash, observed_at, changed_at, deleted_at, witness)
     select ${userId('n')}, case when n % 3 = 0 then array[${address('n')}, '+49' || 1500000000 + n]
         else array[${address('n')}] end,
       ${address('n')}, case when n % 3 = 0 then '+49' || 1500000000 + n end,
       'Ada Lovelace ' || n, 'Ada', 'Lovelace ' || n,
       case when n % 20 = 0 then 'disabled' else 'enabled' end, n % 5 > 0,
       case when n % 7 = 0 then array['admin', 'editor'] else '{}' end,
       jsonb_build_object('plan', (array['free', 'pro', 'enterprise'])[n % 3 + 1], 'seats', n % 90),
       now() - (${users} - n) * interval '3 years' / ${users}, now() - n % 1000 * interval '1 hour',
       jsonb_build_object('userId', ${userId('n')}, 'loginIds', jsonb_build_array(${address('n')}),
         'name', 'Ada Lovelace ' || n, 'email', ${address('n')}, 'verifiedEmail', true,
         'status', 'enabled', 'test', false, 'editable', true, 'picture', '', 'phone', '',
         'OAuth', '{}'::jsonb, 'TOTP', false, 'SAML', false, 'webauthn', false, 'password', true,
         'createdTime', 1700000000 + n, 'roleNames', '[]'::jsonb, 'userTenants', '[]'::jsonb),
       md5(n::text), now() - n % 1440 * interval '1 minute', now() - n % 1440 * interval '1 minute',
       case when n % 50 = 0 then now() - n % 700 * interval '1 hour' end, 'sweep'
     from generate_series(1, ${users}) as n`,
    `insert into descope.user_tenants (user_id, tenant_id, tenant_name, role_names)
     select ${userId('n')}, ${tenantId('n')}, 'Tenant ' || n % ${TENANTS}, array['viewer']
     from generate_series(1, ${users}, 2) as n`,
    `insert into descope.user_changes (user_id, kind, changed, observed_at, witness, written_at)
     select ${userId('n')}, 'created', '{}', now() - interval '1 day', 'sweep', now() - interval '1 day'
     from generate_series(1, ${users}) as n`,
    `insert into descope.deletions (user_id, state, witness, run_id, nominated_at, verified_at,
       decided_at, evidence)
     select ${userId('n')}, case when n % 50 = 0 then 'tombstoned' else 'held' end, 'sweep', 1,
       now() - n % 700 * interval '1 hour', now() - n % 700 * interval '1 hour',
       case when n % 50 = 0 then now() - n % 700 * interval '1 hour' end,
       'not among those that Descope counted, and missing from a load by id'
     from generate_series(1, ${users}) as n where n % 50 = 0 or n <= ${HELD}`,
  ];
}

/**
 * Over 30 days, a few lost by webhooks; seven of an action and a tenant that nothing else has, among
 * the oldest: the search that has to look furthest.
 */
function fillEvents({ users, events }: Filled): string[] {
  const at = `now() - interval '1 minute' - n * interval '30 days' / ${events}`;
  return [
    `insert into descope.events (event_id, action, occurred_at, user_ids, login_ids, actor_id,
       tenant_ids, payload, received_at, webhook_at, audit_at, state, due_at, applied_at, outcome, error)
     select md5(n::text), action, at, array[${userId('who')}], array[${address('who')}],
       'K2' || left(md5((n % 60)::text), 24),
       case when isRare then array['T2rare'] when n % 2 = 0 then array[${tenantId('n')}] else '{}' end,
       jsonb_build_object('projectId', 'P2', 'action', action, 'occurred', at, 'device', 'Desktop',
         'method', 'none', 'remoteAddress', '203.0.113.7', 'externalIds', jsonb_build_array(${address('who')}),
         'data', jsonb_build_object('updatedFields', jsonb_build_array('name'), 'id', ${userId('who')})),
       at + interval '2 seconds', case when n % 50 > 0 then at + interval '2 seconds' end,
       at + interval '70 seconds',
       case when n % ${Math.ceil(events / PARKED)} = 0 then 'parked' else 'applied' end,
       at, at + interval '3 seconds', 'unchanged',
       case when n % ${Math.ceil(events / PARKED)} = 0 then 'Descope refused the request: E0' || n % 7 end
     from generate_series(1, ${events}) as n
     cross join lateral (select ${at} as at, (n * 7919::bigint) % ${users} + 1 as who,
       n > ${events - 7} as isRare) as made
     cross join lateral (select case when isRare then 'UserImpersonated' when n % 20 = 0 then 'UserDeleted'
       when n % 4 = 0 then 'UserCreated' else 'UserModified' end as action) as named`,
  ];
}

/** A run of each pull a minute for 30 days, a sweep a night; as many minutes of history as are kept. */
const FILL_LEDGER = [
  `insert into descope.sync_runs (pull, reason, started_at, finished_at, outcome, total, covers_to,
     rows_read, requests, missing, extra, different)
   select pull, 'tick', at, at + interval '1 second', 'complete', 1000, at, 1000, 2,
     case when pull = 'verify' then 0 end, case when pull = 'verify' then 0 end,
     case when pull = 'verify' then 0 end
   from generate_series(now() - interval '30 days', now(), interval '1 minute') as at
   cross join lateral (select unnest(case when extract(hour from at) = 3 and extract(minute from at) = 0
     then array['sweep', 'modified', 'audit'] when extract(minute from at)::int % 15 = 0
     then array['verify', 'modified', 'audit'] else array['modified', 'audit'] end) as pull) as pulls`,
  `insert into descope.sync_windows (run_id, pull, from_time, to_time, cursor_time, state, rows_read,
     total, requests, proven_at, updated_at, error, gap_since)
   select run_id, pull, started_at - interval '5 minutes', started_at, started_at,
     case when run_id % 9973 = 0 then 'gap' else 'proven' end, 10, 10, 1,
     case when run_id % 9973 > 0 then finished_at end, finished_at,
     case when run_id % 9973 = 0 then 'Descope did not answer' end,
     case when run_id % 997 = 0 then started_at end
   from descope.sync_runs where pull in ('modified', 'audit')`,
  `insert into descope.sync_windows (run_id, pull, from_time, to_time, state, rows_read, total,
     requests, proven_at, updated_at)
   select run_id, 'sweep', started_at - (8 - n) * interval '100 days', started_at - (7 - n) * interval '100 days',
     'proven', 125000, 125000, 1250, finished_at, finished_at
   from descope.sync_runs, generate_series(1, 8) as n where pull = 'sweep'`,
  `insert into descope.watermarks (pull, complete_to)
   select pull, now() - interval '20 seconds' from unnest(array['audit', 'modified', 'sweep']) as pull`,
  `insert into descope.status_history (step, at, lag_seconds, loss_rate, live_users, by_webhook, applied, requests)
   select 'minute', date_trunc('minute', at), 20, 0.02, 980000, 23, 23, 40
   from generate_series(now() - interval '49 hours', now() - interval '2 minutes', interval '1 minute') as at
   union all
   select 'hour', date_trunc('hour', at), 20, 0.02, 980000, 1400, 1400, 2400
   from generate_series(now() - interval '90 days', now() - interval '50 hours', interval '1 hour') as at`,
  `insert into descope.budgets (name, next_at, granted) values ('api', now(), 900000), ('audit', now(), 90000)`,
  `insert into descope.admin_log (actor, action, detail, outcome)
   select 'dashboard', 'deletions approve', '{"users": 3}', 'done' from generate_series(1, 5000)`,
];

/** Fills an empty mirror, and has Postgres learn what is in it, as its own housekeeping would in time. */
export async function fillPages(database: Pick<Database, 'query'>, filled: Filled): Promise<void> {
  const statements = [...fillUsers(filled.users), ...fillEvents(filled), ...FILL_LEDGER];
  for (const statement of statements) await database.query(statement);
  await database.query('vacuum (analyze)');
}
