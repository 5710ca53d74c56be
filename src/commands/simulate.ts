import { findCode, UsageError } from '../errors.ts';
import { startSimulator } from '../simulator/server.ts';
import {
  parseWholeNumber,
  type CommandContext,
  type CommandOptions,
  type ExitCode,
} from './command.ts';
import { untilAborted } from './untilAborted.ts';

const DEFAULT_USERS = 1_000;
const MAX_USERS = 10_000_000;

/** `rollcall simulate`: a Descope to run against, until a signal. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const users = parseWholeNumber(options, 'users', [0, MAX_USERS]) ?? DEFAULT_USERS;
  const seed = parseWholeNumber(options, 'seed', [0, 2 ** 31 - 1]) ?? 1;
  const port = parseWholeNumber(options, 'port', [0, 65_535]) ?? 0;
  const simulator = await startSimulator({ port, users, seed }).catch((error: unknown) => {
    if (findCode(error) !== 'EADDRINUSE') throw error;
    throw new UsageError(`simulate: port ${port} is taken; without --port it takes a free one`);
  });
  try {
    const environment = {
      DESCOPE_BASE_URL: simulator.url,
      DESCOPE_PROJECT_ID: simulator.projectId,
      DESCOPE_MANAGEMENT_KEY: simulator.managementKey,
    };
    if (context.json) {
      context.stdout(JSON.stringify({ url: simulator.url, users, seed, environment }));
    } else {
      context.stdout(
        `a simulated Descope with ${users} users answers at ${simulator.url}; to use it:`,
      );
      for (const [name, value] of Object.entries(environment)) context.stdout(`${name}=${value}`);
    }
    await untilAborted(context.signal);
    return 0;
  } finally {
    await simulator.stop();
  }
}
