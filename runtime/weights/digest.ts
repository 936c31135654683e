// Hashes of a model store.
import { createHash, webcrypto } from "node:crypto";
import { codecsOf, type ExpertIndex } from "./store.ts";

export const sha256Hex = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Less is hashed in a fraction of a millisecond. */
const apartFromBytes = 256 * 2 ** 10;

/** sha256Hex; of much, on a copy and a thread of libuv's pool: several at a time, while this thread answers pings. */
export async function sha256Apart(bytes: Uint8Array): Promise<string> {
  if (bytes.byteLength < apartFromBytes) return sha256Hex(bytes);
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toString("hex");
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
