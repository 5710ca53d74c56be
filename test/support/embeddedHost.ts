import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

import ts from 'typescript';

const root = join(import.meta.dirname, '../..');

/**
 * The embedded Postgres runs in a process of its own, and Node 20 cannot run TypeScript: compiles
 * it, so that tests do not depend on an earlier build. Returns the host's file; `embedded.js` is beside it.
 */
export function compileEmbeddedHost(): string {
  const sources = ['embedded', 'embeddedHost', 'embeddedPlace', 'embeddedServer'].map((name) => ({
    name,
    text: readFileSync(join(root, `src/mirror/${name}.ts`), 'utf8'),
  }));
  const hash = createHash('sha256').update(JSON.stringify(sources)).digest('hex').slice(0, 16);
  // Below node_modules, so that its imports resolve; named by content, so that runs share it.
  const folder = join(root, 'node_modules/.cache/rollcall', hash);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  for (const { name, text } of sources) {
    const { outputText } = ts.transpileModule(text, {
      compilerOptions: {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2023,
        verbatimModuleSyntax: true,
        rewriteRelativeImportExtensions: true,
      },
    });
    const file = join(folder, `${name}.js`);
    // Another run may be reading it at this moment.
    writeFileSync(`${file}.${process.pid}`, outputText);
    renameSync(`${file}.${process.pid}`, file);
  }
  return join(folder, 'embeddedHost.js');
}

/** Where a folder has its data: in itself, or elsewhere (`embeddedPlace.ts` says when). */
export async function embeddedBaseOf(folder: string): Promise<string> {
  const note = await readFile(join(folder, 'elsewhere.json'), 'utf8').catch(() => null);
  return note === null ? folder : (JSON.parse(note) as { dataAreIn: string }).dataAreIn;
}

/** Removes a test's folder and its data. */
export async function removeEmbeddedFolder(folder: string): Promise<void> {
  await rm(await embeddedBaseOf(folder), { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
}
