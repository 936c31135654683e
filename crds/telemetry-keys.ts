// The keys that sign the load messages of one deployment, newest first, as they stand in its telemetry Secret: the operator makes and
// rotates them, workers sign with the newest that they have, and whoever listens takes every key that is there. Pure: dice and
// clock are the caller's; the signature itself is runtime/net/load-signature.ts.
import { z } from "zod";
import { AppError } from "./common.ts";

export interface TelemetryKey {
  /** Names the key in a message, so that a reader need not try them all. */
  readonly id: string;
  readonly secret: Uint8Array;
  /** Unix ms. */
  readonly madeMs: number;
}

/** Newest first; never empty. */
export type TelemetryKeys = readonly TelemetryKey[];

/** The Secret of a deployment's telemetry, and the entries of its data. */
export const telemetrySecretName = (deployment: string): string => `${deployment}-telemetry`;
export const telemetrySecretEntries = { keys: "keys" } as const;

/** Bytes of a key: as many as the hash of its signature has. */
export const telemetryKeyBytes = 32;
const dayMs = 24 * 3600_000;
/** A key signs for so long. */
const lifeMs = 30 * dayMs;
/** A key that another has followed is taken for so much longer: a kubelet hands a changed Secret on within minutes, a node may be away. */
const overlapMs = dayMs;
const keysMax = 8;

const keySchema = z.object({
  id: z.string().regex(/^[0-9a-f]{16}$/),
  made: z.iso.datetime(),
  secret: z.base64().refine((text) => Buffer.from(text, "base64").byteLength === telemetryKeyBytes, `not ${telemetryKeyBytes} bytes`),
});
const keysSchema = z.object({ keys: z.array(keySchema).min(1).max(keysMax) });

export function encodeTelemetryKeys(keys: TelemetryKeys): string {
  const written = keys.map(({ id, secret, madeMs }) => {
    return { id, made: new Date(madeMs).toISOString(), secret: Buffer.from(secret).toString("base64") };
  });
  return JSON.stringify({ keys: written });
}

/** Throws AppError `TelemetryKeysUnusable`; what it says has nothing of a key in it. */
export function decodeTelemetryKeys(text: string): TelemetryKeys {
  const parsed = keysSchema.safeParse(parsedJson(text));
  if (!parsed.success) throw unusable(z.prettifyError(parsed.error));
  return parsed.data.keys.map(({ id, secret, made }) => {
    return { id, secret: new Uint8Array(Buffer.from(secret, "base64")), madeMs: Date.parse(made) };
  });
}

function parsedJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw unusable("not JSON"); // what the parser says would quote the text
  }
}

function unusable(what: string): AppError {
  return new AppError(`telemetry keys: ${what}`, { code: "TelemetryKeysUnusable", operation: "reading telemetry keys" });
}

/** The keys that are to stand from now on: a fresh one in front when the newest has had its time, and none that was followed long ago. */
export function rotatedTelemetryKeys(keys: readonly TelemetryKey[], now: number, fresh: () => TelemetryKey): TelemetryKeys {
  const [newest] = keys;
  // A key from the future comes of a clock that was wrong, and would stand for as long as that was ahead.
  const due = newest === undefined || now - newest.madeMs >= lifeMs || newest.madeMs - now > overlapMs;
  const wanted = due ? [fresh(), ...keys] : keys;
  const standing = wanted.filter((_, i) => i === 0 || now - (wanted[i - 1]?.madeMs ?? 0) < overlapMs);
  return standing.slice(0, keysMax);
}
