import { UsageError } from '../errors.ts';
import { whileLogged } from '../mirror/adminLog.ts';
import { dropParked, replayParked, resumeEndpoints } from '../outgoing/decide.ts';
import { describeAge } from '../readers/age.ts';
import { listEndpoints, listTroubled, type TroubledDelivery } from '../readers/outgoing.ts';
import { withMirror } from './foreground.ts';
import { countOf, layOut, tell } from './table.ts';

import type { Mirror } from '../mirror/database.ts';
import type { EndpointView } from '../readers/statusView.ts';
import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** So many deliveries are listed; the table `outgoing_deliveries` holds them all. */
const LISTED = 100;

/** `rollcall deliveries list|replay|drop|resume [ids…]`: what is posted to OUTGOING_URLS. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const { action } = options;
  const ids = Array.isArray(options['ids']) ? [...(options['ids'] as readonly string[])] : [];
  if (action === 'list') return list(context);
  if (action === 'resume') return decide(context, 'resume', ids, resume);
  if (action !== 'replay' && action !== 'drop') {
    throw new UsageError('deliveries: say one of list, replay, drop, resume');
  }
  const strange = ids.filter((id) => !/^\d{1,18}$/.test(id));
  if (strange.length > 0) {
    throw new UsageError('deliveries: ids are numbers (`rollcall deliveries list` shows them)');
  }
  return decide(context, action, ids, action === 'replay' ? replay : drop);
}

async function list(context: CommandContext): Promise<ExitCode> {
  return withMirror<ExitCode>(context, async (mirror) => {
    const endpoints = await listEndpoints(mirror);
    const troubled = await listTroubled(mirror, LISTED);
    if (context.json) context.stdout(JSON.stringify({ endpoints, troubled }));
    else if (endpoints.length === 0)
      context.stdout('no changes are posted: OUTGOING_URLS is not set');
    else {
      print(context, ENDPOINT_HEADINGS, endpoints.map(toEndpointRow));
      if (troubled.length > 0) print(context, HEADINGS, troubled.map(toRow));
      for (const line of listRemedies(endpoints)) context.stderr(line);
    }
    return listRemedies(endpoints).length === 0 ? 0 : 3;
  });
}

function print(
  context: CommandContext,
  headings: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const { screen } = context;
  for (const line of layOut([headings.map(screen.paint.bold), ...rows], screen)) {
    context.stdout(line);
  }
}

const ENDPOINT_HEADINGS = ['endpoint', 'host', 'state', 'waiting', 'parked', 'oldest', 'reason'];

function toEndpointRow(endpoint: EndpointView): string[] {
  const { endpointId, host, state, waiting, parked, oldestSeconds, reason } = endpoint;
  const oldest = oldestSeconds === null ? '–' : describeAge(oldestSeconds);
  return [endpointId, host, state, String(waiting), String(parked), oldest, reason ?? '–'];
}

const HEADINGS = ['delivery', 'endpoint', 'user', 'kind', 'state', 'attempts', 'next', 'why'];

function toRow(delivery: TroubledDelivery): string[] {
  const { deliveryId, endpointId, userId, kind, state, attempts, dueAt, error } = delivery;
  const next = dueAt === null ? '–' : `${dueAt.slice(0, 19)}Z`;
  return [
    String(deliveryId),
    endpointId,
    userId,
    kind,
    state,
    String(attempts),
    next,
    error ?? '–',
  ];
}

/** What waits for a person, and what they can do. */
function listRemedies(endpoints: readonly EndpointView[]): string[] {
  const parked = endpoints.reduce((sum, endpoint) => sum + endpoint.parked, 0);
  const stopped = endpoints.filter(({ state }) => state !== 'active').length;
  return [
    ...(parked === 0
      ? []
      : [
          `${parked === 1 ? '1 delivery is' : `${parked} deliveries are`} parked: ` +
            '`rollcall deliveries replay` tries again, `drop` gives up for good. Later ones of the user wait ' +
            'behind it, until it is pruned after FEED_RETENTION_DAYS',
        ]),
    ...(stopped === 0
      ? []
      : [
          `${countOf(stopped, 'endpoint')} stopped: \`rollcall deliveries resume\` goes on; one that was ` +
            'cut off begins with what happens from then on, so its receiver needs a snapshot',
        ]),
  ];
}

type Decide = (mirror: Mirror, ids: readonly string[]) => Promise<Decided>;

interface Decided {
  /** For `--json` and the admin log. */
  readonly counts: Readonly<Record<string, number>>;
  readonly line: string;
}

async function decide(
  context: CommandContext,
  action: string,
  ids: readonly string[],
  work: Decide,
): Promise<ExitCode> {
  return withMirror<ExitCode>(context, async (mirror) => {
    const detail = ids.length === 0 ? { all: true } : { ids };
    const { counts, line } = await whileLogged(
      mirror,
      { actor: 'command', action: `deliveries ${action}`, detail },
      () => work(mirror, ids),
      (decided) => decided.counts,
    );
    if (context.json) context.stdout(JSON.stringify(counts));
    else tell(context, line);
    // Named, and nothing was done of it: there are none such, or they are not in that state.
    const isNothing = Object.values(counts).every((count) => count === 0);
    return ids.length > 0 && isNothing ? 3 : 0;
  });
}

async function replay(mirror: Mirror, ids: readonly string[]): Promise<Decided> {
  const replayed = await replayParked(mirror, ids);
  return { counts: { replayed }, line: `${replayed} put back: the service posts them in order` };
}

async function drop(mirror: Mirror, ids: readonly string[]): Promise<Decided> {
  const dropped = await dropParked(mirror, ids);
  return { counts: { dropped }, line: `${dropped} dropped; what waited behind them goes on` };
}

async function resume(mirror: Mirror, ids: readonly string[]): Promise<Decided> {
  const resumed = (await resumeEndpoints(mirror, ids)).length;
  return { counts: { resumed }, line: `${countOf(resumed, 'endpoint')} resumed` };
}
