// The signature of a load message: its first line, an HMAC-SHA256 of the rest, by a key of the deployment's pods and the operator.
import { createHmac, timingSafeEqual } from "node:crypto";
import { loadMessageBytesMax } from "../../crds/telemetry.ts";
import type { TelemetryKey, TelemetryKeys } from "../../crds/telemetry-keys.ts";

/** Keeps signatures for other purposes invalid here. */
const purpose = "enodia load v1\n";
const mark = "enodia-load";
/** Blanks and the line break are included. */
const lineBytesMax = 80;
const linePattern = /^enodia-load ([0-9a-f]{16}) ([\w-]{43})$/;
const newline = 10;

export type SignatureFault = "too_large" | "unsigned" | "no_key" | "bad_signature";
export type Opened<R = never> =
  | { readonly ok: true; readonly body: Uint8Array }
  | { readonly ok: false; readonly reason: SignatureFault | R };

export function signLoad(body: string, { id, secret }: TelemetryKey): string {
  return `${mark} ${id} ${macOf(body, secret).toString("base64url")}\n${body}`;
}

/** `unwanted` may refuse a body before its signature is computed, which takes a millisecond for the largest. */
export function openLoad<R = never>(
  message: Uint8Array,
  keys: TelemetryKeys | undefined,
  unwanted: (body: Uint8Array) => R | undefined = () => undefined,
): Opened<R> {
  if (message.byteLength > loadMessageBytesMax) return { ok: false, reason: "too_large" };
  if (keys === undefined) return { ok: false, reason: "no_key" };
  const end = message.subarray(0, lineBytesMax).indexOf(newline);
  const [, id, signature] = linePattern.exec(Buffer.from(message.subarray(0, Math.max(0, end))).toString("latin1")) ?? [];
  if (id === undefined || signature === undefined) return { ok: false, reason: "unsigned" };
  const key = keys.find((one) => one.id === id);
  const body = message.subarray(end + 1);
  const refusal = key && unwanted(body);
  if (refusal !== undefined) return { ok: false, reason: refusal };
  const genuine = key !== undefined && timingSafeEqual(macOf(body, key.secret), Buffer.from(signature, "base64url"));
  return genuine ? { ok: true, body } : { ok: false, reason: "bad_signature" };
}

function macOf(body: string | Uint8Array, secret: Uint8Array): Buffer {
  return createHmac("sha256", secret).update(purpose).update(body).digest();
}
