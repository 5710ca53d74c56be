import { sql } from 'drizzle-orm';

import { rows, type Mirror } from '../mirror/database.ts';
import { describeAge } from '../readers/age.ts';
import { bad, ok, warning, type Check } from './check.ts';

import type { Config } from '../config.ts';

/* Would deliveries be let in, and would nobody else's? Have they come? */

/** 32 random bytes in hex are 64 characters; below this a secret can be guessed or tried out. */
const LEAST_CHARACTERS = 16;
/** `aaaaaaaaaaaaaaaa` is long too. */
const LEAST_DIFFERENT = 8;

const MAKE_ONE =
  '`rollcall webhook create --url …` makes the connector with a strong one, or `openssl rand -hex 32` does';

type Authentication = Pick<
  Config,
  | 'WEBHOOK_HMAC_SECRETS'
  | 'WEBHOOK_BEARER_TOKENS'
  | 'WEBHOOK_BASIC'
  | 'WEBHOOK_API_KEY'
  | 'WEBHOOK_ALLOW_UNAUTHENTICATED'
>;

/** Pure; shows nothing of a secret. */
export function checkAuthentication(config: Authentication): Check[] {
  const name = 'webhook secrets';
  const secrets = listSecrets(config);
  if (secrets.length === 0) {
    const found = 'none is set: anybody who reaches the port could post events';
    const remedy = `set WEBHOOK_HMAC_SECRETS; ${MAKE_ONE}`;
    if (!config.WEBHOOK_ALLOW_UNAUTHENTICATED) {
      return [bad(name, `${found}, so \`rollcall start\` refuses to`, remedy)];
    }
    return [warning(name, `${found}, which WEBHOOK_ALLOW_UNAUTHENTICATED accepts`, remedy)];
  }
  if (config.WEBHOOK_BASIC !== null && config.WEBHOOK_BEARER_TOKENS.length > 0) {
    return [
      bad(
        name,
        'WEBHOOK_BASIC and WEBHOOK_BEARER_TOKENS want the same header: no delivery can bring both',
        'unset the one that the connector does not use',
      ),
    ];
  }
  const weak = secrets.filter(({ value }) => isWeak(value)).map(({ where }) => where);
  if (weak.length === 0) return [ok(name, secrets.map(({ where }) => where).join(', '))];
  return [
    bad(
      name,
      `${weak.join(' and ')} can be guessed: shorter than ${LEAST_CHARACTERS} characters, or hardly any different ones`,
      `replace it, here and in the connector; ${MAKE_ONE}`,
    ),
  ];
}

function listSecrets(config: Authentication): { where: string; value: string }[] {
  const listed = (name: 'WEBHOOK_HMAC_SECRETS' | 'WEBHOOK_BEARER_TOKENS') =>
    config[name].map((value, at, all) => ({
      where: all.length === 1 ? name : `${name} (number ${at + 1})`,
      value,
    }));
  const paired = (name: 'WEBHOOK_BASIC' | 'WEBHOOK_API_KEY') => {
    const pair = config[name];
    return pair === null ? [] : [{ where: name, value: pair.value }];
  };
  return [
    ...listed('WEBHOOK_HMAC_SECRETS'),
    ...listed('WEBHOOK_BEARER_TOKENS'),
    ...paired('WEBHOOK_BASIC'),
    ...paired('WEBHOOK_API_KEY'),
  ];
}

function isWeak(secret: string): boolean {
  return secret.length < LEAST_CHARACTERS || new Set(secret).size < LEAST_DIFFERENT;
}

interface Deliveries {
  /** Events of the last day, by who told of them; one may count twice. */
  readonly webhook: number;
  readonly audit: number;
  readonly archive: number;
  readonly lastSeconds: number | null;
  /** 0 to 1 of the last day; null where not known. */
  readonly lossRate: number | null;
}

/** A day's share of lost webhooks above this is not the odd one. */
const HIGH_LOSS = 0.05;

/**
 * Whether webhooks came in the last day.
 * @param trailEvents events about users in Descope's own trail of that day; null where it was not told
 */
export async function checkDeliveries(
  mirror: Mirror,
  trailEvents: number | null,
): Promise<Check[]> {
  const name = 'deliveries';
  const { webhook, audit, archive, lastSeconds, lossRate } = await readDeliveries(mirror);
  const others = `${audit} by the audit pull, ${archive} by import`;
  if (webhook > 0) {
    const last = describeAge(lastSeconds ?? 0);
    const found = `events of the last day: ${webhook} by webhook (the last ${last} ago), ${others}`;
    return [ok(name, found), checkLoss(lossRate)];
  }
  const missed = Math.max(trailEvents ?? 0, audit);
  if (missed === 0) {
    return [ok(name, `no webhook in the last day, and no event about users to bring; ${others}`)];
  }
  const events = missed === 1 ? '1 event' : `${missed} events`;
  return [
    bad(
      name,
      `no webhook in the last day, though Descope's audit trail has ${events} about users; ${others}`,
      "look at the connector in Descope's console: enabled, the right URL, no filter, the same secret; " +
        '`rollcall webhook check --wait 60` tells what is wrong with a delivery',
    ),
  ];
}

function checkLoss(lossRate: number | null): Check {
  const name = 'webhook loss';
  if (lossRate === null) return ok(name, 'not known yet: the audit trail told of no event');
  const found = `${(lossRate * 100).toFixed(1)} % of the last day's events came by no webhook`;
  if (lossRate <= HIGH_LOSS) return ok(name, found);
  return warning(
    name,
    `${found}; the audit pull brought them`,
    'look whether the connector filters by action (the plural ones, UsersDeleted and the like, count too), ' +
      'and whether /metrics counts deliveries refused with 401 or 503',
  );
}

async function readDeliveries({ db, t }: Mirror): Promise<Deliveries> {
  const [deliveries] = await rows<Deliveries>(
    db,
    sql`select count(webhook_at)::int as webhook, count(audit_at)::int as audit,
               count(archive_at)::int as archive,
               extract(epoch from clock_timestamp() - max(webhook_at))::float8 as "lastSeconds",
               (select loss_rate_day from ${t.syncStatus}) as "lossRate"
        from ${t.events} where received_at > statement_timestamp() - interval '1 day'`,
  );
  if (!deliveries) throw new Error('deliveries were not counted');
  return deliveries;
}
