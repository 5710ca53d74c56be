import { readFile } from 'node:fs/promises';

import { onAbort } from '../abort.ts';
import { Stopping, UsageError } from '../errors.ts';
import { startListening } from '../http/listen.ts';
import { describeForm } from '../inbox/form.ts';
import { parseDelivery, UnreadableDelivery } from '../inbox/parse.ts';
import {
  checkEach,
  SIGNATURE_HEADER,
  type WebhookAuthentication,
} from '../webhook/authenticate.ts';
import { createCatcher, type CapturedDelivery } from '../webhook/catchDelivery.ts';
import { explainMismatch, findSignature, type FoundSignature } from '../webhook/checkSignature.ts';
import { WEBHOOK_PATH } from '../webhook/router.ts';
import { parseWholeNumber } from './command.ts';
import { countOf, layOut } from './table.ts';

import type { Config } from '../config.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** What `--json` answers; nothing in it is secret or personal. */
interface Answer {
  /** Everything that is set fits: the delivery is from whom it should be. */
  readonly matched: boolean;
  /** The webhook would take it exactly as captured. */
  readonly accepted: boolean;
  readonly signature: FoundSignature | null;
  /** The other authentications that are set. */
  readonly others: readonly { readonly kind: string; readonly passes: boolean }[];
  readonly envelope: Envelope | null;
  /** Why it does not match, or would not be taken. */
  readonly reasons: readonly string[];
}

interface Envelope {
  readonly form: string;
  /** By action. */
  readonly events: Readonly<Record<string, number>>;
  /** Test calls and junk. */
  readonly ignored: number;
  readonly ofOtherProjects: number;
}

const LONGEST_WAIT_SECONDS = 3_600;

/** `rollcall webhook check`: what a captured delivery was signed with; exit 3 where it fits nothing of ours. */
export async function checkWebhook(
  context: CommandContext,
  options: CommandOptions,
): Promise<ExitCode> {
  const settings = toAuthentication(context.config);
  const delivery = await obtain(context, options);
  if (delivery === null) {
    const reason = 'no delivery came: does the connector post here, and does its address reach us?';
    context.stdout(context.json ? JSON.stringify({ matched: false, reasons: [reason] }) : reason);
    return 3;
  }
  const answer = judge(delivery, settings, context.config.DESCOPE_PROJECT_ID);
  if (context.json) context.stdout(JSON.stringify(answer));
  else for (const line of layOut(toRows(answer), context.screen)) context.stdout(line);
  return answer.matched ? 0 : 3;
}

/** @throws UsageError where nothing is set that a delivery could be compared with */
function toAuthentication(config: Config): WebhookAuthentication {
  const settings: WebhookAuthentication = {
    hmacSecrets: config.WEBHOOK_HMAC_SECRETS,
    bearerTokens: config.WEBHOOK_BEARER_TOKENS,
    basic: config.WEBHOOK_BASIC,
    apiKey: config.WEBHOOK_API_KEY,
    allowUnauthenticated: false,
  };
  const { hmacSecrets, bearerTokens, basic, apiKey } = settings;
  if (hmacSecrets.length + bearerTokens.length > 0 || basic || apiKey) return settings;
  throw new UsageError(
    'webhook check: nothing to compare with; set WEBHOOK_HMAC_SECRETS (or another WEBHOOK_… authentication)',
  );
}

/** The delivery of the options, or the next one that comes; null where none came in time. */
async function obtain(
  context: CommandContext,
  options: CommandOptions,
): Promise<CapturedDelivery | null> {
  const { body: file, signature } = options;
  const seconds = parseWholeNumber(options, 'wait', [1, LONGEST_WAIT_SECONDS]);
  if ((file === undefined) === (seconds === undefined)) {
    throw new UsageError('webhook check: say either --body <file> or --wait <seconds>');
  }
  if (seconds !== undefined) return waitForOne(context, seconds);
  const headers = parseHeaders(options['header']);
  if (typeof signature === 'string') headers[SIGNATURE_HEADER] = signature;
  return { headers, body: await readBody(String(file)) };
}

/** @throws UsageError */
async function readBody(file: string): Promise<Buffer> {
  try {
    // 0 is what is piped in.
    return await (file === '-' ? readFile('/dev/stdin') : readFile(file));
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    throw new UsageError(`webhook check: ${file} cannot be read (${code})`);
  }
}

/** @throws UsageError where one has no name and value */
function parseHeaders(given: CommandOptions[string]): Record<string, string> {
  const lines: readonly string[] = Array.isArray(given) ? (given as readonly string[]) : [];
  return Object.fromEntries(
    lines.map((line) => {
      const [, name = '', value = ''] = /^\s*([^:\s]+)\s*:\s*(.*?)\s*$/s.exec(line) ?? [];
      if (name !== '') return [name.toLowerCase(), value];
      // What stands there may be a secret: it is not repeated.
      throw new UsageError("webhook check: a --header must read 'Name: value'");
    }),
  );
}

