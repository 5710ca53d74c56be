import { isNull, sql } from 'drizzle-orm';
import {
  bigint,
  boolean,
  customType,
  doublePrecision,
  index,
  integer,
  interval,
  jsonb,
  pgSchema,
  primaryKey,
  text,
  timestamp,
} from 'drizzle-orm/pg-core';

import { roleMembersQuery, tenantMembersQuery } from './memberQueries.ts';
import { syncStatusQuery } from './statusQuery.ts';

/** Microseconds, always with a zone, handed over as text: a JavaScript Date would round instants. */
const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'string' });

/** A transaction's 64-bit id: tells a reader of the feed which rows may still be joined by late ones. */
const xid8 = customType<{ data: string }>({ dataType: () => 'xid8' });

const textArray = (name: string) =>
  text(name)
    .array()
    .notNull()
    .default(sql`'{}'::text[]`);

/**
 * Of `users` and `user_tenants` there may be others beside those that everybody reads: the ones a rebuild
 * fills, and the ones it has put aside. What a generation adds to their names.
 */
export type Generation = '' | '_next' | '_previous';

/**
 * The tables and views in one Postgres schema: one schema a Descope project. Of another generation all is
 * the same but for the users' own tables.
 */
export function mirrorTables(schemaName: string, generation: Generation = '') {
  const schema = pgSchema(schemaName);

  /** Every user of the directory, and a tombstone for each that is gone. */
  const users = schema.table(
    `users${generation}`,
    {
      userId: text('user_id').primaryKey(),
      loginIds: textArray('login_ids'),
      externalIds: textArray('external_ids'),
      email: text('email'),
      phone: text('phone'),
      name: text('name'),
      givenName: text('given_name'),
      middleName: text('middle_name'),
      familyName: text('family_name'),
      picture: text('picture'),
      status: text('status'),
      verifiedEmail: boolean('verified_email'),
      verifiedPhone: boolean('verified_phone'),
      test: boolean('test').notNull().default(false),
      roleNames: textArray('role_names'),
      permissions: textArray('permissions'),
      ssoAppIds: textArray('sso_app_ids'),
      customAttributes: jsonb('custom_attributes')
        .notNull()
        .default(sql`'{}'::jsonb`),
      createdTime: instant('created_time'),
      modifiedTime: instant('modified_time'),
      raw: jsonb('raw')
        .notNull()
        .default(sql`'{}'::jsonb`),
      contentHash: text('content_hash').notNull().default(''),
      observedAt: instant('observed_at').notNull(),
      changedAt: instant('changed_at').notNull(),
      deletedAt: instant('deleted_at'),
      witness: text('witness').notNull(),
    },
    (t) => [
      index('users_created_time').on(t.createdTime, t.userId),
      // Holds all that counts of live users ask: they are taken from it alone.
      index('users_live_created')
        .on(t.createdTime, t.test)
        .where(sql`deleted_at is null`),
      // Hashed: a value of any length can be indexed.
      index('users_email').using('hash', t.email),
      index('users_login_ids').using('gin', t.loginIds),
      // Most have no role in the project.
      index('users_role_names')
        .using('gin', t.roleNames)
        .where(sql`deleted_at is null and role_names <> '{}'`),
      index('users_deleted_at')
        .on(t.deletedAt)
        .where(sql`deleted_at is not null`),
    ],
  );

  /** Which tenants a live user belongs to. */
  const userTenants = schema.table(
    `user_tenants${generation}`,
    {
      userId: text('user_id').notNull(),
      tenantId: text('tenant_id').notNull(),
      tenantName: text('tenant_name'),
      roleNames: textArray('role_names'),
      permissions: textArray('permissions'),
    },
    (t) => [
      primaryKey({ columns: [t.userId, t.tenantId] }),
      // A tenant's users, also a page of them in the order of their ids.
      index('user_tenants_members').on(t.tenantId, t.userId),
      index('user_tenants_role_names')
        .using('gin', t.roleNames)
        .where(sql`role_names <> '{}'`),
    ],
  );

  /** The ordered feed: one row a change, written in the transaction of the change. */
  const userChanges = schema.table(
    'user_changes',
    {
      seq: bigint('seq', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
      userId: text('user_id').notNull(),
      kind: text('kind').notNull(),
      changed: textArray('changed'),
      observedAt: instant('observed_at').notNull(),
      witness: text('witness').notNull(),
      writtenAt: instant('written_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      transactionId: xid8('transaction_id')
        .notNull()
        .default(sql`pg_current_xact_id()`),
    },
    (t) => [
      index('user_changes_order').on(t.transactionId, t.seq),
      index('user_changes_user').on(t.userId, t.seq),
    ],
  );

  /** The inbox: every event, by content key, committed before anything else happens. */
  const events = schema.table(
    'events',
    {
      eventId: text('event_id').primaryKey(),
      seq: bigint('seq', { mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
      action: text('action').notNull(),
      occurredAt: instant('occurred_at').notNull(),
      userIds: textArray('user_ids'),
      loginIds: textArray('login_ids'),
      actorId: text('actor_id'),
      tenantIds: textArray('tenant_ids'),
      payload: jsonb('payload').notNull(),
      receivedAt: instant('received_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      webhookAt: instant('webhook_at'),
      auditAt: instant('audit_at'),
      archiveAt: instant('archive_at'),
      /** pending → applied | parked; `archived` is kept but never acted on. */
      state: text('state').notNull().default('pending'),
      attempts: integer('attempts').notNull().default(0),
      /** How often the answer did not yet show what the event reports. */
      looks: integer('looks').notNull().default(0),
      dueAt: instant('due_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      appliedAt: instant('applied_at'),
      outcome: text('outcome'),
      error: text('error'),
    },
    (t) => [
      index('events_due')
        .on(t.dueAt)
        .where(sql`state = 'pending'`),
      index('events_parked')
        .on(t.seq)
        .where(sql`state = 'parked'`),
      index('events_received').on(t.receivedAt),
      // The audit trail is searched from the newest on, whole or one actor's.
      index('events_occurred').on(t.occurredAt, t.eventId),
      index('events_actor')
        .on(t.actorId, t.occurredAt)
        .where(sql`actor_id is not null`),
      index('events_applied')
        .on(t.appliedAt)
        .where(sql`applied_at is not null`),
      index('events_user_ids').using('gin', t.userIds),
      // What is to be done about nobody in particular holds up what is known of everyone.
      index('events_open_nameless')
        .on(t.occurredAt)
        .where(sql`state in ('pending', 'parked') and user_ids = '{}'`),
      // Only of those that name nobody by id: most carry both, and would pay for nothing.
      index('events_login_ids')
        .using('gin', t.loginIds)
        .where(sql`login_ids <> '{}' and user_ids = '{}'`),
    ],
  );

  /** Per pull: the instant (of Descope's clock) up to which it is proven complete. */
  const watermarks = schema.table('watermarks', {
    pull: text('pull').primaryKey(),
    completeTo: instant('complete_to'),
    /** A pull under way: until when, unless renewed, and whose. */
    busyUntil: instant('busy_until'),
    busyBy: text('busy_by'),
    updatedAt: instant('updated_at')
      .notNull()
      .default(sql`clock_timestamp()`),
  });

  /** One row a run of a pull: what it was asked, how it ended. */
  const syncRuns = schema.table(
    'sync_runs',
    {
      runId: bigint('run_id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
      pull: text('pull').notNull(),
      reason: text('reason').notNull(),
      startedAt: instant('started_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      finishedAt: instant('finished_at'),
      /** complete | partial | blocked; null while it runs. */
      outcome: text('outcome'),
      total: bigint('total', { mode: 'number' }),
      /** The instant (of Descope's clock) the run was planned at. */
      coversTo: instant('covers_to'),
      rowsRead: bigint('rows_read', { mode: 'number' }).notNull().default(0),
      requests: integer('requests').notNull().default(0),
      created: bigint('created', { mode: 'number' }).notNull().default(0),
      updated: bigint('updated', { mode: 'number' }).notNull().default(0),
      deleted: bigint('deleted', { mode: 'number' }).notNull().default(0),
      /** What a verification found: users missing here, gone there, of other content. */
      missing: bigint('missing', { mode: 'number' }),
      extra: bigint('extra', { mode: 'number' }),
      different: bigint('different', { mode: 'number' }),
      error: text('error'),
      /** Of a verification that compared a sample: so many users; null where it compared everyone. */
      sampled: integer('sampled'),
    },
    (t) => [
      index('sync_runs_pull').on(t.pull, t.runId),
      index('sync_runs_finished').on(t.pull, t.finishedAt),
    ],
  );

  /** The ledger of windows: closed ranges of Descope's time, proven complete or a visible gap. */
  const syncWindows = schema.table(
    'sync_windows',
    {
      windowId: bigint('window_id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
      runId: bigint('run_id', { mode: 'number' }).notNull(),
      pull: text('pull').notNull(),
      fromTime: instant('from_time').notNull(),
      /** Null: open towards now, for the youngest window of a sweep. */
      toTime: instant('to_time'),
      /** Everything before this instant of the window has been read and written. */
      cursorTime: instant('cursor_time'),
      /** open | proven | gap */
      state: text('state').notNull().default('open'),
      rowsRead: bigint('rows_read', { mode: 'number' }).notNull().default(0),
      total: bigint('total', { mode: 'number' }),
      requests: integer('requests').notNull().default(0),
      created: bigint('created', { mode: 'number' }).notNull().default(0),
      updated: bigint('updated', { mode: 'number' }).notNull().default(0),
      /** How often it was opened again because the directory counted more users. */
      rereads: integer('rereads').notNull().default(0),
      updatedAt: instant('updated_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      provenAt: instant('proven_at'),
      error: text('error'),
      /** When it first became a gap; kept when it is refilled, null where it never was one. */
      gapSince: instant('gap_since'),
    },
    (t) => [
      index('sync_windows_run').on(t.runId, t.windowId),
      index('sync_windows_open')
        .on(t.pull, t.fromTime)
        .where(sql`state <> 'proven'`),
      index('sync_windows_from').on(t.pull, t.fromTime),
      index('sync_windows_gaps')
        .on(t.provenAt)
        .where(sql`gap_since is not null`),
    ],
  );

  /** Suspected and decided deletions, with their evidence. */
  const deletions = schema.table(
    'deletions',
    {
      deletionId: bigint('deletion_id', { mode: 'number' })
        .primaryKey()
        .generatedAlwaysAsIdentity(),
      userId: text('user_id').notNull(),
      /** suspected → verified → tombstoned | held → tombstoned | rejected; `present` where the load found it. */
      state: text('state').notNull(),
      witness: text('witness').notNull(),
      runId: bigint('run_id', { mode: 'number' }),
      eventId: text('event_id'),
      nominatedAt: instant('nominated_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      verifiedAt: instant('verified_at'),
      decidedAt: instant('decided_at'),
      evidence: text('evidence'),
    },
    (t) => [
      index('deletions_state').on(t.state, t.deletionId),
      index('deletions_user').on(t.userId),
      index('deletions_decided').on(t.decidedAt),
    ],
  );

  /** Requests granted so far, for all processes together. */
  const budgets = schema.table('budgets', {
    name: text('name').primaryKey(),
    /** When the next request may leave. */
    nextAt: instant('next_at').notNull(),
    /** Nothing leaves before this: the silence after a 429. */
    silentUntil: instant('silent_until'),
    granted: bigint('granted', { mode: 'number' }).notNull().default(0),
    /** Grants of the last minute, by the half second, newest first. */
    recent: integer('recent').array().notNull().default([]),
    /** The half second of its newest, counted from the epoch. */
    recentTo: bigint('recent_to', { mode: 'number' }).notNull().default(0),
    /** Until then an event waits for a slot: no pull and no sweep gets one. */
    eventWaitsUntil: instant('event_waits_until'),
    /** Until then a pull waits for a slot: no sweep gets one. */
    pullWaitsUntil: instant('pull_waits_until'),
    throttled: bigint('throttled', { mode: 'number' }).notNull().default(0),
  });

  /** What we learnt about this Descope project (time unit, page size…). */
  const learnt = schema.table('learnt', {
    name: text('name').primaryKey(),
    value: jsonb('value').notNull(),
    learntAt: instant('learnt_at')
      .notNull()
      .default(sql`clock_timestamp()`),
  });

  /**
   * Where the mirror stood, a row a minute, later a row an hour: what the dashboard's charts show, also
   * after a restart. Counts are of that minute or hour, the rest is as it was at its end.
   */
  const statusHistory = schema.table(
    'status_history',
    {
      /** minute | hour */
      step: text('step').notNull(),
      /** When the minute or hour began. */
      at: instant('at').notNull(),
      lagSeconds: doublePrecision('lag_seconds'),
      /** 0 to 1; null where no event was expected. */
      lossRate: doublePrecision('loss_rate'),
      driftPpm: doublePrecision('drift_ppm'),
      gaps: integer('gaps').notNull().default(0),
      pendingEvents: integer('pending_events').notNull().default(0),
      parkedEvents: integer('parked_events').notNull().default(0),
      heldDeletions: integer('held_deletions').notNull().default(0),
      liveUsers: bigint('live_users', { mode: 'number' }).notNull().default(0),
      /** Events that came in, by who told of them first. */
      byWebhook: integer('by_webhook').notNull().default(0),
      byAudit: integer('by_audit').notNull().default(0),
      byArchive: integer('by_archive').notNull().default(0),
      applied: integer('applied').notNull().default(0),
      /** Requests sent to Descope, and answers of 429. */
      requests: integer('requests').notNull().default(0),
      throttled: integer('throttled').notNull().default(0),
    },
    (t) => [primaryKey({ columns: [t.step, t.at] })],
  );

  /** What people did through the admin port or a command: who let deletions happen, and when. */
  const adminLog = schema.table('admin_log', {
    entryId: bigint('entry_id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    at: instant('at')
      .notNull()
      .default(sql`clock_timestamp()`),
    /** `dashboard` or `command`, and from where. */
    actor: text('actor').notNull(),
    action: text('action').notNull(),
    /** What it was done to: ids, never more of a person. */
    detail: jsonb('detail')
      .notNull()
      .default(sql`'{}'::jsonb`),
    outcome: text('outcome').notNull(),
  });

  /**
   * Where the feed begins: the last row that was pruned, in the feed's own order. Moved in the statement that
   * deletes, so that a cursor whose next rows are gone is never taken for one that has read all.
   */
  const feedPruned = schema.table('feed_pruned', {
    /** There is one feed, and one row at most. */
    feed: text('feed').primaryKey(),
    transactionId: xid8('transaction_id').notNull().default('0'),
    seq: bigint('seq', { mode: 'number' }).notNull().default(0),
    /** `FEED_RETENTION_DAYS`, as the last pruning had it. */
    keptDays: integer('kept_days'),
    prunedAt: instant('pruned_at'),
  });

  /** How far consumers have come that let us keep their place; see `confirm_changes()`. */
  const feedCursors = schema.table('feed_cursors', {
    name: text('name').primaryKey(),
    cursor: text('cursor').notNull(),
    movedAt: instant('moved_at')
      .notNull()
      .default(sql`clock_timestamp()`),
    begunAt: instant('begun_at')
      .notNull()
      .default(sql`clock_timestamp()`),
  });

  /** Whom changes are posted to, and how far into the feed their deliveries have been put down. */
  const outgoingEndpoints = schema.table('outgoing_endpoints', {
    /** A hash of the address, which may hold a secret. */
    endpointId: text('endpoint_id').primaryKey(),
    host: text('host').notNull(),
    cursor: text('cursor').notNull(),
    /** active | disabled (it answered 410) | cut off (its next changes were pruned) | removed (no longer set). */
    state: text('state').notNull().default('active'),
    reason: text('reason'),
    changedAt: instant('changed_at')
      .notNull()
      .default(sql`clock_timestamp()`),
  });

  /** A change on its way to an endpoint, and afterwards the log of that. */
  const outgoingDeliveries = schema.table(
    'outgoing_deliveries',
    {
      /** In the order of the feed, for each endpoint. */
      deliveryId: bigint('delivery_id', { mode: 'number' })
        .primaryKey()
        .generatedAlwaysAsIdentity(),
      endpointId: text('endpoint_id').notNull(),
      /** The same at each attempt: receivers know repeats by it. */
      webhookId: text('webhook_id').notNull(),
      cursor: text('cursor').notNull(),
      userId: text('user_id').notNull(),
      kind: text('kind').notNull(),
      changed: textArray('changed'),
      observedAt: instant('observed_at').notNull(),
      witness: text('witness').notNull(),
      writtenAt: instant('written_at').notNull(),
      /** waiting → delivered | parked → waiting (replayed) | dropped */
      state: text('state').notNull().default('waiting'),
      attempts: integer('attempts').notNull().default(0),
      dueAt: instant('due_at')
        .notNull()
        .default(sql`clock_timestamp()`),
      /** Until then somebody is posting it. */
      takenUntil: instant('taken_until'),
      /** HTTP status of the last answer; null where none came. */
      status: integer('status'),
      error: text('error'),
      endedAt: instant('ended_at'),
    },
    (t) => [
      index('outgoing_deliveries_due')
        .on(t.endpointId, t.dueAt)
        .where(sql`state = 'waiting'`),
      // What holds back a user's later ones.
      index('outgoing_deliveries_user')
        .on(t.endpointId, t.userId, t.deliveryId)
        .where(sql`state in ('waiting', 'parked')`),
      index('outgoing_deliveries_taken')
        .on(t.endpointId, t.takenUntil)
        .where(sql`taken_until is not null`),
      index('outgoing_deliveries_ended').on(t.endedAt),
    ],
  );

  /** Custom attributes that are shown as typed columns of `live_users_with_attributes`. */
  const attributes = schema.table('attributes', {
    /** As Descope names it. */
    name: text('name').primaryKey(),
    position: bigint('position', { mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
    columnName: text('column_name').notNull(),
    /** text | boolean | integer | bigint | numeric | timestamptz | text[] */
    type: text('type').notNull(),
    /** Whether it was asked for an index; which there are, the catalogue knows. */
    indexed: boolean('indexed').notNull().default(false),
    addedAt: instant('added_at')
      .notNull()
      .default(sql`clock_timestamp()`),
  });

  /**
   * Whom a person had erased: the proof, all that is left of them, and what keeps them from being mirrored
   * again.
   */
  const erasures = schema.table('erasures', {
    userId: text('user_id').primaryKey(),
    erasedAt: instant('erased_at')
      .notNull()
      .default(sql`clock_timestamp()`),
    erasedBy: text('erased_by').notNull(),
    /** Rows removed, or changed, by table. */
    counts: jsonb('counts')
      .notNull()
      .default(sql`'{}'::jsonb`),
    /**
     * Both only while the directory still shows the user, so that its counts can be held against ours: when
     * the user was created there, and when that was last seen.
     */
    createdTime: instant('created_time'),
    seenAt: instant('seen_at'),
  });

  /** What applications read: users without tombstones. */
  const liveUsers = schema
    .view('live_users')
    .as((query) => query.select().from(users).where(isNull(users.deletedAt)));

  const userColumns = {
    loginIds: textArray('login_ids'),
    email: text('email'),
    phone: text('phone'),
    name: text('name'),
    givenName: text('given_name'),
    familyName: text('family_name'),
    picture: text('picture'),
    status: text('status'),
    verifiedEmail: boolean('verified_email'),
    verifiedPhone: boolean('verified_phone'),
    test: boolean('test').notNull(),
    customAttributes: jsonb('custom_attributes').notNull(),
    createdTime: instant('created_time'),
    modifiedTime: instant('modified_time'),
    observedAt: instant('observed_at').notNull(),
  };

  /** Who belongs to a tenant: live users, a row a membership. */
  const tenantMembers = schema
    .view('tenant_members', {
      tenantId: text('tenant_id').notNull(),
      tenantName: text('tenant_name'),
      userId: text('user_id').notNull(),
      /** Within the tenant. */
      roleNames: textArray('role_names'),
      permissions: textArray('permissions'),
      ...userColumns,
    })
    .as(tenantMembersQuery({ liveUsers, userTenants }));

  /** Who has a role: live users, a row a role and place. */
  const roleMembers = schema
    .view('role_members', {
      roleName: text('role_name').notNull(),
      /** Null: a role in the project itself. */
      tenantId: text('tenant_id'),
      tenantName: text('tenant_name'),
      userId: text('user_id').notNull(),
      /** All roles in that place. */
      roleNames: textArray('role_names'),
      permissions: textArray('permissions'),
      ...userColumns,
    })
    .as(roleMembersQuery({ liveUsers, userTenants }));

  /** One row that says whether the mirror can be trusted; right also while no process of ours runs. */
  const syncStatus = schema
    .view('sync_status', {
      asOf: instant('as_of'),
      lag: interval('lag'),
      watermarks: jsonb('watermarks'),
      gaps: bigint('gaps', { mode: 'number' }),
      lossRate: doublePrecision('loss_rate'),
      lossRateDay: doublePrecision('loss_rate_day'),
      webhookDelay: interval('webhook_delay'),
      pendingEvents: bigint('pending_events', { mode: 'number' }),
      parkedEvents: bigint('parked_events', { mode: 'number' }),
      heldDeletions: bigint('held_deletions', { mode: 'number' }),
      lastSweep: instant('last_sweep'),
      lastSweepOutcome: text('last_sweep_outcome'),
      lastProof: instant('last_proof'),
      driftPpm: doublePrecision('drift_ppm'),
      webhookDelayDay: interval('webhook_delay_day'),
      gapWindows: jsonb('gap_windows'),
      lastRuns: jsonb('last_runs'),
      driftSample: integer('drift_sample'),
    })
    .as(syncStatusQuery({ events, watermarks, syncRuns, syncWindows, deletions }));

  return {
    schema,
    generation,
    syncStatus,
    users,
    userTenants,
    userChanges,
    events,
    watermarks,
    syncRuns,
    syncWindows,
    deletions,
    budgets,
    learnt,
    statusHistory,
    adminLog,
    feedPruned,
    feedCursors,
    outgoingEndpoints,
    outgoingDeliveries,
    attributes,
    erasures,
    liveUsers,
    tenantMembers,
    roleMembers,
  };
}

export type MirrorTables = ReturnType<typeof mirrorTables>;

// drizzle-kit reads a module's exported tables; this is the schema the migrations are written for.
export const {
  schema: descopeSchema,
  users,
  userTenants,
  userChanges,
  events,
  watermarks,
  syncRuns,
  syncWindows,
  deletions,
  budgets,
  learnt,
  statusHistory,
  adminLog,
  feedPruned,
  feedCursors,
  outgoingEndpoints,
  outgoingDeliveries,
  attributes,
  erasures,
  liveUsers,
  tenantMembers,
  roleMembers,
  syncStatus,
} = mirrorTables('descope');
