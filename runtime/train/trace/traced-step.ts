// A rank's step as OTLP spans, and back. The step is the root of its spans and comes last. What a span has beside name and times are
// attributes.
import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { stepsMax } from "../../../crds/training-report.ts";
import { ranksMax } from "../../../crds/training-world.ts";
import { type OtlpSpan, otlpTraces } from "../../observe/otlp.ts";
import type { EndedSpan } from "../../observe/trace.ts";
import { type Span, spanSchema, stepSpansMax } from "./spans.ts";

const stepSchema = z.object({
  epoch: z.int32().min(1),
  /** The index of one of several worlds; else 0. */
  group: z.int().min(0).max(ranksMax),
  step: z.int().min(1).max(stepsMax),
});
export interface TracedStep extends Readonly<z.infer<typeof stepSchema>> {
  readonly spans: readonly Span[];
}

const prefix = "enodia.";
const attributesOf = (fields: object): Record<string, string | number> =>
  Object.fromEntries(Object.entries(fields).map(([name, value]) => [prefix + name, value]));
const fieldsOf = (attributes: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(attributes).map(([name, value]) => [name.replace(prefix, ""), value]));

interface Encoding {
  readonly job: string;
  /** The offset of the spans' clock to Unix milliseconds. */
  readonly originMs: number;
  /** Spans at once. */
  readonly most: number;
}

/** All ranks' spans of a step are one trace. */
export function* endedSpans({ spans, ...own }: TracedStep, { job, originMs, most }: Encoding): Generator<EndedSpan[]> {
  const traceId = createHash("sha256")
    .update(JSON.stringify([job, own]))
    .digest("hex");
  const ids = randomBytes(4).toString("hex");
  const context = (id: number): string => `00-${traceId.slice(0, 32)}-${ids}${id.toString(16).padStart(8, "0")}-01`;
  const root = context(0);
  const ended = ({ name, fromMs, toMs, ...fields }: Span, id: number): EndedSpan => ({
    ...{ name, role: "internal", startUnixMs: originMs + fromMs, endUnixMs: originMs + toMs },
    ...(fields.kind === "step"
      ? { parent: "", traceparent: root, attributes: attributesOf({ ...fields, ...own }) }
      : { parent: root, traceparent: context(id + 1), attributes: attributesOf(fields) }),
  });
  const ordered = [...spans.filter(({ kind }) => kind !== "step"), ...spans.filter(({ kind }) => kind === "step")];
  for (let from = 0; from < ordered.length; from += most) yield ordered.slice(from, from + most).map((span, i) => ended(span, from + i));
}

/** The steps of a pod in lines of OTLP's JSON. Throws AppError `WrongPod`, and other errors where the lines are no such trace. */
export async function* stepsIn(
  lines: AsyncIterable<string>,
  { pod, uid }: { readonly pod: string; readonly uid: string },
): AsyncGenerator<TracedStep, void, void> {
  let spans: Span[] = [];
  for await (const line of lines)
    for (const { resource, scopeSpans } of otlpTraces.parse(JSON.parse(line)).resourceSpans) {
      if (resource.attributes["k8s.pod.uid"] !== uid) throw new AppError(`pod ${pod} is another one now; ask again`, { code: "WrongPod" });
      const read = scopeSpans.flatMap((scope) => scope.spans);
      spans.push(...read.map(spanOf));
      if (spans.length > stepSpansMax) throw new Error(`a step of more than ${stepSpansMax} spans`);
      if (spans.at(-1)?.kind !== "step") continue;
      yield { ...stepSchema.parse(fieldsOf(read.at(-1)?.attributes ?? {})), spans };
      spans = [];
    }
}

const spanOf = ({ name, startTimeUnixNano, endTimeUnixNano, attributes }: OtlpSpan): Span =>
  spanSchema.parse({ ...fieldsOf(attributes), name, fromMs: startTimeUnixNano, toMs: endTimeUnixNano });
