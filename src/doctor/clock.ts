import { describeAge } from '../readers/age.ts';
import { ok, warning, type Check } from './check.ts';

/** `Date` tells whole seconds, and answers take a while. */
const TOLERANCE_MS = 5_000;

export interface Clocks {
  /** This machine's clock minus Descope's, in ms. */
  readonly machineMs: number;
  /** Postgres' clock minus Descope's, in ms; null without a Postgres. */
  readonly postgresMs: number | null;
}

/** Compares the clocks with Descope's, which the audit trail and all times of users are told by. Pure. */
export function checkClock({ machineMs, postgresMs }: Clocks): Check {
  const name = 'clock';
  const clocks = [
    ...(postgresMs === null ? [] : [{ whose: "Postgres'", ms: postgresMs }]),
    { whose: "this machine's", ms: machineMs },
  ];
  const wrong = clocks.filter(({ ms }) => Math.abs(ms) > TOLERANCE_MS);
  if (wrong.length === 0) {
    return ok(name, `${clocks.map(({ whose }) => whose).join(' and ')} within 5 s of Descope's`);
  }
  return warning(
    name,
    wrong.map(({ whose, ms }) => `${whose} clock is ${describe(ms)} Descope's`).join(', '),
    'set them by NTP (chrony, systemd-timesyncd): the mirror allows for it, but lag, delay and "as of" are told by them',
  );
}

function describe(ms: number): string {
  return `${describeAge(Math.abs(ms) / 1_000)} ${ms > 0 ? 'ahead of' : 'behind'}`;
}
