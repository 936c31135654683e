// A training pod's trace on loopback, as JSON lines: a head, then one per step. Readers parse untrusted input.
import { z } from "zod";
import { stepsMax } from "./training-report.ts";
import { ranksMax } from "./training-world.ts";

export const tracePath = "/trace";
export const stepSpansMax = 200_000;
/** Fits the most spans with the longest names. */
export const traceLineBytesMax = 64 * 1024 * 1024;
export const tracedStepsMax = 1000;

/** dispatch: rows of experts; spAG: expert replicas; spRS: sums of experts' gradients; meeting: exchanges of all ranks. */
const spanKinds = ["step", "compute", "dispatch", "spAG", "spRS", "meeting"] as const;
export type SpanKind = (typeof spanKinds)[number];

const ms = z.number();
const count = z.int().min(0);
const uid = z.string().min(1).max(64);

const spanSchema = z.object({
  kind: z.enum(spanKinds),
  /** "block forward", "receive rows" */
  name: z.string().max(128),
  /** -1 where there is none. */
  layer: z.int().min(-1).max(65_535),
  /** The recorder's clock. */
  fromMs: ms,
  toMs: ms,
  /** The size of a frame's payload. */
  bytes: count.optional(),
  /** The other rank of a frame. */
  peer: count.max(ranksMax).optional(),
  /** The rows of an expert's call. */
  rows: count.optional(),
});
export type Span = Readonly<z.infer<typeof spanSchema>>;

export const traceHeadSchema = z.object({
  /** Uid of the pod. */
  pod: uid,
  /** Offset of its clock to Unix milliseconds. */
  originMs: ms,
});

export const tracedStepSchema = z.object({
  epoch: z.int32().min(1),
  /** The index of one of several worlds; else 0. */
  group: count.max(ranksMax),
  step: z.int().min(1).max(stepsMax),
  /** Sorted by end. */
  spans: z.array(spanSchema).max(stepSpansMax),
  /** The first spans did not fit. */
  cut: z.literal(true).optional(),
});
export type TracedStep = Readonly<z.infer<typeof tracedStepSchema>>;
