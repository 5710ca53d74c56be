import { examine } from '../doctor/examine.ts';
import { hasEmbeddedPostgres } from '../mirror/embedded.ts';
import { createReleaseStack } from '../release.ts';
import { explainFailure } from './explainFailure.ts';
import { openDatabase } from './openDatabase.ts';
import { countOf, layOut } from './table.ts';

import type { Check, Verdict } from '../doctor/check.ts';
import type { CommandContext, ExitCode } from './command.ts';
import type { Screen } from './screen.ts';

/** As wide as the longest name of a check: findings are printed as they come. */
const NAME_WIDTH = 17;

/** `rollcall doctor`: what is wrong with the set-up, and how to mend it; exit 3 where something is bad. */
export async function run(context: CommandContext): Promise<ExitCode> {
  const { config, signal } = context;
  const addresses = { ...(config.DATABASE_URL ? { DATABASE_URL: config.DATABASE_URL } : {}) };
  const releases = createReleaseStack();
  const checks: Check[] = [];
  let requests = 0;
  try {
    const database = await findDatabase(context, (stop) => {
      releases.push('database', stop);
    });
    const examination = examine({
      ...{ config, database, signal },
      remedyFor: (error) =>
        explainFailure(error, addresses).remedy ?? 'check DATABASE_URL, and the log of Postgres',
      onRequest: () => requests++,
      onWait: () => {
        context.stderr('waiting for the budget: others are asking, or Descope wanted silence');
      },
    });
    for await (const check of examination) {
      checks.push(check);
      if (!context.json) for (const line of toLines(check, context.screen)) context.stdout(line);
    }
  } finally {
    await releases.release();
  }
  if (context.json) context.stdout(JSON.stringify({ checks, requests }));
  else context.stderr(summarise(checks, requests));
  return checks.some(({ verdict }) => verdict === 'bad') ? 3 : 0;
}

/** Of DATABASE_URL, or the embedded one where there is one already: to look must not make one. */
async function findDatabase(
  context: CommandContext,
  onStop: (stop: () => Promise<void>) => void,
): Promise<{ url: string; isEmbedded: boolean } | null> {
  const isEmbedded = context.config.DATABASE_URL === undefined;
  if (isEmbedded && !(await hasEmbeddedPostgres(context.folder))) return null;
  const database = await openDatabase(context);
  onStop(() => database.stop());
  return { url: database.url, isEmbedded };
}

const MARKS: Readonly<
  Record<Verdict, readonly [mark: string, colour: 'green' | 'yellow' | 'red']>
> = { ok: ['✓', 'green'], warning: ['!', 'yellow'], bad: ['✗', 'red'] };

/** On a terminal the finding, and the remedy below it; in a pipe a line a check, with tabs between. Pure. */
export function toLines({ name, verdict, found, remedy }: Check, screen: Screen): string[] {
  const { columns, paint } = screen;
  const [mark, colour] = MARKS[verdict];
  if (columns === null) {
    return [[paint[colour](verdict), name, found, ...(remedy === null ? [] : [remedy])].join('\t')];
  }
  const label = name.padEnd(NAME_WIDTH);
  return layOut(
    [
      [paint[colour](mark), verdict === 'ok' ? label : paint.bold(label), found],
      ...(remedy === null ? [] : [['', '', paint.cyan(`→ ${remedy}`)]]),
    ],
    screen,
  );
}

function summarise(checks: readonly Check[], requests: number): string {
  const count = (verdict: Verdict) => checks.filter((check) => check.verdict === verdict).length;
  return (
    `${count('ok')} ok, ${countOf(count('warning'), 'warning')}, ${count('bad')} bad; ` +
    `${countOf(requests, 'request')} to Descope`
  );
}
