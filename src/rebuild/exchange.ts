import { createHash } from 'node:crypto';

import { readBelongings } from './belongings.ts';
import { listDependents, type Dependent } from './dependents.ts';
import { CannotSwap, ReadersBusy } from './failures.ts';
import { lockOut } from './lockOut.ts';
import { dropGeneration, listIndexes, listMismatches, runAll, USER_TABLES } from './structure.ts';

import type { Executor, Mirror } from '../mirror/database.ts';
import type { Generation } from '../mirror/schema.ts';

/*
 * In: a transaction that keeps writers out, and tables that hold what they should. Out: their names exchanged
 * with those that are read, and everything bound to those bound to them. Readers wait for some milliseconds
 * and find the others.
 */

type Incoming = Exclude<Generation, ''>;
type Db = Pick<Mirror, 'db' | 'schema' | 't'>;

/**
 * Exchanges the tables. What was read is then called `users_previous`; with '_next' an older such one is
 * dropped.
 * @param attempt how often it has failed before, from 0
 * @throws ReadersBusy, CannotSwap
 */
export async function exchange(
  tx: Executor,
  mirror: Db,
  incoming: Incoming,
  attempt: number,
): Promise<void> {
  const { schema } = mirror;
  const first = await listDependents(tx, mirror);
  const locked = relationsOf(first);
  const locks = new Set(first.flatMap(({ lock }) => lock ?? []));
  await lockOut(tx, mirror, [...locks], attempt);
  const mismatches = await listMismatches(tx, mirror, incoming);
  if (mismatches.length > 0) throw new CannotSwap(mismatches.map((one) => `not in both: ${one}`));
  const dependents = await listDependents(tx, mirror);
  // A view made between the two looks could not be locked without a deadlock.
  if (relationsOf(dependents).some((name) => !locked.includes(name))) throw new ReadersBusy();
  const refused = dependents.filter(({ refusal }) => refusal !== null);
  if (refused.length > 0) throw new CannotSwap(refused.map(({ name }) => name));
  const belongings = await readBelongings(tx, mirror, incoming);
  const renames = await planRenames(tx, mirror, incoming);
  if (incoming === '_next') await dropGeneration(tx, { schema }, '_previous');
  await runAll(tx, [...belongings.toTake, ...belongings.toStrip, ...renames, ...belongings.toGive]);
  await runAll(
    tx,
    dependents.map(({ statement }) => statement),
  );
}

function relationsOf(dependents: readonly Dependent[]): string[] {
  return [...new Set(dependents.flatMap(({ relation }) => relation ?? []))];
}

/** Statements that exchange the names of the tables and of their indexes, and with them of their keys. */
async function planRenames(tx: Executor, mirror: Db, incoming: Incoming): Promise<string[]> {
  const { schema } = mirror;
  const left = await listIndexes(tx, mirror, incoming);
  const pairs = (await listIndexes(tx, mirror, '')).map(({ name, definition }) => {
    const at = left.findIndex((index) => index.definition === definition);
    const [other] = left.splice(at, 1);
    if (at === -1 || !other) throw new CannotSwap([`index ${name} has no counterpart`]);
    return { name, other: other.name };
  });
  const of = (kind: 'table' | 'index', from: string, to: string) => {
    const quoted = [schema, from, to].map((name) => `"${name.replaceAll('"', '""')}"`);
    const [inSchema = '', before = '', after = ''] = quoted;
    return `alter ${kind} ${inSchema}.${before} rename to ${after}`;
  };
  return [
    ...USER_TABLES.map((name) => of('table', name, `${name}_aside`)),
    ...pairs.map(({ name }) => of('index', name, asideName(name, '_aside'))),
    ...USER_TABLES.map((name) => of('table', `${name}${incoming}`, name)),
    ...pairs.map(({ name, other }) => of('index', other, name)),
    ...USER_TABLES.map((name) => of('table', `${name}_aside`, `${name}_previous`)),
    ...pairs.map(({ name }) =>
      of('index', asideName(name, '_aside'), asideName(name, '_previous')),
    ),
  ];
}

/** Postgres cuts longer names, and two might become one. */
const LONGEST_NAME = 63;

function asideName(name: string, suffix: string): string {
  if (Buffer.byteLength(name + suffix) <= LONGEST_NAME) return name + suffix;
  return `rollcall_${createHash('sha256').update(name).digest('hex').slice(0, 32)}${suffix}`;
}
