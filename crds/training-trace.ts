// The trace of a training pod, as it tells whoever reaches its loopback: a head, then a line for each step that it ends, as JSON. Both are
// read as strangers' bytes. Pure.
import { z } from "zod";
import { stepsMax } from "./training-report.ts";
import { ranksMax } from "./training-world.ts";

export const tracePath = "/trace";
/** Spans that are kept of one step, at most. */
export const stepSpansMax = 200_000;
/** Bytes of a line, at most: so many spans with the longest names have room in it. */
export const traceLineBytesMax = 64 * 1024 * 1024;
/** Steps that are told to one who asks, at most. */
export const tracedStepsMax = 1000;

/** Time is for: a step; computing; rows of experts; copies (spAG); sums of experts' gradients (spRS); what all ranks exchange. */
const spanKinds = ["step", "compute", "dispatch", "spAG", "spRS", "meeting"] as const;
export type SpanKind = (typeof spanKinds)[number];

const ms = z.number();
const count = z.int().min(0);
const uid = z.string().min(1).max(64);

const spanSchema = z.object({
  kind: z.enum(spanKinds),
  /** "block forward", "receive rows" */
  name: z.string().max(128),
  /** Of the model, -1 where there is none. */
  layer: z.int().min(-1).max(65_535),
  /** Of the clock of the recorder. */
  fromMs: ms,
  toMs: ms,
  /** Of the payload of a frame. */
  bytes: count.optional(),
  /** The place of the rank at the other end of a frame. */
  peer: count.max(ranksMax).optional(),
  /** Of an expert's call. */
  rows: count.optional(),
});
export type Span = Readonly<z.infer<typeof spanSchema>>;

export const traceHeadSchema = z.object({
  /** Uid of the pod. */
  pod: uid,
  /** What its own clock has to be added to for milliseconds since 1970, by the clock of its node. */
  originMs: ms,
});

export const tracedStepSchema = z.object({
  /** The membership in which it was made. */
  epoch: z.int32().min(1),
  /** Of the worlds that meet, the one of this rank; 0 where there is one. */
  group: count.max(ranksMax),
  step: z.int().min(1).max(stepsMax),
  /** Since the step before, in the order in which they ended. */
  spans: z.array(spanSchema).max(stepSpansMax),
  /** More spans were made than are kept: the first ones are missing. */
  cut: z.literal(true).optional(),
});
export type TracedStep = Readonly<z.infer<typeof tracedStepSchema>>;
