import { onTestFinished } from 'vitest';

import { createWorld, type World, type WorldOptions } from '../support/world.ts';

/** A world and how a page of its admin port asks it. */
export interface AdminScene {
  readonly world: World;
  readonly url: string;
  readonly get: (path: string) => Promise<Answer>;
  /** As our own pages post: with their header, from their origin. */
  readonly post: (
    path: string,
    body: unknown,
    headers?: Readonly<Record<string, string>>,
  ) => Promise<Answer>;
}

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** A world that ends with its test; nobody works in it unless `role` says so. */
export async function beginAdmin(options: WorldOptions = {}): Promise<AdminScene> {
  const world = await createWorld({ role: 'web', simulator: { users: 5 }, ...options });
  onTestFinished(() => world.stop());
  const url = `http://127.0.0.1:${world.service.adminPort}`;
  return {
    world,
    url,
    get: async (path) => toAnswer(await fetch(url + path)),
    post: async (path, body, headers = { 'x-rollcall': '1', origin: url }) =>
      toAnswer(
        await fetch(url + path, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...headers },
          body: JSON.stringify(body),
        }),
      ),
  };
}

async function toAnswer(response: Response): Promise<Answer> {
  return { status: response.status, body: (await response.json()) as Answer['body'] };
}
