import { describe, expect, it } from 'vitest';

import { UsageError } from '../../src/errors.ts';
import { startListening } from '../../src/http/listen.ts';

const listen = (host: string) => startListening(() => undefined, { port: 0, host });

describe('an address that cannot be listened on', () => {
  // 192.0.2.0/24 is for documentation: no machine has it.
  it('of this machine not (yet) is a failure, which a restart may mend', async () => {
    const failure: unknown = await listen('192.0.2.1').catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(Error);
    expect(failure).not.toBeInstanceOf(UsageError);
    expect(failure).toMatchObject({
      message:
        'cannot listen on 192.0.2.1 0: EADDRNOTAVAIL. PORT, ADMIN_PORT and ADMIN_HOST say where; port 0 takes a free one',
    });
  });

  it('that is taken is a mistake in the settings', async () => {
    const taken = await listen('127.0.0.1');
    const again = startListening(() => undefined, { port: taken.port, host: '127.0.0.1' });
    await expect(again).rejects.toThrow(UsageError);
    await taken.stop();
  });
});
