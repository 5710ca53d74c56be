import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Our version, as `package.json` has it; from src as well as from dist/src. */
export function readVersion(): string {
  const file = ['../package.json', '../../package.json']
    .map((path) => join(import.meta.dirname, path))
    .find(existsSync);
  const { version } = JSON.parse(readFileSync(file ?? '', 'utf8')) as { version: string };
  return version;
}
