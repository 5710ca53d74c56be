-- What every relation, column and function is for: one statement each. Run at the end of every migration, and the
-- source of docs/schema.md (npm run docs:schema). Whoever adds a column adds its line here.

-- Columns of a user mean the same wherever they appear. What a view has of its own follows further down.

comment on table descope.users is 'Every user of the directory, and a tombstone for each that is gone.';
comment on column descope.users.user_id is 'Descope''s id of the user. The only column to join on: it never changes.';
comment on column descope.users.login_ids is 'What the user signs in with. Any of them may move to another user.';
comment on column descope.users.external_ids is 'Ids of the user in other systems, as Descope knows them.';
comment on column descope.users.email is 'Mail address; not unique.';
comment on column descope.users.phone is 'Phone number; not unique.';
comment on column descope.users.name is 'Display name.';
comment on column descope.users.given_name is 'Given name.';
comment on column descope.users.middle_name is 'Middle name.';
comment on column descope.users.family_name is 'Family name.';
comment on column descope.users.picture is 'Address of a picture.';
comment on column descope.users.status is 'As Descope spells it, such as enabled, disabled or invited.';
comment on column descope.users.verified_email is 'Whether the mail address was verified; null where Descope does not say.';
comment on column descope.users.verified_phone is 'Whether the phone number was verified; null where Descope does not say.';
comment on column descope.users.test is 'Whether it is a test user; those are mirrored with INCLUDE_TEST_USERS only.';
comment on column descope.users.role_names is 'Roles in the project itself; those in tenants are in user_tenants.';
comment on column descope.users.permissions is 'Permissions in the project itself.';
comment on column descope.users.sso_app_ids is 'SSO applications the user is assigned to.';
comment on column descope.users.custom_attributes is 'Custom attributes by name, as Descope answered them.';
comment on column descope.users.created_time is 'When Descope says the user was created.';
comment on column descope.users.modified_time is 'When Descope says the user was last modified; null where it does not send that.';
comment on column descope.users.raw is 'Descope''s whole answer. Empty once a tombstone is past its retention.';
comment on column descope.users.content_hash is 'Of raw: tells whether anything changed.';
comment on column descope.users.observed_at is 'Just before the request was sent whose answer this row is. An older observation never replaces a newer one.';
comment on column descope.users.changed_at is 'When this row was last written with another content.';
comment on column descope.users.deleted_at is 'When the user was found to be gone, in two ways; null while there.';
comment on column descope.users.witness is 'How we came to look when it was last written: webhook, audit, archive, modified, sweep or manual.';

do $$
declare
  twin record;
begin
  for twin in
    select v.oid::regclass as view, a.attname as name, col_description(u.oid, o.attnum) as about
    from pg_class u
      join pg_class v on v.relnamespace = u.relnamespace
        and v.relname in ('live_users', 'live_users_with_attributes', 'tenant_members', 'role_members')
      join pg_attribute o on o.attrelid = u.oid and o.attnum > 0 and not o.attisdropped
      join pg_attribute a on a.attrelid = v.oid and a.attname = o.attname
    where u.oid = 'descope.users'::regclass
  loop
    execute format('comment on column %s.%I is %L', twin.view, twin.name, twin.about);
  end loop;
end $$;

comment on table descope.user_tenants is 'Which tenants a live user belongs to, a row a membership.';
comment on column descope.user_tenants.user_id is 'The user.';
comment on column descope.user_tenants.tenant_id is 'Descope''s id of the tenant.';
comment on column descope.user_tenants.tenant_name is 'Name of the tenant when the user was last looked at.';
comment on column descope.user_tenants.role_names is 'Roles within the tenant.';
comment on column descope.user_tenants.permissions is 'Permissions within the tenant.';

