import { UsageError } from '../errors.ts';
import { checkWebhook } from './webhookCheck.ts';
import { createWebhook } from './webhookCreate.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** `rollcall webhook create|check`. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  if (options['action'] === 'create') return createWebhook(context, options);
  if (options['action'] === 'check') return checkWebhook(context, options);
  throw new UsageError('webhook: say one of create, check');
}
