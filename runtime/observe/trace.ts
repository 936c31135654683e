// Tracing: one trace per request, gateway -> worker -> dispatch, and one per reconcile and per step of the rebalance plane. The parent
// travels explicitly as a W3C `traceparent` string in our messages (no ambient context), so a span is one value that callers hand on.
//
//   const tracing = await createTracing({ service: "gateway", endpoint: config.otlpEndpoint, ratio: config.traceRatio });
//   const span = tracing.start("chat", { parent: request.traceparent, attributes: { "enodia.rank": 1 } });
//   message.traceparent = span.traceparent;   span.set({ tokens: 7 });   span.fail(error);   span.end();
//
// Off (no endpoint): spans cost nothing and hand on the parent's traceparent unchanged.
import {
  type Attributes,
  type Context,
  type Span as OtelSpan,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import type { SpanExporter } from "@opentelemetry/sdk-trace";

const exportQueueMax = 2048;
const exportTimeoutMs = 2_000;
const traceparentPattern = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

type SpanRole = "server" | "client" | "internal";

export interface Span {
  /** The trace for the next message or child; "" when tracing is off and there was no parent. */
  readonly traceparent: string;
  /** The trace's id for log lines, sampled or not; undefined when there is no trace. */
  readonly traceId: string | undefined;
  set(attributes: Attributes): void;
  event(name: string, attributes?: Attributes): void;
  /** Marks the span failed; still to be ended. */
  fail(error: unknown): void;
  end(): void;
}

interface SpanOptions {
  /** The caller's traceparent; empty or malformed = a new trace. */
  readonly parent?: string | undefined;
  readonly role?: SpanRole;
  readonly attributes?: Attributes;
}

export interface Tracing {
  readonly enabled: boolean;
  start(name: string, options?: SpanOptions): Span;
  /** Sends what is buffered, for at most about two seconds; a collector that is away is no error. */
  close(): Promise<void>;
}

export interface TracingOptions {
  readonly service: string;
  /** Base URL of an OTLP/HTTP collector ("http://host:4318"); unset = tracing off. */
  readonly endpoint?: string | undefined;
  /** Share of traces that begin here and are kept, 0 to 1; all when not given. Of others their caller has decided. */
  readonly ratio?: number | undefined;
  readonly attributes?: Attributes;
  /** Takes spans at once, instead of the endpoint. For tests. */
  readonly exporter?: SpanExporter;
}

/** The SDK and exporter are loaded only when tracing is on. */
export async function createTracing(options: TracingOptions): Promise<Tracing> {
  if (!options.endpoint && !options.exporter) return tracingOff;
  const [sdk, { resourceFromAttributes }] = await Promise.all([import("@opentelemetry/sdk-trace"), import("@opentelemetry/resources")]);
  const processor = options.exporter
    ? new sdk.SimpleSpanProcessor({ exporter: options.exporter })
    : new sdk.BatchSpanProcessor({
        exporter: await otlpExporter(options.endpoint ?? ""),
        maxQueueSize: exportQueueMax,
        exportTimeoutMillis: exportTimeoutMs,
      });
  const provider = new sdk.TracerProvider({
    resource: resourceFromAttributes({ "service.name": `enodia-${options.service}`, ...options.attributes }),
    sampler: new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(options.ratio ?? 1) }),
    spanProcessors: [processor],
  });
  const tracer = provider.getTracer("enodia");
  return {
    enabled: true,
    start: (name, spanOptions = {}) => startSpan(tracer, name, spanOptions),
    close: () => provider.shutdown().catch(nothing),
  };
}

export const tracingOff: Tracing = {
  enabled: false,
  start: (_name, options) => ({
    traceparent: parseTraceparent(options?.parent) ? (options?.parent ?? "") : "",
    traceId: parseTraceparent(options?.parent)?.traceId,
    set: nothing,
    event: nothing,
    fail: nothing,
    end: nothing,
  }),
  close: async () => {},
};

async function otlpExporter(endpoint: string): Promise<SpanExporter> {
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-http");
  const url = endpoint.endsWith("/v1/traces") ? endpoint : `${endpoint.replace(/\/+$/, "")}/v1/traces`;
  return new OTLPTraceExporter({ url, timeoutMillis: exportTimeoutMs });
}

const kinds: Record<SpanRole, SpanKind> = { server: SpanKind.SERVER, client: SpanKind.CLIENT, internal: SpanKind.INTERNAL };

function startSpan(tracer: Tracer, name: string, options: SpanOptions): Span {
  const kind = kinds[options.role ?? "internal"];
  const span = tracer.startSpan(
    name,
    { kind, ...(options.attributes ? { attributes: options.attributes } : {}) },
    parentContext(options.parent),
  );
  return {
    traceparent: formatTraceparent(span),
    traceId: span.spanContext().traceId,
    set: (attributes) => void span.setAttributes(attributes),
    event: (event, attributes) => void span.addEvent(event, attributes),
    fail: (error) => void span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) }),
    end: () => span.end(),
  };
}

function parentContext(traceparent: string | undefined): Context {
  const parent = parseTraceparent(traceparent);
  return parent ? trace.setSpanContext(ROOT_CONTEXT, { ...parent, isRemote: true }) : ROOT_CONTEXT;
}

/** Reads a W3C traceparent; anything malformed is no parent, as the standard asks. */
export function parseTraceparent(text: string | undefined): { traceId: string; spanId: string; traceFlags: number } | undefined {
  const match = traceparentPattern.exec(text ?? "");
  const [, traceId = "", spanId = "", flags = ""] = match ?? [];
  if (!match || /^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED };
}

/** The trace of a traceparent that is kept; undefined where none is. */
export function sampledTraceId(traceparent: string): string | undefined {
  const parent = parseTraceparent(traceparent);
  return parent?.traceFlags === TraceFlags.SAMPLED ? parent.traceId : undefined;
}

function formatTraceparent(span: OtelSpan): string {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`;
}

function nothing(): void {}
