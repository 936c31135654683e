// The keys of a deployment's telemetry Secret, which sign load messages. The operator rotates them, workers sign with the newest, and
// readers accept all.
import { z } from "zod";
import { AppError } from "./common.ts";

export interface TelemetryKey {
  /** Messages name it, so that a reader need not try every key. */
  readonly id: string;
  readonly secret: Uint8Array;
  /** Unix ms. */
  readonly madeMs: number;
}

/** Newest first; never empty. */
export type TelemetryKeys = readonly TelemetryKey[];

export const telemetrySecretName = (deployment: string): string => `${deployment}-telemetry`;
export const telemetrySecretEntries = { keys: "keys" } as const;

/** The size of the signature's hash. */
export const telemetryKeyBytes = 32;
const dayMs = 24 * 3600_000;
const lifeMs = 30 * dayMs;
/** Superseded keys stay valid, since a node may be away. */
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

/** Throws AppError `TelemetryKeysUnusable` without any part of a key. */
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
    throw unusable("not JSON"); // the parser's message would quote the text
  }
}

function unusable(what: string): AppError {
  return new AppError(`telemetry keys: ${what}`, { code: "TelemetryKeysUnusable", operation: "reading telemetry keys" });
}

/** Adds a fresh key when the newest has expired, and drops old ones. */
export function rotatedTelemetryKeys(keys: readonly TelemetryKey[], now: number, fresh: () => TelemetryKey): TelemetryKeys {
  const [newest] = keys;
  // A key from the future comes from a wrong clock and would stay too long.
  const due = newest === undefined || now - newest.madeMs >= lifeMs || newest.madeMs - now > overlapMs;
  const wanted = due ? [fresh(), ...keys] : keys;
  const current = wanted.filter((_, i) => i === 0 || now - (wanted[i - 1]?.madeMs ?? 0) < overlapMs);
  return current.slice(0, keysMax);
}
