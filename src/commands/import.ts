import { stat } from 'node:fs/promises';

import { UsageError } from '../errors.ts';
import { importArchive, type ArchiveCounts } from '../inbox/archive.ts';
import { claimProject } from '../mirror/project.ts';
import { assertExclusion } from '../pull/exclusion.ts';
import { withMirror } from './foreground.ts';
import { countOf, tell } from './table.ts';

import type { CommandContext, CommandOptions, ExitCode } from './command.ts';

/** So many bad files are named in the JSON answer; a person is told of each. */
const NAMED = 100;

interface BadFile {
  readonly file: string;
  readonly reason: string;
}

/** `rollcall import <folder>`: archived audit objects into the inbox. */
export async function run(context: CommandContext, options: CommandOptions): Promise<ExitCode> {
  const folder = await parseFolder(options['folder']);
  const bad: BadFile[] = [];
  const { DESCOPE_PROJECT_ID: projectId, EVENT_ARCHIVE, MIRROR_EXCLUDE } = context.config;
  const counts = await withMirror(context, async (mirror) => {
    // An archive may be imported without any credentials.
    if (projectId !== '') await claimProject(mirror, projectId);
    await assertExclusion(mirror, MIRROR_EXCLUDE);
    return importArchive(
      {
        mirror,
        archiveAll: EVENT_ARCHIVE === 'all',
        exclude: MIRROR_EXCLUDE,
        projectId,
        signal: context.signal,
        onBadFile: (file, reason) => {
          if (bad.length < NAMED) bad.push({ file, reason });
          if (!context.json) context.stderr(`bad file ${file}: ${reason}`);
        },
      },
      folder,
    );
  });
  if (context.json) context.stdout(JSON.stringify({ ...counts, bad }));
  else for (const line of toLines(counts)) tell(context, line);
  if (!hasRead(counts)) return 1;
  return counts.badFiles > 0 ? 3 : 0;
}

/** @throws UsageError */
async function parseFolder(folder: unknown): Promise<string> {
  if (typeof folder !== 'string' || folder === '') throw new UsageError('import: say which folder');
  const found = await stat(folder).catch(() => null);
  if (!found?.isDirectory()) throw new UsageError(`import: ${folder} is not a folder`);
  return folder;
}

/** Whether a file was good, or some of a bad one. */
function hasRead({ files, badFiles, ...counts }: ArchiveCounts): boolean {
  const { accepted, archived, duplicates, ignored } = counts;
  return badFiles < files || accepted + archived + duplicates + ignored > 0;
}

function toLines(counts: ArchiveCounts): string[] {
  const { files, badFiles, otherFiles, accepted, archived, duplicates, ignored } = counts;
  const other = otherFiles === 0 ? '' : `; ${countOf(otherFiles, 'other file')} left alone`;
  if (files === 0) {
    return [`nothing to import: no .json, .jsonl or .ndjson files, gzipped or not${other}`];
  }
  const kept = archived === 0 ? '' : `, ${archived} kept without being acted on`;
  return [
    `${countOf(files, 'file')} read, ${badFiles} of them bad${other}`,
    `${countOf(accepted, 'event')} accepted${kept}, ${countOf(duplicates, 'duplicate')}, ` +
      `${ignored} ignored`,
    ...(accepted === 0
      ? []
      : ['they are pending: the service applies them, or `rollcall sync` does now']),
  ];
}
