import { listCautions } from '../config.ts';
import { UsageError } from '../errors.ts';
import { createReleaseStack } from '../release.ts';
import { startService } from '../service.ts';
import { within } from '../within.ts';
import { openDatabase } from './openDatabase.ts';
import { untilAborted } from './untilAborted.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

const ROLES = ['all', 'web', 'worker'] as const;

/** Orchestrators kill after 30 s as a rule (Docker: 10 s unless told otherwise): be done well before. */
const STOP_DEADLINE_MS = 15_000;

/** `rollcall start`: the service, until a signal. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { config, log } = context;
  const role = ROLES.find((known) => known === (options['role'] ?? 'all'));
  if (role === undefined) throw new UsageError(`--role must be one of ${ROLES.join(', ')}`);
  for (const caution of listCautions(config)) log.warn(caution);
  const releases = createReleaseStack();
  try {
    const database = await openDatabase(context);
    releases.push('database', () => database.stop());
    const service = await startService({ config, log, databaseUrl: database.url, role });
    releases.push('service', () => service.stop());
    const { publicPort, adminPort } = service;
    const told = [
      `rollcall runs (${role})`,
      role === 'worker'
        ? `probes http://localhost:${publicPort}/readyz`
        : `webhook http://localhost:${publicPort}/webhooks/descope`,
      `dashboard http://${config.ADMIN_HOST}:${adminPort}/`,
    ];
    if (context.json) context.stdout(JSON.stringify({ role, publicPort, adminPort }));
    // A terminal may be narrower than the line that a log is better off with.
    else context.stdout(told.join(context.screen.columns === null ? ' · ' : '\n  '));
    await untilAborted(context.signal);
    log.info('stopping');
    return 0;
  } finally {
    await within(STOP_DEADLINE_MS, releases.release(), () => {
      throw new Error(`could not stop within ${STOP_DEADLINE_MS / 1000} s`);
    });
  }
}
