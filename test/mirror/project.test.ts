import { sql } from 'drizzle-orm';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';

import * as backfill from '../../src/commands/backfill.ts';
import * as importCommand from '../../src/commands/import.ts';
import { parseConfig } from '../../src/config.ts';
import { createLogger } from '../../src/log.ts';
import { claimProject } from '../../src/mirror/project.ts';
import { startService, type Role } from '../../src/service.ts';
import { createReleaseStack } from '../../src/release.ts';
import { runCommand } from '../commands/context.ts';
import { startProcess } from '../support/process.ts';
import { createScene, type Scene } from '../support/world.ts';

let releases = createReleaseStack();
afterEach(async () => {
  await releases.release();
  releases = createReleaseStack();
});

async function begin(): Promise<Scene> {
  const scene = await createScene({ simulator: { users: 20 } });
  releases.push('scene', () => scene.stop());
  return scene;
}

/** The same database under another project's id. */
function another(scene: Scene, projectId = 'Panother'): Scene {
  const env = { ...scene.env, DESCOPE_PROJECT_ID: projectId };
  return { ...scene, env, config: parseConfig(env) };
}

async function start({ config, database }: Scene, role: Role = 'all'): Promise<void> {
  const log = createLogger({ level: 'silent' });
  const service = await startService({ config, log, databaseUrl: database.url, role });
  releases.push('service', () => service.stop());
}

const projectsOf = (scene: Scene) =>
  scene.query(sql`select value from ${scene.database.mirror.t.learnt} where name = 'projectId'`);

/** One line that names both projects and the two settings that help. */
function refusal(scene: Scene): RegExp {
  const { projectId } = scene.simulator;
  return RegExp(
    `schema "descope" is that of project ${projectId}, but DESCOPE_PROJECT_ID is Panother: ` +
      '.*MIRROR_SCHEMA.*DATABASE_URL',
  );
}

describe("another project's credentials (G4)", () => {
  it.each<Role>(['all', 'web', 'worker'])('start no service of role %s', async (role) => {
    const scene = await begin();
    await runCommand(backfill, scene);
    await expect(start(another(scene), role)).rejects.toThrow(refusal(scene));
    await start(scene, role);
    await scene.assertEqual();
  });

  it.each(['backfill', 'sync', 'verify', 'replay --failed'])(
    'do not run %s: exit 2 and one line',
    async (command) => {
      const scene = await begin();
      await runCommand(backfill, scene);
      const asked = scene.simulator.requests.countOf('userSearch');
      const child = startProcess(command.split(' '), {
        env: { ...another(scene).env, LOG_LEVEL: 'warn' },
      });
      expect(await child.exit).toBe(2);
      expect(child.stderr()).toMatch(refusal(scene));
      expect(child.stderr().trim().split('\n')).toHaveLength(1);
      expect(scene.simulator.requests.countOf('userSearch')).toBe(asked);
      await scene.assertEqual();
    },
  );

  it('import no archive; without any id an archive is imported', async () => {
    const scene = await begin();
    await runCommand(backfill, scene);
    const folder = await mkdtemp(join(tmpdir(), 'rollcall-archive-'));
    releases.push('folder', () => rm(folder, { recursive: true }));
    await expect(runCommand(importCommand, another(scene), { folder })).rejects.toThrow(
      refusal(scene),
    );
    const unnamed = { ...scene, config: { ...scene.config, DESCOPE_PROJECT_ID: '' } };
    expect((await runCommand(importCommand, unnamed, { folder })).exitCode).toBe(1);
    expect(await projectsOf(scene)).toEqual([{ value: scene.simulator.projectId }]);
  });
});

describe('a mirror without a project', () => {
  it('takes the one it is first used with, also when it was filled before', async () => {
    const scene = await begin();
    await runCommand(backfill, scene);
    await scene.query(sql`delete from ${scene.database.mirror.t.learnt} where name = 'projectId'`);
    await start(scene);
    expect(await projectsOf(scene)).toEqual([{ value: scene.simulator.projectId }]);
  });

  it('agrees on one of those that start at once', async () => {
    const scene = await begin();
    const ids = Array.from({ length: 8 }, (_, at) => `P${at % 4}`);
    const started = await Promise.allSettled(
      ids.map((projectId) => claimProject(scene.database.mirror, projectId)),
    );
    const agreed = ids.filter((_, at) => started[at]?.status === 'fulfilled');
    expect(agreed).toHaveLength(2);
    expect(await projectsOf(scene)).toEqual([{ value: agreed[0] }]);
    expect(agreed[1]).toBe(agreed[0]);
  });

  it('is used by one of two services that start at once', async () => {
    const scene = await begin();
    const started = await Promise.allSettled([start(scene), start(another(scene))]);
    expect(started.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  });
});