comment on table descope.user_changes is 'The feed: a row a change, written in the transaction of the change. Read it with changes_since().';
comment on column descope.user_changes.seq is 'Number of the change. Not the order to read in: a lower one may be committed later.';
comment on column descope.user_changes.user_id is 'Whom it is about.';
comment on column descope.user_changes.kind is 'created, updated, deleted or restored.';
comment on column descope.user_changes.changed is 'Fields that changed, by the names of Descope''s API; empty unless updated.';
comment on column descope.user_changes.observed_at is 'Of the observation that brought it.';
comment on column descope.user_changes.witness is 'How we came to look.';
comment on column descope.user_changes.written_at is 'When the row was written, a little before it was committed.';
comment on column descope.user_changes.transaction_id is 'The transaction that wrote it, by which changes_since() orders.';

comment on view descope.live_users is 'Users without tombstones: everyone who is there now.';

comment on view descope.tenant_members is 'Who belongs to a tenant: live users, a row a membership.';
comment on column descope.tenant_members.tenant_id is 'Descope''s id of the tenant.';
comment on column descope.tenant_members.tenant_name is 'Name of the tenant when the user was last looked at.';
comment on column descope.tenant_members.role_names is 'Roles within the tenant.';
comment on column descope.tenant_members.permissions is 'Permissions within the tenant.';

comment on view descope.role_members is 'Who has a role: live users, a row a role and place. For all who have one role members_of_role() is faster.';
comment on column descope.role_members.role_name is 'The role.';
comment on column descope.role_members.tenant_id is 'Where it is held; null: in the project itself.';
comment on column descope.role_members.tenant_name is 'Name of that tenant.';
comment on column descope.role_members.role_names is 'All roles of the user in that place.';
comment on column descope.role_members.permissions is 'Permissions of the user in that place.';

comment on view descope.live_users_with_attributes is 'live_users, and behind its columns the custom attributes that `rollcall attributes add` made columns.';

comment on view descope.sync_status is 'One row that says whether the mirror can be trusted, right also while nothing of ours runs.';
comment on column descope.sync_status.as_of is 'The mirror is proven complete as of then; null until a first sweep has completed.';
comment on column descope.sync_status.lag is 'How long ago that is.';
comment on column descope.sync_status.watermarks is 'Up to when each pull is proven complete, by its name.';
comment on column descope.sync_status.gaps is 'Ranges of time that are not proven complete.';
comment on column descope.sync_status.loss_rate is 'Of the events of the last hour, the share that no webhook brought; null where there was none.';
comment on column descope.sync_status.loss_rate_day is 'The same of the last day.';
comment on column descope.sync_status.webhook_delay is 'From an event to its delivery, the median of the last hour.';
comment on column descope.sync_status.pending_events is 'Events not applied yet.';
comment on column descope.sync_status.parked_events is 'Events that were given up.';
comment on column descope.sync_status.held_deletions is 'Deletions that wait for a person.';
comment on column descope.sync_status.last_sweep is 'When the last sweep ended.';
comment on column descope.sync_status.last_sweep_outcome is 'How: complete, partial or blocked.';
comment on column descope.sync_status.last_proof is 'When everyone was last compared with Descope: by a complete sweep, or a verification of everyone.';
comment on column descope.sync_status.drift_ppm is 'Users that differ, in parts per million, as the last verification found.';
comment on column descope.sync_status.webhook_delay_day is 'The median delay of the last day.';
comment on column descope.sync_status.gap_windows is 'The oldest 20 gaps: pull, from, to, since, reason.';
comment on column descope.sync_status.last_runs is 'How the last run of each pull ended: run_id, outcome, at, reason.';
comment on column descope.sync_status.drift_sample is 'How many users the last verification compared; null: everyone.';

