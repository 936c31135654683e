// The load message that workers send on NATS or Control, signed by runtime/net/load-signature.ts: `routed` is demand at the source (planner input),
// `served` rows at the host (imbalance), `compute` their cost. Readers ignore unknown fields.
import { z } from "zod";
import { AppError } from "./common.ts";

const telemetryVersion = 1;
/** NATS' default limit. */
export const loadMessageBytesMax = 1024 * 1024;

export function loadSubject(prefix: string, namespace: string, name: string, rank: number | "*"): string {
  return `${prefix}.v${telemetryVersion}.${namespace}.${name}.load.${rank}`;
}

export const phases = ["prefill", "decode"] as const;
export type Phase = (typeof phases)[number];
export const stepKinds = [...phases, "mixed"] as const;
export type StepKind = (typeof stepKinds)[number];

/** A window needs several samples, because one across a plan change does not count. */
const sampleMsMax = 5_000;
export const loadSampleMsMin = 250;
const samplesPerWindow = 3;

export function loadSampleMs(windowMs: number): number {
  return Math.min(sampleMsMax, Math.max(loadSampleMsMin, Math.floor(windowMs / samplesPerWindow)));
}

/** Ranks stagger their messages over this time. */
export const loadJitterMsMax = 1_250;

/** Reached after 17 years at the highest rate. */
const loadSeqMax = 2 ** 32;
export const loadWindowMsMax = 3_600_000;

const counts = z.string().max(loadMessageBytesMax);

/** Dense compute, and waits for experts on any rank, summed over layers. */
export interface StepSeconds {
  readonly dense: number;
  readonly experts: number;
}

/** Microseconds of 12 days. */
const computeMax = 2 ** 40;
const computeCount = z.number().int().min(0).max(computeMax);
const computeSum = z
  .number()
  .min(0)
  .max(computeMax ** 2);

/** A batch is a frame of another rank, or this rank's own pairs of a layer. */
const computeSchema = z.object({
  runs: computeCount,
  calls: computeCount, // experts run in them
  rows: computeCount,
  micros: computeCount,
  /**
   * Weighted least-squares sums over batches of t (microseconds) against x = (1, experts, rows), w = experts + rows: x x' / w (upper
   * triangle by rows) and x t / w.
   */
  squares: z.array(computeSum).length(6),
  times: z.array(computeSum).length(3),
  /** Set when its cores compute, which other ranks may share. */
  machine: z.string().min(1).max(64).optional(),
});
export type ComputeWork = z.infer<typeof computeSchema>;

/** Loads of experts that tokens waited for: overlapping ones take their time once. */
const missSchema = z.object({ loads: computeCount, bytes: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER), micros: computeCount });
export type Misses = Readonly<z.infer<typeof missSchema>>;

const loadMessageSchema = z.object({
  v: z.literal(telemetryVersion),
  deploymentUID: z.string().min(1).max(64),
  rank: z.number().int().min(0).max(4095),
  bootId: z.string().min(1).max(64),
  /** Starts at 1 and grows by one per message of a boot, sent or not (telemetry-order.ts). */
  seq: z.number().int().min(0).max(loadSeqMax),
  windowStart: z.number().int(), // unix ms
  windowEnd: z.number().int(),
  phase: z.enum(phases),
  layers: z.number().int().min(1).max(1024),
  /** The count of the largest layer; unused cells are zero. */
  experts: z.number().int().min(1).max(4096),
  /** base64 of little-endian uint32 [layers][experts]. */
  routed: counts,
  served: counts,
  seconds: z.object({ dense: z.number().min(0), experts: z.number().min(0) }).optional(),
  compute: computeSchema.optional(),
  /** Set where experts.oversubscription is Allow. */
  misses: missSchema.optional(),
});
type LoadMessage = z.infer<typeof loadMessageSchema>;

/** Each decoded vector has length layers * experts. */
export interface LoadWindow extends Omit<LoadMessage, "routed" | "served" | "seconds"> {
  readonly routed: Uint32Array;
  readonly served: Uint32Array;
  readonly seconds?: StepSeconds;
}

export type LoadHead = Pick<LoadMessage, "rank" | "bootId" | "seq">;
const headBytesMax = 512;
const headPattern = /^\{"v":1,"deploymentUID":"[^"\\]*","rank":(\d{1,4}),"bootId":"([^"\\]*)","seq":(\d{1,10}),/;

/** Who sent a message and its number, by its first bytes as `encodeLoad` writes them; undefined for any other text. */
export function loadHead(bytes: Uint8Array): LoadHead | undefined {
  const [, rank, bootId, seq] = headPattern.exec(Buffer.from(bytes.subarray(0, headBytesMax)).toString("latin1")) ?? [];
  return bootId === undefined ? undefined : { rank: Number(rank), bootId, seq: Number(seq) };
}

/** The bytes of a message, at most. */
export const loadBytes = (cells: number): number => 2 * (Math.ceil((4 * cells) / 3) * 4) + 4_096;

export function encodeLoad(window: LoadWindow): string {
  const { v, deploymentUID, rank, bootId, seq, ...rest } = window;
  return JSON.stringify({
    ...{ v, deploymentUID, rank, bootId, seq }, // first, for loadHead
    ...rest,
    routed: encodeCounts(window.routed),
    served: encodeCounts(window.served),
  });
}

/** Throws AppError `InvalidTelemetry` that names the field. */
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

/** It copies whole buffers, since a large world sends 100 MB a minute; all platforms are little-endian. */
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
