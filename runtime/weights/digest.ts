// Hashes of a model store.
import { createHash } from "node:crypto";
import { setImmediate as yieldLoop } from "node:timers/promises";
import { codecsOf, type ExpertIndex } from "./store.ts";

/** A slice takes 2 to 10 ms; the thread has to answer pings between slices. */
const hashSliceBytes = 4 * 1024 * 1024;

export const sha256Hex = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** sha256Hex that yields to the event loop between slices. */
export async function sha256InSlices(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256");
  for (let from = 0; from < bytes.length; from += hashSliceBytes) {
    if (from > 0) await yieldLoop();
    hash.update(bytes.subarray(from, from + hashSliceBytes));
  }
  return hash.digest("hex");
}

type Hashed = Pick<ExpertIndex, "dense" | "denseForms" | "codecs">;

/** Covers config.json's text, the dense tensors' hashes and forms, and every unit hash, in order; ranks must agree on it. */
export function modelDigest(configText: string, { dense, denseForms = {}, codecs }: Hashed): string {
  const hash = createHash("sha256").update(configText);
  for (const name of Object.keys(dense).sort()) {
    const form = Object.hasOwn(denseForms, name) ? ` ${denseForms[name]}` : "";
    hash.update(`\n${name} ${dense[name]}${form}`);
  }
  for (const codec of codecsOf({ codecs })) {
    for (const unit of codecs[codec]?.units.flat() ?? []) hash.update(`\n${codec} ${unit.sha256}`);
    for (const forms of codecs[codec]?.forms ?? []) hash.update(`\n${codec} ${forms.join()}`);
  }
  return hash.digest("hex");
}
