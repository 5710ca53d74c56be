import { randomBytes } from 'node:crypto';

import { createBudget } from '../descope/budget.ts';
import { createAuditWebhook, type AuditWebhook } from '../descope/connector.ts';
import { createLocalBudget } from '../descope/localBudget.ts';
import { createAsk } from '../descope/sdk.ts';
import {
  DescopeRejected,
  DescopeThrottled,
  DescopeUnauthorised,
  DescopeUnavailable,
  Stopping,
  UsageError,
} from '../errors.ts';
import { WEBHOOK_PATH } from '../webhook/router.ts';
import { withExistingMirror } from './existingMirror.ts';
import { tell } from './table.ts';

import type { Mirror } from '../mirror/database.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

const SECRET_BYTES = 32;
const DEFAULT_NAME = 'Rollcall';

/**
 * `rollcall webhook create --url U [--name N]`: the audit webhook connector with a secret of its own, which
 * is printed once, to stdout only. Where Descope does not make it: how to by hand, exit 3.
 */
export async function createWebhook(
  context: CommandContext,
  options: CommandOptions,
): Promise<ExitCode> {
  const { config } = context;
  const webhook: AuditWebhook = {
    name: typeof options['name'] === 'string' ? options['name'] : DEFAULT_NAME,
    url: parseUrl(context, options['url']),
    hmacSecret: randomBytes(SECRET_BYTES).toString('hex'),
    // What is set must all match, so the connector has to bring it.
    bearerToken: config.WEBHOOK_BEARER_TOKENS[0] ?? null,
    basic: config.WEBHOOK_BASIC,
    apiKey: config.WEBHOOK_API_KEY,
  };
  const made = await withExistingMirror(context, (mirror) => make(context, webhook, mirror));
  const { name, url, hmacSecret } = webhook;
  if (context.json) context.stdout(JSON.stringify({ ...made, name, url, hmacSecret }));
  else for (const line of toLines(webhook, made)) tell(context, line);
  const others = config.WEBHOOK_HMAC_SECRETS.length;
  if (others > 0 && !context.json) {
    context.stderr(
      `put it beside the ${others} you have, with a comma between; all are valid at once`,
    );
  }
  return made.created ? 0 : 3;
}

/** @throws UsageError unless it is where Descope could reach us */
function parseUrl(context: CommandContext, given: CommandOptions[string]): string {
  const text = typeof given === 'string' ? given : '';
  const protocol = URL.canParse(text) ? new URL(text).protocol : '';
  if (protocol !== 'https:' && protocol !== 'http:') {
    throw new UsageError(
      `webhook create: --url must be where Descope reaches us, such as https://rollcall.example.com${WEBHOOK_PATH}`,
    );
  }
  const url = new URL(text);
  if (url.username !== '' || url.password !== '') {
    throw new UsageError('webhook create: no user or password in --url: set WEBHOOK_BASIC instead');
  }
  if (url.pathname === '/') url.pathname = WEBHOOK_PATH;
  else if (url.pathname !== WEBHOOK_PATH) {
    context.stderr(`note: rollcall itself takes deliveries at ${WEBHOOK_PATH}`);
  }
  if (protocol === 'http:')
    context.stderr('note: without https anybody on the way can read the events');
  return url.toString();
}

type Made =
  | { readonly created: true; readonly id: string | null }
  | { readonly created: false; readonly reason: string; readonly isUncertain: boolean };

/** Asks Descope, once. */
async function make(
  context: CommandContext,
  webhook: AuditWebhook,
  mirror: Mirror | null,
): Promise<Made> {
  const { config, signal } = context;
  const perMinute = config.API_BUDGET_PER_MINUTE;
  const budget = mirror ? createBudget({ mirror, name: 'api', perMinute }) : createLocalBudget();
  const { ask } = createAsk({
    projectId: config.DESCOPE_PROJECT_ID,
    managementKey: config.DESCOPE_MANAGEMENT_KEY,
    baseUrl: config.DESCOPE_BASE_URL,
    budget,
    auditBudget: budget,
  });
  try {
    return {
      created: true,
      id: await createAuditWebhook(ask, webhook, { priority: 'pull', signal }),
    };
  } catch (error) {
    if (error instanceof Stopping) {
      // It may have been asked for already, with a secret that nobody was told.
      context.stderr(
        `stopped: the connector "${webhook.name}" may exist. Look for it in the Descope console, under Connectors, and delete it before you create one again`,
      );
    }
    const reason = describe(error);
    return { created: false, reason, isUncertain: error instanceof DescopeUnavailable };
  }
}

/** @throws what is not Descope's doing */
function describe(error: unknown): string {
  if (error instanceof DescopeUnauthorised) {
    return `the management key may not create connectors (HTTP ${error.status})`;
  }
  const isDescopes =
    error instanceof DescopeRejected ||
    error instanceof DescopeThrottled ||
    error instanceof DescopeUnavailable;
  if (isDescopes) return error.message;
  throw error;
}

function toLines(webhook: AuditWebhook, made: Made): string[] {
  const { name, url, hmacSecret } = webhook;
  const set = [
    'set this where rollcall runs; it is shown only now:',
    `WEBHOOK_HMAC_SECRETS=${hmacSecret}`,
  ];
  if (made.created) {
    const id = made.id === null ? '' : ` (${made.id})`;
    return [
      `created the audit webhook connector "${name}"${id}: every event goes to ${url}`,
      ...set,
    ];
  }
  const { bearerToken, basic, apiKey } = webhook;
  const authentication = [
    ...(bearerToken === null ? [] : ['Bearer Token, the first of WEBHOOK_BEARER_TOKENS']),
    ...(basic ? ['Basic Authentication, user and password of WEBHOOK_BASIC'] : []),
    ...(apiKey ? ['API Key, header and value of WEBHOOK_API_KEY'] : []),
  ];
  return [
    `could not create the connector: ${made.reason}`,
    ...(made.isUncertain
      ? ['whether it was created all the same is not known: look for it first, and delete it']
      : []),
    'create it in the Descope console:',
    '  1. open Connectors, choose Audit Webhook, and create one',
    `  2. Connector Name: ${name}`,
    `  3. Base URL: ${url}`,
    `  4. Authentication Type: ${authentication.join('; ') || 'None'}`,
    '  5. HMAC Secret: the one below',
    '  6. leave the filter empty, so that every event is sent, those about several users too',
    ...set,
  ];
}
