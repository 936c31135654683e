// OTLP's JSON of spans, which exporters, collectors and training pods write as one line each. Readers parse untrusted input.
import { z } from "zod";

/** 64-bit integers are text in OTLP's JSON; OpenTelemetry's own encoder writes numbers. */
const attributes = z
  .array(z.object({ key: z.string(), value: z.record(z.string(), z.unknown()) }))
  .default([])
  .transform((list) =>
    Object.fromEntries(
      list.map(({ key, value }): [string, unknown] => [key, "intValue" in value ? Number(value.intValue) : Object.values(value)[0]]),
    ),
  );
const unixMs = z
  .string()
  .regex(/^\d{7,20}$/)
  .transform((nanoseconds) => Number(`${nanoseconds.slice(0, -6)}.${nanoseconds.slice(-6)}`));

const spanSchema = z.object({
  traceId: z.string(),
  spanId: z.string(),
  /** Empty or unset where the trace begins. */
  parentSpanId: z.string().optional(),
  name: z.string(),
  /** Unix milliseconds once it is parsed, as `endTimeUnixNano`. */
  startTimeUnixNano: unixMs,
  endTimeUnixNano: unixMs,
  attributes,
  status: z.object({ code: z.number().optional() }).optional(),
});
export type OtlpSpan = Readonly<z.infer<typeof spanSchema>>;

export const otlpTraces = z.object({
  resourceSpans: z.array(z.object({ resource: z.object({ attributes }), scopeSpans: z.array(z.object({ spans: z.array(spanSchema) })) })),
});
