import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';

import { listenLocally } from './listenLocally.ts';

/** A span as OTLP's JSON has it, as far as tests look. */
export interface CollectedSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  /** Empty or absent: the first of its trace. */
  readonly parentSpanId?: string;
  readonly kind: number;
  readonly attributes: readonly { readonly key: string; readonly value: object }[];
  readonly links?: readonly { readonly traceId: string; readonly spanId: string }[];
  /** `code` 2 is a failure. */
  readonly status: { readonly code?: number; readonly message?: string };
}

/** What takes traces over OTLP/HTTP. */
export interface Collector {
  /** For `OTEL_EXPORTER_OTLP_ENDPOINT`. */
  readonly url: string;
  readonly spans: () => CollectedSpan[];
  /** Every body as it came. */
  readonly text: () => string;
  readonly stop: () => Promise<void>;
}

interface Body {
  readonly resourceSpans: readonly {
    readonly scopeSpans: readonly { readonly spans: readonly CollectedSpan[] }[];
  }[];
}

/** Starts one that takes whatever comes to `/v1/traces`. */
export async function startCollector(): Promise<Collector> {
  const bodies: string[] = [];
  const server = createServer((request, response) => {
    void (async () => {
      const body = await text(request);
      if (request.url === '/v1/traces') bodies.push(body);
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    })().catch(() => response.destroy());
  });
  return {
    ...(await listenLocally(server)),
    text: () => bodies.join('\n'),
    spans: () =>
      bodies.flatMap((body) =>
        (JSON.parse(body) as Body).resourceSpans.flatMap(({ scopeSpans }) =>
          scopeSpans.flatMap(({ spans }) => spans),
        ),
      ),
  };
}