comment on table descope.events is 'The inbox and the audit trail: every event, committed before its delivery is answered.';
comment on column descope.events.event_id is 'Made of what the event says, so that each is there once, whoever tells of it.';
comment on column descope.events.seq is 'In the order of arrival.';
comment on column descope.events.action is 'As Descope names it, such as UserModified.';
comment on column descope.events.occurred_at is 'When it happened, by the clock of Descope.';
comment on column descope.events.user_ids is 'Users it names by id.';
comment on column descope.events.login_ids is 'Users it names by login id.';
comment on column descope.events.actor_id is 'Who did it: a user or a management key.';
comment on column descope.events.tenant_ids is 'Tenants it names.';
comment on column descope.events.payload is 'The event as it came.';
comment on column descope.events.received_at is 'When it was first told of, by whichever witness.';
comment on column descope.events.webhook_at is 'When a webhook told of it; null: none did.';
comment on column descope.events.audit_at is 'When the audit pull told of it.';
comment on column descope.events.archive_at is 'When it was imported from an archive.';
comment on column descope.events.state is 'pending, applied, parked (given up) or archived (kept, never acted on).';
comment on column descope.events.attempts is 'How often applying it failed.';
comment on column descope.events.looks is 'How often the answer did not yet show what it reports.';
comment on column descope.events.due_at is 'Not looked at before.';
comment on column descope.events.applied_at is 'When it was done.';
comment on column descope.events.outcome is 'What came of it.';
comment on column descope.events.error is 'Why it failed last.';

comment on table descope.deletions is 'Suspected and decided deletions, with their evidence.';
comment on column descope.deletions.deletion_id is 'Number of the case.';
comment on column descope.deletions.user_id is 'Whom it is about.';
comment on column descope.deletions.state is 'suspected, verified, held, tombstoned, rejected, superseded by what came later, or present where a load found the user.';
comment on column descope.deletions.witness is 'How we came to suspect it.';
comment on column descope.deletions.run_id is 'The sweep that missed the user; null where it was an event.';
comment on column descope.deletions.event_id is 'The event that told of it.';
comment on column descope.deletions.nominated_at is 'When it was suspected.';
comment on column descope.deletions.verified_at is 'When loads by id said that the user is gone.';
comment on column descope.deletions.decided_at is 'When it was decided.';
comment on column descope.deletions.evidence is 'What the loads said.';

comment on table descope.watermarks is 'Up to when each pull is proven complete.';
comment on column descope.watermarks.pull is 'modified, audit or sweep.';
comment on column descope.watermarks.complete_to is 'By the clock of Descope; null: never ran.';
comment on column descope.watermarks.busy_until is 'While a process does this pull: until when, unless it is renewed.';
comment on column descope.watermarks.busy_by is 'Which process, by a number of its own.';
comment on column descope.watermarks.updated_at is 'When the row was last written.';

comment on table descope.sync_runs is 'A row a run of a pull: what it was asked, how it ended.';
comment on column descope.sync_runs.run_id is 'Number of the run.';
comment on column descope.sync_runs.pull is 'modified, audit, sweep, verify or rebuild.';
comment on column descope.sync_runs.reason is 'Why it ran.';
comment on column descope.sync_runs.started_at is 'When it began.';
comment on column descope.sync_runs.finished_at is 'When it ended; null while it runs.';
comment on column descope.sync_runs.outcome is 'complete, partial or blocked; null while it runs.';
comment on column descope.sync_runs.total is 'Users that Descope counted.';
comment on column descope.sync_runs.covers_to is 'The instant it was planned at, by the clock of Descope.';
comment on column descope.sync_runs.rows_read is 'Users read.';
comment on column descope.sync_runs.requests is 'Requests to Descope.';
comment on column descope.sync_runs.created is 'Users it created here.';
comment on column descope.sync_runs.updated is 'Users it changed here.';
comment on column descope.sync_runs.deleted is 'Users it removed here.';
comment on column descope.sync_runs.missing is 'Of a verification: users that are not here.';
comment on column descope.sync_runs.extra is 'Of a verification: users that are only here.';
comment on column descope.sync_runs.different is 'Of a verification: users of other content.';
comment on column descope.sync_runs.error is 'Why it did not complete.';
comment on column descope.sync_runs.sampled is 'Of a verification of a sample: so many users; null: everyone.';

