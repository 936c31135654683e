// Tracing: one trace per request (gateway -> worker -> dispatch), reconcile and rebalance step. Messages carry the parent as a W3C
// `traceparent`; without an endpoint, spans cost nothing and pass it on.
import {
  type Attributes,
  type Context,
  type Span as OtelSpan,
  ROOT_CONTEXT,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import type { ReadableSpan, SpanExporter } from "@opentelemetry/sdk-trace";

const exportQueueMax = 2048;
const exportTimeoutMs = 2_000;
const traceparentPattern = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

type SpanRole = "server" | "client" | "internal";

export interface Span {
  /** The parent of the next message or child; may be "". */
  readonly traceparent: string;
  /** Set for unsampled traces too, for log lines. */
  readonly traceId: string | undefined;
  set(attributes: Attributes): void;
  event(name: string, attributes?: Attributes): void;
  fail(error: unknown): void;
  end(): void;
}

interface SpanOptions {
  /** Empty or malformed = a new trace. */
  readonly parent?: string | undefined;
  readonly role?: SpanRole;
  readonly attributes?: Attributes;
}

export interface EndedSpan {
  readonly name: string;
  readonly role: SpanRole;
  readonly parent: string;
  /** Its own. */
  readonly traceparent: string;
  readonly startUnixMs: number;
  readonly endUnixMs: number;
  readonly attributes: Attributes;
  readonly failure?: string | undefined;
}

export interface Tracing {
  readonly enabled: boolean;
  start(name: string, options?: SpanOptions): Span;
  /** A span of another thread that has ended. */
  record(span: EndedSpan): void;
  /** Takes at most about two seconds; an unreachable collector is no error. */
  close(): Promise<void>;
}

export interface TracingOptions {
  readonly service: string;
  /** OTLP/HTTP, "http://host:4318"; unset = tracing off. */
  readonly endpoint?: string | undefined;
  /** The share of traces that begin here, 0 to 1, default 1. */
  readonly ratio?: number | undefined;
  readonly attributes?: Attributes;
  readonly exporter?: SpanExporter;
}

/** Loads the SDK only when tracing is on. */
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
  const random = new sdk.RandomIdGenerator();
  let spanId: string | undefined;
  const provider = new sdk.TracerProvider({
    idGenerator: { generateTraceId: () => random.generateTraceId(), generateSpanId: () => spanId ?? random.generateSpanId() },
    resource: resourceFromAttributes({ "service.name": `enodia-${options.service}`, ...options.attributes }),
    sampler: new sdk.ParentBasedSampler({ root: new sdk.TraceIdRatioBasedSampler(options.ratio ?? 1) }),
    spanProcessors: [processor],
  });
  const tracer = provider.getTracer("enodia");
  return {
    enabled: true,
    start: (name, spanOptions = {}) => startSpan(tracer, name, spanOptions),
    record: (ended) => {
      spanId = parseTraceparent(ended.traceparent)?.spanId;
      const options = { kind: kinds[ended.role], attributes: ended.attributes, startTime: ended.startUnixMs };
      const span = tracer.startSpan(ended.name, options, parentContext(ended.parent));
      spanId = undefined;
      if (ended.failure !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: ended.failure });
      span.end(ended.endUnixMs);
    },
    close: () => provider.shutdown().catch(nothing),
  };
}

/** Encodes ended spans as a line of OTLP's JSON, as the exporter does. */
export async function openOtlpLines(service: string, attributes: Attributes): Promise<(spans: readonly EndedSpan[]) => string> {
  const { JsonTraceSerializer } = await import("@opentelemetry/otlp-transformer");
  const { resourceFromAttributes } = await import("@opentelemetry/resources");
  const same = {
    resource: resourceFromAttributes({ "service.name": `enodia-${service}`, ...attributes }),
    instrumentationScope: { name: "enodia" },
    ...{ status: { code: SpanStatusCode.UNSET }, duration: [0, 0] as [number, number], ended: true, events: [], links: [] },
    ...{ droppedAttributesCount: 0, droppedEventsCount: 0, droppedLinksCount: 0 },
  };
  const readable = ({ name, role, parent, traceparent, startUnixMs, endUnixMs, attributes }: EndedSpan): ReadableSpan => {
    const context = parseTraceparent(traceparent) as SpanContext;
    const [startTime, endTime] = [hrTime(startUnixMs), hrTime(endUnixMs)];
    const parentSpanContext = parseTraceparent(parent);
    const above = parentSpanContext && { parentSpanContext };
    return { ...same, name, kind: kinds[role], spanContext: () => context, ...above, startTime, endTime, attributes };
  };
  return (spans) => `${Buffer.from(JsonTraceSerializer.serializeRequest(spans.map(readable)) ?? []).toString()}\n`;
}

const hrTime = (unixMs: number): [number, number] => [Math.floor(unixMs / 1000), Math.round((unixMs % 1000) * 1e6)];

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
  record: nothing,
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

/** Malformed input counts as no parent. */
export function parseTraceparent(text: string | undefined): { traceId: string; spanId: string; traceFlags: number } | undefined {
  const match = traceparentPattern.exec(text ?? "");
  const [, traceId = "", spanId = "", flags = ""] = match ?? [];
  if (!match || /^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED };
}

/** Undefined if unsampled. */
export function sampledTraceId(traceparent: string): string | undefined {
  const parent = parseTraceparent(traceparent);
  return parent?.traceFlags === TraceFlags.SAMPLED ? parent.traceId : undefined;
}

function formatTraceparent(span: OtelSpan): string {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`;
}

function nothing(): void {}
