import { Agent, request } from 'node:http';
import { Agent as SecureAgent, request as secureRequest } from 'node:https';

/** A receiver that takes longer has failed. */
const DEADLINE_MS = 10_000;

/** Posts bodies over connections it keeps. */
export interface Poster {
  /** The answer's status; 0 where there was none. Never rejects. */
  post(url: string, body: string, headers: Readonly<Record<string, string>>): Promise<number>;
  /** Cuts every connection; what is on its way ends with 0. */
  stop(): void;
}

export function createPoster(): Poster {
  const plain = new Agent({ keepAlive: true });
  const secure = new SecureAgent({ keepAlive: true });
  return {
    post(url, body, headers) {
      return new Promise((resolve) => {
        const isSecure = url.startsWith('https:');
        const options = {
          method: 'POST',
          headers: { ...headers, 'content-length': Buffer.byteLength(body) },
          timeout: DEADLINE_MS,
          agent: isSecure ? secure : plain,
        };
        const outgoing = (isSecure ? secureRequest : request)(url, options, (response) => {
          // Read to the end, so that the connection can be used again.
          response.resume();
          response.on('close', () => {
            resolve(response.complete ? (response.statusCode ?? 0) : 0);
          });
        });
        outgoing.on('timeout', () => outgoing.destroy());
        outgoing.on('error', () => {
          resolve(0);
        });
        outgoing.end(body);
      });
    },
    stop() {
      plain.destroy();
      secure.destroy();
    },
  };
}
