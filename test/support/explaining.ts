import { sql, type SQL } from 'drizzle-orm';

import { rows, type Mirror } from '../../src/mirror/database.ts';

/** A node of a plan, as far as it tells how a table is read. */
interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Index Name'?: string;
  readonly Plans?: readonly PlanNode[];
}

export interface Explaining {
  /** Explains each statement, then runs it. */
  readonly mirror: Pick<Mirror, 'db' | 't'>;
  /** How many statements there were. */
  count(): number;
  /** The tables that were read from one end to the other. */
  readWhole(): string[];
  /** The indexes that were used. */
  indexes(): string[];
}

/** A mirror that tells how Postgres reads what is asked of it. */
export function explaining(mirror: Mirror): Explaining {
  const plans: PlanNode[][] = [];
  const execute = async (query: SQL) => {
    const [explained] = await rows<{ 'QUERY PLAN': readonly [{ readonly Plan: PlanNode }] }>(
      mirror.db,
      sql`explain (format json) ${query}`,
    );
    if (!explained) throw new Error('nothing was explained');
    plans.push(nodesOf(explained['QUERY PLAN'][0].Plan));
    return mirror.db.execute(query);
  };
  return {
    mirror: { t: mirror.t, db: { execute } as unknown as Mirror['db'] },
    count: () => plans.length,
    readWhole: () =>
      plans
        .flat()
        .filter((node) => node['Node Type'] === 'Seq Scan')
        .flatMap((node) => node['Relation Name'] ?? []),
    indexes: () => plans.flat().flatMap((node) => node['Index Name'] ?? []),
  };
}

function nodesOf(plan: PlanNode): PlanNode[] {
  return [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];
}
