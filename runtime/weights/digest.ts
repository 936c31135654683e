// The hashes of a model store: of bytes, of large units without holding up the thread, and the one that all ranks must agree on.
import { createHash } from "node:crypto";
import { setImmediate as yieldLoop } from "node:timers/promises";
import { codecsOf, type ExpertIndex } from "./store.ts";

/** Hashed in one go, 2 to 10 ms; a unit of a large model has hundreds of them, and the thread has pings to answer. */
const hashSliceBytes = 4 * 1024 * 1024;

export const sha256Hex = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** The digest that sha256Hex gives, with a turn of the event loop between slices. */
export async function sha256InSlices(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256");
  for (let from = 0; from < bytes.length; from += hashSliceBytes) {
    if (from > 0) await yieldLoop();
    hash.update(bytes.subarray(from, from + hashSliceBytes));
  }
  return hash.digest("hex");
}

type Hashed = Pick<ExpertIndex, "dense" | "denseForms" | "codecs">;

/** The digest of a model, over config.json's text, the dense tensors' hashes and every unit hash, in order, and the forms they are in. */
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
