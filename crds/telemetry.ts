// The load message that workers publish on core NATS, its subject and its bounds. Pure.
// `routed` = demand counted at the source (planner input), `served` = rows computed at the host (imbalance).
import { z } from "zod";
import { AppError } from "./common.ts";

export const telemetryVersion = 1;
/** NATS' own default limit; larger messages are refused at both ends. */
export const loadMessageBytesMax = 1024 * 1024;

export function loadSubject(prefix: string, namespace: string, name: string, rank: number | "*"): string {
  return `${prefix}.v${telemetryVersion}.${namespace}.${name}.load.${rank}`;
}

export const phases = ["prefill", "decode"] as const;
export type Phase = (typeof phases)[number];

const counts = z.string().max(loadMessageBytesMax);

export const loadMessageSchema = z.object({
  v: z.literal(telemetryVersion),
  deploymentUID: z.string().min(1).max(64),
  rank: z.number().int().min(0).max(4095),
  bootId: z.string().min(1).max(64),
  /** Grows by one per message of a boot; a smaller or equal one is a duplicate. */
  seq: z.number().int().min(0),
  windowStart: z.number().int(), // unix ms
  windowEnd: z.number().int(),
  phase: z.enum(phases),
  layers: z.number().int().min(1).max(1024),
  experts: z.number().int().min(1).max(4096),
  /** base64 of little-endian uint32 [layers][experts]. */
  routed: counts,
  served: counts,
});
export type LoadMessage = z.infer<typeof loadMessageSchema>;

/** A parsed message with its vectors decoded, each of length layers * experts. */
export interface LoadWindow extends Omit<LoadMessage, "routed" | "served"> {
  readonly routed: Uint32Array;
  readonly served: Uint32Array;
}

export function encodeLoad(window: LoadWindow): string {
  return JSON.stringify({ ...window, routed: encodeCounts(window.routed), served: encodeCounts(window.served) });
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
  const cells = parsed.data.layers * parsed.data.experts;
  return {
    ...parsed.data,
    routed: decodeCounts(parsed.data.routed, cells, "routed"),
    served: decodeCounts(parsed.data.served, cells, "served"),
  };
}

export function encodeCounts(counts: Uint32Array): string {
  const bytes = Buffer.alloc(counts.length * 4);
  counts.forEach((count, i) => {
    bytes.writeUInt32LE(count, i * 4);
  });
  return bytes.toString("base64");
}

export function decodeCounts(text: string, cells: number, field: string): Uint32Array {
  const bytes = Buffer.from(text, "base64"); // skips what is not base64, so the length check below is the validation
  if (bytes.byteLength !== cells * 4) throw invalid(`${field}: ${bytes.byteLength} bytes, expected ${cells * 4} = layers x experts x 4`);
  return Uint32Array.from({ length: cells }, (_, i) => bytes.readUInt32LE(i * 4));
}

function invalid(what: string, cause?: unknown): AppError {
  return new AppError(`load message: ${what}`, { code: "InvalidTelemetry", operation: "parsing telemetry", cause });
}