async function waitForOne(
  context: CommandContext,
  seconds: number,
): Promise<CapturedDelivery | null> {
  const { config, signal } = context;
  let caught: (delivery: CapturedDelivery | null) => void = () => undefined;
  const coming = new Promise<CapturedDelivery | null>((resolve) => {
    caught = resolve;
  });
  const server = await startListening(createCatcher(caught), { port: config.PORT });
  const timer = setTimeout(() => {
    caught(null);
  }, seconds * 1_000);
  const ignore = onAbort(signal, () => {
    caught(null);
  });
  context.stderr(
    `waiting ${seconds} s for a delivery to http://localhost:${server.port}${WEBHOOK_PATH}; ` +
      'it is answered 503, and the audit pull will bring its events',
  );
  try {
    const delivery = await coming;
    if (signal.aborted) throw new Stopping();
    return delivery;
  } finally {
    clearTimeout(timer);
    ignore();
    await server.stop();
  }
}

/** Pure. */
export function judge(
  { headers, body }: CapturedDelivery,
  settings: WebhookAuthentication,
  projectId: string,
): Answer {
  const { hmacSecrets } = settings;
  const given = headers[SIGNATURE_HEADER];
  const text = typeof given === 'string' ? given : '';
  const signature = findSignature(body, text, hmacSecrets);
  const others = checkEach(headers, body, settings).filter(({ kind }) => kind !== 'hmac');
  const { envelope, reason } = describeEnvelope(body, projectId);
  const isSigned = hmacSecrets.length === 0 || signature !== null;
  const isChanged = signature?.isAccepted === false;
  const failing = others.filter(({ passes }) => !passes);
  const matched = isSigned && failing.length === 0;
  return {
    matched,
    accepted: matched && !isChanged && envelope !== null,
    ...{ signature, others, envelope },
    reasons: [
      ...(isSigned ? [] : explainMismatch(body, text, hmacSecrets)),
      ...(isChanged ? [CHANGED] : []),
      ...failing.map(({ kind }) => NOT_PASSED[kind] ?? kind),
      ...(reason === null ? [] : [reason]),
    ],
  };
}

const CHANGED =
  'the captured body is not byte for byte what was signed: the webhook takes it as Descope sent it, not as captured';

const NOT_PASSED: Readonly<Record<string, string>> = {
  bearer: 'the header Authorization brings none of WEBHOOK_BEARER_TOKENS',
  basic: 'the header Authorization does not bring user and password of WEBHOOK_BASIC',
  apiKey: 'the header that WEBHOOK_API_KEY names does not bring its value',
};

function describeEnvelope(
  body: Buffer,
  projectId: string,
): { envelope: Envelope | null; reason: string | null } {
  try {
    const form = describeForm(body);
    const { events, ignored } = parseDelivery(body, Date.now());
    const ours = parseDelivery(body, Date.now(), projectId);
    const ofOtherProjects = events.length - ours.events.length;
    const counts: Record<string, number> = {};
    for (const { action } of events) counts[action] = (counts[action] ?? 0) + 1;
    const reason =
      ofOtherProjects === 0
        ? null
        : `${countOf(ofOtherProjects, 'event')} of another project than ${projectId}: ignored`;
    return { envelope: { form, events: counts, ignored, ofOtherProjects }, reason };
  } catch (error) {
    if (error instanceof UnreadableDelivery) return { envelope: null, reason: error.message };
    throw error;
  }
}

function toRows({ matched, accepted, signature, others, envelope, reasons }: Answer): string[][] {
  return [
    ['matches', !matched ? 'no' : accepted ? 'yes' : 'yes, but the webhook would not take it'],
    ...(signature === null
      ? []
      : [
          ['secret', `number ${signature.secret} of WEBHOOK_HMAC_SECRETS`],
          ['signed', signature.bytes],
          ['spelt in', `${signature.encoding}${signature.prefix && ` after ${signature.prefix}`}`],
        ]),
    ...others.map(({ kind, passes }) => [kind, passes ? 'fits' : 'does not fit']),
    ...(envelope === null
      ? []
      : [
          ['form', envelope.form],
          ['events', describeEvents(envelope)],
        ]),
    ...reasons.map((reason, at) => [at === 0 ? 'because' : '', reason]),
  ];
}

function describeEvents({ events, ignored }: Envelope): string {
  const told = Object.entries(events).map(([action, count]) => `${count} × ${action}`);
  return [
    ...(told.length > 0 ? told : ['none']),
    ...(ignored > 0 ? [`${ignored} ignored`] : []),
  ].join(', ');
}
