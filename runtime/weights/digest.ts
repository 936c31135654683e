// Hashes of a model store.
import { createHash, webcrypto } from "node:crypto";
import { setImmediate as yieldLoop } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { codecsOf, type ExpertIndex } from "./store.ts";

export const sha256Hex = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Less is hashed in a fraction of a millisecond. */
const apartFromBytes = 256 * 2 ** 10;

/** More is not copied, which would hold this thread up: it is hashed here, in slices of a few milliseconds. */
const apartMostBytes = 16 * 2 ** 20;
const sliceBytes = 4 * 2 ** 20;

/** sha256Hex; of much, on a copy and a thread of libuv's pool: several at a time, while this thread answers pings. */
export async function sha256Apart(bytes: Uint8Array): Promise<string> {
  if (bytes.byteLength < apartFromBytes) return sha256Hex(bytes);
  if (bytes.byteLength > apartMostBytes) return sha256InSlices(bytes);
  return Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)).toString("hex");
}

/** Bytes that matched their hash once are compared with a sum of 32 bits afterwards (DECISIONS.md 5). */
export function matchesAgain(): (bytes: Uint8Array, sha256: string) => Promise<boolean> {
  const sums = new Map<string, number>();
  return async (bytes, sha256) => {
    const sum = sums.get(sha256);
    if (sum !== undefined) return (await crcInSlices(bytes)) === sum;
    const matches = (await sha256Apart(bytes)) === sha256;
    if (matches) sums.set(sha256, await crcInSlices(bytes));
    return matches;
  };
}

async function crcInSlices(bytes: Uint8Array): Promise<number> {
  let sum = 0;
  for (let from = 0; from < bytes.length; from += sliceBytes) {
    if (from > 0) await yieldLoop();
    sum = crc32(bytes.subarray(from, from + sliceBytes), sum);
  }
  return sum;
}

async function sha256InSlices(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256");
  for (let from = 0; from < bytes.length; from += sliceBytes) {
    if (from > 0) await yieldLoop();
    hash.update(bytes.subarray(from, from + sliceBytes));
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
