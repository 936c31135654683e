// The identity of prefixes, at every rank that computes the same bits, and at gateways.
import { hash } from "node:crypto";
import { movedKv } from "../../crds/common.ts";

/** Hexadecimal digits: 128 bits of SHA-256, so that nobody finds a text with another's identity. */
const idDigits = 32;
export const rootBytes = 32;

/** As of schedule/prefixes.ts. */
type IdOf = (before: string, tokens: Uint32Array) => string;

/** The start of a chain whose prefixes only texts with the same salt share; undefined without one. */
export const saltedStart = (salt: string): string | undefined =>
  salt === "" ? undefined : hash("sha256", `salt ${salt}`).slice(0, idDigits);

/** What all chains begin with; `of`: everything beside tokens that keys and values depend on. */
export const prefixRoot = (...of: readonly string[]): Buffer => hash("sha256", JSON.stringify(of), "buffer");

export const prefixIds = (...of: readonly string[]): IdOf => idsFrom(prefixRoot(...of));

function idsFrom(root: Uint8Array): IdOf {
  const tokensAt = rootBytes + idDigits;
  const bytes = Buffer.alloc(tokensAt + movedKv.step * Uint32Array.BYTES_PER_ELEMENT);
  bytes.set(root);
  return (before, tokens) => {
    bytes.write(before.padEnd(idDigits), rootBytes, "latin1");
    bytes.set(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength), tokensAt);
    return hash("sha256", bytes).slice(0, idDigits);
  };
}

interface Chain {
  readonly root: Uint8Array;
  readonly salt: string;
}

/** The ids of a text's whole blocks (movedKv.tokens), of its first `blocksMax` ones. */
export function blockIds(tokens: ArrayLike<number>, { root, salt }: Chain, blocksMax: number): string[] {
  const idOf = idsFrom(root);
  const block = new Uint32Array(movedKv.step);
  const ids: string[] = [];
  let id = saltedStart(salt) ?? "";
  const end = Math.min(blocksMax, Math.floor(tokens.length / movedKv.tokens)) * movedKv.tokens;
  for (let from = 0; from < end; from += movedKv.step) {
    for (let i = 0; i < movedKv.step; i++) block[i] = tokens[from + i] as number;
    id = idOf(id, block);
    if ((from + movedKv.step) % movedKv.tokens === 0) ids.push(id);
  }
  return ids;
}

export const packIds = (ids: readonly string[]): Uint8Array => Buffer.from(ids.join(""), "hex");

/** What is left over is none. */
export function unpackIds(bytes: Uint8Array): string[] {
  const digits = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
  return Array.from({ length: Math.floor(digits.length / idDigits) }, (_, i) => digits.slice(i * idDigits, (i + 1) * idDigits));
}