comment on table descope.sync_windows is 'The ledger: closed ranges of time, each proven complete or a visible gap.';
comment on column descope.sync_windows.window_id is 'Number of the window.';
comment on column descope.sync_windows.run_id is 'The run it belongs to.';
comment on column descope.sync_windows.pull is 'modified, audit, sweep or rebuild.';
comment on column descope.sync_windows.from_time is 'Its beginning, by the clock of Descope.';
comment on column descope.sync_windows.to_time is 'Its end; null: towards now.';
comment on column descope.sync_windows.cursor_time is 'Everything before this instant of it has been read and written.';
comment on column descope.sync_windows.state is 'open, proven or gap.';
comment on column descope.sync_windows.rows_read is 'Users read.';
comment on column descope.sync_windows.total is 'Users that Descope counted in it.';
comment on column descope.sync_windows.requests is 'Requests to Descope.';
comment on column descope.sync_windows.created is 'Users it created here.';
comment on column descope.sync_windows.updated is 'Users it changed here.';
comment on column descope.sync_windows.rereads is 'How often it was opened again because Descope counted more users.';
comment on column descope.sync_windows.updated_at is 'When the row was last written.';
comment on column descope.sync_windows.proven_at is 'When it was proven complete.';
comment on column descope.sync_windows.error is 'Why it is not.';
comment on column descope.sync_windows.gap_since is 'When it first became a gap; null: it never was one.';

comment on table descope.admin_log is 'What people decided, at the admin port or by a command.';
comment on column descope.admin_log.entry_id is 'Number of the entry.';
comment on column descope.admin_log.at is 'When.';
comment on column descope.admin_log.actor is 'dashboard or command, and from where.';
comment on column descope.admin_log.action is 'What was done.';
comment on column descope.admin_log.detail is 'What it was done to: ids, never more of a person.';
comment on column descope.admin_log.outcome is 'What came of it.';

comment on table descope.attributes is 'Custom attributes that are columns of live_users_with_attributes.';
comment on column descope.attributes.name is 'As Descope names it.';
comment on column descope.attributes.position is 'In the order in which they were added.';
comment on column descope.attributes.column_name is 'Of its column.';
comment on column descope.attributes.type is 'Of its column.';
comment on column descope.attributes.indexed is 'Whether an index was asked for.';
comment on column descope.attributes.added_at is 'When it was added.';

comment on table descope.budgets is 'Requests granted so far, for all processes together.';
comment on column descope.budgets.name is 'api or audit.';
comment on column descope.budgets.next_at is 'When the next request may leave.';
comment on column descope.budgets.silent_until is 'Nothing leaves before: the silence after a 429.';
comment on column descope.budgets.granted is 'Requests granted so far.';
comment on column descope.budgets.throttled is 'Answers of 429 so far.';
comment on column descope.budgets.recent is 'Grants of the last minute, by the half second, newest first.';
comment on column descope.budgets.recent_to is 'The half second of the newest of them, counted from the epoch.';
comment on column descope.budgets.event_waits_until is 'Until then an event waits: no pull and no sweep gets a slot.';
comment on column descope.budgets.pull_waits_until is 'Until then a pull waits: no sweep gets a slot.';

comment on table descope.learnt is 'What was learnt about this Descope project, and what this mirror is.';
comment on column descope.learnt.name is 'What.';
comment on column descope.learnt.value is 'The answer.';
comment on column descope.learnt.learnt_at is 'When.';

comment on table descope.migrations is 'Which migrations this schema has.';
comment on column descope.migrations.migration_id is 'Of the migration: when it was written, in epoch ms.';
comment on column descope.migrations.content_hash is 'Of its text.';
comment on column descope.migrations.applied_at is 'When it was applied.';

comment on table descope.status_history is 'Where the mirror stood, a row a minute for two days, then a row an hour. Counts are of that minute or hour, the rest is as it was at its end.';
comment on column descope.status_history.step is 'minute or hour.';
comment on column descope.status_history.at is 'When it began.';
comment on column descope.status_history.lag_seconds is 'How far behind the mirror was.';
comment on column descope.status_history.loss_rate is 'Share of events that no webhook brought, 0 to 1.';
comment on column descope.status_history.drift_ppm is 'Users that differ, in parts per million.';
comment on column descope.status_history.gaps is 'Gaps.';
comment on column descope.status_history.pending_events is 'Events not applied.';
comment on column descope.status_history.parked_events is 'Events given up.';
comment on column descope.status_history.held_deletions is 'Deletions that waited for a person.';
comment on column descope.status_history.live_users is 'Users that were there.';
comment on column descope.status_history.by_webhook is 'Events that came in, first told of by a webhook.';
comment on column descope.status_history.by_audit is 'By the audit pull.';
comment on column descope.status_history.by_archive is 'By an import.';
comment on column descope.status_history.applied is 'Events applied.';
comment on column descope.status_history.requests is 'Requests to Descope.';
comment on column descope.status_history.throttled is 'Answers of 429.';

