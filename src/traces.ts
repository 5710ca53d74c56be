import { describeError, Stopping } from './errors.ts';
import { readVersion } from './version.ts';
import { within } from './within.ts';

import type * as Api from '@opentelemetry/api';
import type { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import type { BullMQOtel } from 'bullmq-otel';
import type { Config } from './config.ts';

/*
 * Spans from a delivery to the row it led to, sent over OTLP where an endpoint is set. Where none is, the
 * SDK is not even loaded: its context slows every promise of the process. Names and fields of spans are
 * fixed: no query, no address, nothing of a person (guarantee G10).
 */

/** What is told of a span. */
export type SpanFields = Readonly<Record<string, string | number | boolean>>;

/** A point in a trace that a later span can be tied to; undefined where nothing is traced. */
export type Place = Api.SpanContext | undefined;

export interface Traces {
  /** Runs `work` within a span below whatever is under way; `note` adds fields to it. */
  readonly span: <T>(
    name: string,
    work: (note: (fields: SpanFields) => void) => Promise<T>,
    kind?: 'internal' | 'server',
  ) => Promise<T>;
  /**
   * Runs `work` done for several places at once: below the one where they are one, else in a trace of its
   * own with links to all of them, since one parent would be a lie.
   */
  readonly joint: <T>(name: string, places: readonly Place[], work: () => Promise<T>) => Promise<T>;
  /** Tells of a request to others that has just ended, after so many ms. */
  readonly request: (name: string, ms: number, fields: SpanFields) => void;
  /** Where we are now. */
  readonly place: () => Place;
  /** What BullMQ's classes take, to carry places from who adds a job to who runs it. */
  readonly telemetry: BullMQOtel | undefined;
  /** Sends what is left, and forgets the rest after a second. */
  readonly stop: () => Promise<void>;
}

/** What there is where nothing is traced. */
export const NO_TRACES: Traces = {
  span: (_name, work) => work(ignore),
  joint: (_name, _places, work) => work(),
  request: ignore,
  place: () => undefined,
  telemetry: undefined,
  stop: () => Promise.resolve(),
};

function ignore(): void {
  // Nobody is listening.
}

/** Where the collector is, for every kind of signal or for traces alone, and under what name we send. */
export type TracesConfig = Pick<
  Config,
  'OTEL_EXPORTER_OTLP_ENDPOINT' | 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT' | 'OTEL_SERVICE_NAME'
>;

/** The process is waiting to end. */
const STOP_DEADLINE_MS = 1_000;

/**
 * Starts to trace where an endpoint is set; once a process, since OpenTelemetry's context is the
 * process's. Headers, sampling and time limits are read from the other `OTEL_…` variables by OpenTelemetry
 * itself. `onError` is told of the first failure to send: the collector's absence is no concern of the mirror's.
 */
export async function startTraces(
  config: TracesConfig,
  onError: (reason: string) => void,
): Promise<Traces> {
  const url = toUrl(config);
  if (url === undefined) return NO_TRACES;
  const [api, sdk, { OTLPTraceExporter }, { BullMQOtel }] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('bullmq-otel'),
  ]);
  let isTold = false;
  const tell = (message: string) => {
    if (!isTold) onError(toReason(message));
    isTold = true;
  };
  const quiet = { info: ignore, debug: ignore, verbose: ignore };
  api.diag.setLogger({ error: tell, warn: tell, ...quiet }, api.DiagLogLevel.WARN);
  const provider = new sdk.NodeTracerProvider({
    resource: resourceOf({
      'service.name': config.OTEL_SERVICE_NAME,
      'service.version': readVersion(),
    }),
    spanProcessors: [new sdk.BatchSpanProcessor(new OTLPTraceExporter({ url }))],
  });
  provider.register();
  return {
    ...createSpans(api),
    telemetry: new BullMQOtel({ tracerName: 'bullmq' }),
    async stop() {
      const ending = provider.shutdown().catch(ignore);
      await within(STOP_DEADLINE_MS, ending, ignore);
      for (const global of [api.trace, api.context, api.propagation, api.diag]) global.disable();
    },
  };
}

/** What is for every signal gets the path of traces; what is for traces is taken as it is. */
function toUrl(config: TracesConfig): string | undefined {
  const every = config.OTEL_EXPORTER_OTLP_ENDPOINT;
  const ofEvery = every === undefined ? undefined : `${every.replace(/\/$/, '')}/v1/traces`;
  return config.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? ofEvery;
}

function createSpans(api: typeof Api): Pick<Traces, 'span' | 'joint' | 'request' | 'place'> {
  const tracer = api.trace.getTracer('rollcall');
  const { INTERNAL, SERVER, CLIENT } = api.SpanKind;

  /** Ends the span with the work. A stop is no failure. */
  async function run<T>(
    span: Api.Span,
    context: Api.Context,
    work: (span: Api.Span) => Promise<T>,
  ): Promise<T> {
    try {
      return await api.context.with(api.trace.setSpan(context, span), () => work(span));
    } catch (error) {
      if (!(error instanceof Stopping)) {
        span.setStatus({ code: api.SpanStatusCode.ERROR, message: describeError(error) });
      }
      throw error;
    } finally {
      span.end();
    }
  }

  return {
    span(name, work, kind = 'internal') {
      const context = api.context.active();
      const options = { kind: kind === 'server' ? SERVER : INTERNAL };
      return run(tracer.startSpan(name, options, context), context, (span) =>
        work((fields) => span.setAttributes(fields)),
      );
    },
    joint(name, places, work) {
      const [only, ...others] = distinct(places);
      if (only === undefined) return work();
      if (others.length === 0) {
        const context = api.trace.setSpanContext(api.ROOT_CONTEXT, only);
        return run(tracer.startSpan(name, {}, context), context, work);
      }
      const links = [only, ...others].map((context) => ({ context }));
      const span = tracer.startSpan(name, { links, root: true }, api.ROOT_CONTEXT);
      return run(span, api.ROOT_CONTEXT, work);
    },
    request(name, ms, fields) {
      const endMs = Date.now();
      const options = { kind: CLIENT, startTime: endMs - ms, attributes: fields };
      const span = tracer.startSpan(name, options, api.context.active());
      if (fields['status'] === 'error') span.setStatus({ code: api.SpanStatusCode.ERROR });
      span.end(endMs);
    },
    place: () => api.trace.getSpanContext(api.context.active()),
  };
}

function distinct(places: readonly Place[]): Api.SpanContext[] {
  const known = places.filter((place) => place !== undefined);
  return [...new Map(known.map((place) => [place.spanId, place])).values()];
}

/** What failed, of a text that may be a whole error as JSON. */
function toReason(message: string): string {
  try {
    const { message: told } = JSON.parse(message) as { message?: string };
    return told ?? 'unknown';
  } catch {
    return message;
  }
}

type Resource = NonNullable<
  NonNullable<ConstructorParameters<typeof NodeTracerProvider>[0]>['resource']
>;

/** Who the spans are of. */
function resourceOf(attributes: Record<string, string>): Resource {
  return {
    attributes,
    merge: (other) => resourceOf({ ...attributes, ...(other?.attributes as typeof attributes) }),
    getRawAttributes: () => Object.entries(attributes),
  };
}
