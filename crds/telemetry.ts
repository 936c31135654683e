// The load message that workers publish on core NATS, its subject and its bounds. Pure. On the wire its signature comes before it
// (runtime/net/load-signature.ts).
// `routed` = demand counted at the source (planner input), `served` = rows computed at the host (imbalance), `compute` = what
// it took to compute them (speed of the rank). Readers ignore fields that they do not know, and do without those that may be missing.
import { z } from "zod";
import { AppError } from "./common.ts";

const telemetryVersion = 1;
/** NATS' own default limit; larger messages are refused at both ends. */
export const loadMessageBytesMax = 1024 * 1024;

export function loadSubject(prefix: string, namespace: string, name: string, rank: number | "*"): string {
  return `${prefix}.v${telemetryVersion}.${namespace}.${name}.load.${rank}`;
}

export const phases = ["prefill", "decode"] as const;
export type Phase = (typeof phases)[number];
/** A step of an engine has rows of one phase, or of both. */
export const stepKinds = [...phases, "mixed"] as const;
export type StepKind = (typeof stepKinds)[number];

/**
 * Load is sampled at least this often, and several times in the span that a decision looks at, since a sample that covers a change
 * of plan is
 *  not counted.
 */
const sampleMsMax = 5_000;
export const loadSampleMsMin = 250;
const samplesPerWindow = 3;

/** Milliseconds between two load messages of a worker; the planner sums them into its window. */
export function loadSampleMs(windowMs: number): number {
  return Math.min(sampleMsMax, Math.max(loadSampleMsMin, Math.floor(windowMs / samplesPerWindow)));
}

/** Ranks send their samples in turn, and the last of them at most so many milliseconds after their end. */
export const loadTurnMsMax = 1_250;

/** A process that reports as often as it may reaches this number after 17 years. */
const loadSeqMax = 2 ** 32;
/** No window of load is longer: one hour, in which a process that cannot count its load is looked at by somebody. */
export const loadWindowMsMax = 3_600_000;

const counts = z.string().max(loadMessageBytesMax);

/** Seconds of a rank's steps, summed over layers: computing what is not experts, and waiting for experts wherever they are. */
export interface StepSeconds {
  readonly dense: number;
  readonly experts: number;
}

/** Bound of counters of one message: microseconds of 12 days. */
const computeMax = 2 ** 40;
const computeCount = z.number().int().min(0).max(computeMax);
/** Sums over batches of products of two of them, or of one and a time. */
const computeSum = z
  .number()
  .min(0)
  .max(computeMax ** 2);

/** A batch is a frame of another rank, or this rank's own pairs of a layer. */
const computeSchema = z.object({
  runs: computeCount, // batches
  calls: computeCount, // experts run in them
  rows: computeCount,
  micros: computeCount, // microseconds that they took, one after another
  /**
   * The sums of a least-squares fit, since a batch has its price, and an expert's weights are read for any number of rows: over all
   * batches, x x' / w (the upper triangle by rows) and x t / w, where x = (1, experts, rows), t its microseconds, w = experts + rows.
   */
  squares: z.array(computeSum).length(6),
  times: z.array(computeSum).length(3),
  /** Names the machine if it is computed on its cores: ranks of one machine share these. */
  machine: z.string().min(1).max(64).optional(),
});
export type ComputeWork = z.infer<typeof computeSchema>;

const loadMessageSchema = z.object({
  v: z.literal(telemetryVersion),
  deploymentUID: z.string().min(1).max(64),
  rank: z.number().int().min(0).max(4095),
  bootId: z.string().min(1).max(64),
  /** Grows by one per message of a boot, from 1, sent or not; a smaller or equal one is a duplicate (telemetry-order.ts). */
  seq: z.number().int().min(0).max(loadSeqMax),
  windowStart: z.number().int(), // unix ms
  windowEnd: z.number().int(),
  phase: z.enum(phases),
  layers: z.number().int().min(1).max(1024),
  /** The experts of the layer that has most; the last cells of a layer with fewer are zero. */
  experts: z.number().int().min(1).max(4096),
  /** base64 of little-endian uint32 [layers][experts]. */
  routed: counts,
  served: counts,
  seconds: z.object({ dense: z.number().min(0), experts: z.number().min(0) }).optional(),
  compute: computeSchema.optional(),
});
type LoadMessage = z.infer<typeof loadMessageSchema>;

/** A parsed message with its vectors decoded, each of length layers * experts. */
export interface LoadWindow extends Omit<LoadMessage, "routed" | "served" | "seconds"> {
  readonly routed: Uint32Array;
  readonly served: Uint32Array;
  readonly seconds?: StepSeconds;
}

export function encodeLoad(window: LoadWindow): string {
  return JSON.stringify({
    ...window,
    routed: encodeCounts(window.routed),
    served: encodeCounts(window.served),
  });
}

/** Parses untrusted bytes; throws AppError `InvalidTelemetry` that names the field. */
export function decodeLoad(bytes: Uint8Array): LoadWindow {
  if (bytes.byteLength > loadMessageBytesMax) throw invalid(`message of ${bytes.byteLength} bytes, at most ${loadMessageBytesMax}`);
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw invalid("not UTF-8 JSON", cause);
  }
  const parsed = loadMessageSchema.safeParse(json);
  if (!parsed.success) throw invalid(z.prettifyError(parsed.error), parsed.error);
  const { seconds, ...rest } = parsed.data;
  const { layers, experts } = rest;
  return {
    ...rest,
    routed: decodeCounts(rest.routed, layers * experts, "routed"),
    served: decodeCounts(rest.served, layers * experts, "served"),
    ...(seconds === undefined ? {} : { seconds }),
  };
}

/** Whole vectors at once, since a large world sends some 100 MB of them in a minute; every platform that this runs on is little-endian. */
function encodeCounts(counts: Uint32Array): string {
  return Buffer.from(counts.buffer, counts.byteOffset, counts.byteLength).toString("base64");
}

function decodeCounts(text: string, cells: number, field: string): Uint32Array {
  const bytes = Buffer.from(text, "base64"); // skips what is not base64, so the length check below is the validation
  if (bytes.byteLength !== cells * 4) throw invalid(`${field}: ${bytes.byteLength} bytes, expected ${cells * 4} = layers x experts x 4`);
  return new Uint32Array(new Uint8Array(bytes).buffer);
}

function invalid(what: string, cause?: unknown): AppError {
  return new AppError(`load message: ${what}`, { code: "InvalidTelemetry", operation: "parsing telemetry", cause });
}