comment on table descope.feed_pruned is 'Where the feed begins: up to which of its rows it was pruned. One row, once the hourly pruning has run.';
comment on column descope.feed_pruned.feed is 'user_changes.';
comment on column descope.feed_pruned.transaction_id is 'Of the last row that was pruned; 0 where none was.';
comment on column descope.feed_pruned.seq is 'Of the last row that was pruned; 0 where none was, or since a dump of another server was adopted.';
comment on column descope.feed_pruned.kept_days is 'FEED_RETENTION_DAYS, as the last pruning had it.';
comment on column descope.feed_pruned.pruned_at is 'When something was last pruned.';

comment on table descope.feed_cursors is 'How far the consumers have come whose cursor is kept; moved by confirm_changes().';
comment on column descope.feed_cursors.name is 'Of the consumer.';
comment on column descope.feed_cursors.cursor is 'Everything up to it has been dealt with.';
comment on column descope.feed_cursors.moved_at is 'When it last moved.';
comment on column descope.feed_cursors.begun_at is 'When the consumer first confirmed something.';

comment on table descope.outgoing_endpoints is 'Whom changes are posted to (OUTGOING_URLS), and how far into the feed their deliveries have been put down.';
comment on column descope.outgoing_endpoints.endpoint_id is 'A hash of the address, which may hold a secret.';
comment on column descope.outgoing_endpoints.host is 'Of the address.';
comment on column descope.outgoing_endpoints.cursor is 'Changes up to it are in outgoing_deliveries, or were.';
comment on column descope.outgoing_endpoints.state is 'active, disabled (it answered 410), cut off (what it had still to get was pruned) or removed (no longer set).';
comment on column descope.outgoing_endpoints.reason is 'Why it is not active.';
comment on column descope.outgoing_endpoints.changed_at is 'When the state last changed.';

comment on table descope.outgoing_deliveries is 'Changes on their way to an endpoint, and afterwards the log of that.';
comment on column descope.outgoing_deliveries.delivery_id is 'In the order of the feed, for each endpoint.';
comment on column descope.outgoing_deliveries.endpoint_id is 'Whom it goes to.';
comment on column descope.outgoing_deliveries.webhook_id is 'The same at each attempt: receivers know repeats by it.';
comment on column descope.outgoing_deliveries.cursor is 'Of the change.';
comment on column descope.outgoing_deliveries.user_id is 'Of the change. Only the oldest delivery of a user that is neither delivered nor dropped is posted.';
comment on column descope.outgoing_deliveries.kind is 'Of the change: created, updated, deleted or restored.';
comment on column descope.outgoing_deliveries.changed is 'Names of the fields that changed.';
comment on column descope.outgoing_deliveries.observed_at is 'Of the change.';
comment on column descope.outgoing_deliveries.witness is 'Of the change.';
comment on column descope.outgoing_deliveries.written_at is 'When the change was written to the feed.';
comment on column descope.outgoing_deliveries.state is 'waiting, delivered, parked (given up until it is replayed) or dropped.';
comment on column descope.outgoing_deliveries.attempts is 'How often it was posted, the attempt under way included.';
comment on column descope.outgoing_deliveries.due_at is 'When it may be posted.';
comment on column descope.outgoing_deliveries.taken_until is 'Until then somebody is posting it.';
comment on column descope.outgoing_deliveries.status is 'HTTP status of the last answer; null where none came.';
comment on column descope.outgoing_deliveries.error is 'Why the last attempt failed.';
comment on column descope.outgoing_deliveries.ended_at is 'When it was delivered, parked or dropped.';

