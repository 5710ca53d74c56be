import { sql } from 'drizzle-orm';
import { afterEach, describe, expect, it } from 'vitest';

import { eventually } from './support/eventually.ts';
import { startProcess } from './support/process.ts';
import {
  bodyOf,
  createScene,
  createWorld,
  signed,
  type Scene,
  type World,
} from './support/world.ts';

let scene: Scene | undefined;
afterEach(async () => {
  await scene?.stop();
  scene = undefined;
});

async function begin(options: Parameters<typeof createWorld>[0]): Promise<World> {
  const world = await createWorld({ simulator: { users: 5 }, ...options });
  scene = world;
  return world;
}

describe('a worker', () => {
  it('answers probes and shows its meters, and takes no webhooks', async () => {
    const world = await begin({ role: 'worker' });
    await world.untilFilled();
    const url = `http://127.0.0.1:${world.service.publicPort}`;
    expect((await fetch(`${url}/livez`)).status).toBe(200);
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    const delivered = await world.post(bodyOf('UserModified', { userId: 'U1' }));
    expect(delivered.status).toBe(404);

    const admin = `http://127.0.0.1:${world.service.adminPort}`;
    // What was counted a moment ago is told again.
    await eventually(async () => {
      const metrics = await (await fetch(`${admin}/metrics`)).text();
      expect(metrics).toMatch(
        /^rollcall_jobs_total\{job_name="sweepWindow",outcome="done"\} [1-9]/m,
      );
      expect(metrics).toMatch(/^rollcall_users\{kind="live"\} [1-9]/m);
    });
    expect((await fetch(`${admin}/api/status`)).status).toBe(200);
  });

  it('writes the history from its start on', async () => {
    const world = await begin({ role: 'worker' });
    await eventually(async () => {
      const answer = await fetch(`http://127.0.0.1:${world.service.adminPort}/api/history`);
      const history = await answer.json();
      expect(history).toMatchObject({ step: 'minute', points: [{ gaps: 0, requests: 0 }] });
    });
  });

  it('needs no webhook authentication, but a token where its admin port is open to others (G9)', async () => {
    const s = await createScene({ simulator: { users: 1 } });
    scene = s;
    const env = { ...s.env, WEBHOOK_HMAC_SECRETS: '' };
    const refused = startProcess(['start', '--role', 'worker'], {
      env: { ...env, ADMIN_HOST: '0.0.0.0' },
    });
    expect(await refused.exit).toBe(2);
    expect(refused.stderr()).toMatch(/^error: one setting is wrong: ADMIN_TOKEN is required/);

    const worker = startProcess(['start', '--role', 'worker'], { env });
    const [, url = ''] = await worker.waitForLine(/^rollcall runs \(worker\) · probes (\S+)/);
    expect(await (await fetch(url)).json()).toEqual({ ready: true });
    worker.kill('SIGTERM');
    expect(await worker.exit).toBe(0);
  });
});

describe('a web process that stops', () => {
  it('tells the queue of what it has just answered', async () => {
    const world = await begin({ role: 'web', redisUrl: null });
    const deliver = (number: number) => {
      const body = bodyOf('UserModified', { userId: `U${number}`, occurred: 1_780_949_905_871 });
      // A connection that is kept would let the server take its time.
      return world.post(body, { ...signed(body), connection: 'close' });
    };
    const answers = await Promise.all(Array.from({ length: 10 }, (_, at) => deliver(at)));
    await world.service.stop();

    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
    expect(
      await world.query(
        sql`select sum(jsonb_array_length(data::jsonb -> 'eventIds'))::int as events
            from descope_queue.job where name = 'applyEvents'`,
      ),
    ).toEqual([{ events: 10 }]);
  });
});

describe('without Redis (G7)', () => {
  const readiness = async ({ service }: World) => {
    const answer = await fetch(`http://127.0.0.1:${service.publicPort}/readyz`);
    return [answer.status, await answer.json()];
  };
  const failing = [{ dependency: 'redis' }];
  const redisUrl = 'redis://127.0.0.1:1';

  it('a web process takes deliveries, and so is ready; it names Redis', async () => {
    const world = await begin({ role: 'web', redisUrl });
    expect((await world.post(bodyOf('UserModified', { userId: 'U1' }))).status).toBe(202);
    expect(await readiness(world)).toMatchObject([200, { ready: true, failing }]);
  });

  it('a process that works is not ready', async () => {
    const world = await begin({ role: 'all', redisUrl });
    expect(await readiness(world)).toMatchObject([503, { ready: false, failing }]);
  });
});

describe('/metrics', () => {
  it("shows the process's own meters while Postgres is away, and no gauge of what it cannot know", async () => {
    const world = await begin({ proxied: true, role: 'web' });
    const metrics = async () => {
      const response = await fetch(`http://127.0.0.1:${world.service.adminPort}/metrics`);
      return { status: response.status, text: await response.text() };
    };
    await world.post(bodyOf('UserModified', { userId: 'U1' }));
    expect((await metrics()).text).toMatch(/^rollcall_events_pending 1$/m);
    world.proxy.cut();
    const { status, text } = await metrics();
    expect(status).toBe(200);
    expect(text).toMatch(/^rollcall_webhook_deliveries_total\{status="202"\} 1$/m);
    expect(text).toMatch(/^rollcall_dependency_up\{dependency="postgres"\} 0$/m);
    expect(text).not.toMatch(
      /^rollcall_(events_pending|gaps|users\{|lag|state|budget_(granted|throttled|silence))/m,
    );
    world.proxy.restore();
    expect((await metrics()).text).toMatch(/^rollcall_events_pending 1$/m);
  });

  it('does not keep a scraper waiting that gives up after ten seconds, while Postgres is silent', async () => {
    const world = await begin({ proxied: true, role: 'web' });
    const url = `http://127.0.0.1:${world.service.adminPort}/metrics`;
    await (await fetch(url)).text();
    world.proxy.silence();
    const text = await (await fetch(url, { signal: AbortSignal.timeout(8_000) })).text();
    expect(text).toMatch(/^rollcall_dependency_up\{dependency="postgres"\} 0$/m);
    expect(text).not.toMatch(/^rollcall_state/m);
    world.proxy.restore();
  });

  it('shows how long requests waited for the budget', async () => {
    const world = await begin({ role: 'all', simulator: { users: 5 } });
    await world.untilEqual();
    const text = await (await fetch(`http://127.0.0.1:${world.service.adminPort}/metrics`)).text();
    expect(text).toMatch(
      /^rollcall_budget_wait_seconds_count\{budget="api",priority="sweep"\} [1-9]/m,
    );
  });
});
