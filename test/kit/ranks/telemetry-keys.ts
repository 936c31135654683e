// Builders of what signs load messages, for tests of those that send and take them.
import { encodeLoad, type LoadWindow } from "../../../crds/telemetry.ts";
import type { TelemetryKey } from "../../../crds/telemetry-keys.ts";
import { signLoad } from "../../../runtime/net/load-signature.ts";

/** Key number n: always the same. */
export function telemetryKey(n: number): TelemetryKey {
  return { id: n.toString(16).padStart(16, "0"), secret: new Uint8Array(32).fill(n), madeMs: 1_700_000_000_000 };
}

/** The bytes of a load message as a worker publishes it, signed with key 1 where no other is given. */
export function signedLoad(window: LoadWindow, key = telemetryKey(1)): Uint8Array {
  return new TextEncoder().encode(signLoad(encodeLoad(window), key));
}