comment on table descope.erasures is 'Users whom a person had erased: the proof, all that is left of them, and what keeps them from being mirrored again.';
comment on column descope.erasures.user_id is 'The user id in Descope.';
comment on column descope.erasures.erased_at is 'When it was done.';
comment on column descope.erasures.erased_by is 'Who asked for it.';
comment on column descope.erasures.counts is 'Rows removed or changed, by table; of all times it was done.';
comment on column descope.erasures.created_time is 'When the user was created in Descope, for as long as the directory still shows them: its counts are held against ours.';
comment on column descope.erasures.seen_at is 'When the directory last showed the user; null where it does not any more.';

comment on function descope.changes_since(text, integer) is 'The changes after a cursor, oldest first; null begins at the beginning, for as long as nothing was pruned. A cursor whose next changes were pruned is refused (RC001), and one from before the database was restored (RC002). Each row carries the cursor to go on from. No change is skipped, however late its transaction was committed.';
comment on function descope.parse_cursor(text) is 'The place in the feed that a cursor names; null is before its first row.';
comment on function descope.feed_pruned_to() is 'Up to where the feed was pruned. Runs with the rights of its owner, so that readers of the feed need no other grant.';
comment on function descope.is_in_feed(xid8, bigint) is 'Whether the feed can be read on from this place.';
comment on function descope.assert_in_feed(xid8, bigint) is 'Refuses a place that the feed cannot be read on from: RC001 where what follows was pruned, RC002 where it is of another database, as after a restore.';
comment on function descope.feed_horizon() is 'The oldest transaction that may still bring rows of the feed; those below it are all there for statements after this one.';
comment on function descope.feed_head() is 'The cursor of the last change there is. Ask it in a statement of its own, then read a snapshot, then go on from it with changes_since().';
comment on function descope.read_changes(text, integer) is 'The changes after what this consumer has confirmed. Moves nothing. Runs with the rights of its owner, for whom it is granted to.';
comment on function descope.confirm_changes(text, text) is 'Notes that a consumer has dealt with everything up to a cursor; returns the one that is kept, which never moves back. Runs with the rights of its owner, for whom it is granted to.';
comment on function descope.members_of_role(text) is 'Rows of role_members of one role, by index; further conditions may follow.';
comment on function descope.user_freshness(text) is 'How fresh the mirror is about one user, a row also for an id it does not know (observed_at is null then). as_of: as of when it is known to be right. proven_to: what the watermarks prove of the user. Then what is open: events of the user that are not applied or were given up, events that name nobody, the state of an undecided deletion. Runs with the rights of its owner.';
comment on function descope.user_as_of(text) is 'As of when what the mirror holds of a user, or that it holds none, is known to be right: when the user was last looked at or, where that is later, what both pulls or the last sweep prove.';
comment on function descope.wait_for(text, timestamptz, integer) is 'Waits until the mirror holds a user as of an instant or later, 5 minutes at most. Where it does not in time, seen is false and reason says why. Holds its connection meanwhile; only in a transaction that is read committed.';
comment on function descope.why_not_seen(text, timestamptz) is 'What stands between the mirror and an instant of a user, in one line. Runs with the rights of its owner.';
comment on function descope.attribute_text(jsonb, text) is 'A custom attribute as text, numbers and flags too; null where it is a list or longer than 2,000 bytes.';
comment on function descope.attribute_boolean(jsonb, text) is 'A custom attribute as boolean: true, yes, 1, false, no or 0; else null.';
comment on function descope.attribute_integer(jsonb, text) is 'A custom attribute as integer, from a number or text; null where it is none.';
comment on function descope.attribute_bigint(jsonb, text) is 'A custom attribute as bigint, from a number or text; null where it is none.';
comment on function descope.attribute_numeric(jsonb, text) is 'A custom attribute as numeric, from a number or text; null where it is none.';
comment on function descope.attribute_timestamptz(jsonb, text) is 'A custom attribute as an instant, from epoch seconds, epoch milliseconds (above 1e11) or ISO 8601 (UTC where it names no zone); null where it is none.';
comment on function descope.attribute_text_array(jsonb, text) is 'A custom attribute as a list of texts; one value is a list of one, null where it is none.';
