// The identity of prefixes, at every rank that computes the same bits.
import { hash } from "node:crypto";
import { type PrefixId, reuseTokensMin } from "../schedule/prefixes.ts";

/** Hexadecimal digits: 128 bits of SHA-256, so that nobody finds a text with another's identity. */
const idDigits = 32;
const rootBytes = 32;

/** The start of a chain whose prefixes only texts with the same salt share; undefined without one. */
export const saltedStart = (salt: string): string | undefined =>
  salt === "" ? undefined : hash("sha256", `salt ${salt}`).slice(0, idDigits);

/** `of`: everything beside tokens that keys and values depend on. */
export function prefixIds(...of: readonly string[]): PrefixId {
  const tokensAt = rootBytes + idDigits;
  const bytes = Buffer.alloc(tokensAt + reuseTokensMin * Uint32Array.BYTES_PER_ELEMENT);
  bytes.write(hash("sha256", JSON.stringify(of)), "hex");
  return (before, tokens) => {
    bytes.write(before.padEnd(idDigits), rootBytes, "latin1");
    bytes.set(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength), tokensAt);
    return hash("sha256", bytes).slice(0, idDigits);
  };
}
