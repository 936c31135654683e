// The tokenizer and template files that a rank gives to a gateway: names, bounds and digest. Pure.
import { createHash } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import type { ListTextReply } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "./mapping.ts";

/** A folder need not have all of them. */
export const textFileNames: readonly string[] = [
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
];

/** The limit of one file and of all: a gateway stores them in /tmp. */
export const textFileBytesMax = 64 * 1024 * 1024;
export const textBytesMax = 96 * 1024 * 1024;
export const textChunkBytesMax = 1024 * 1024;

export interface TextFile {
  readonly name: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

const sha256Pattern = /^[0-9a-f]{64}$/;

/** `files` must be in the order of names. */
export function textDigest(files: readonly TextFile[]): string {
  const hash = createHash("sha256");
  for (const { name, sha256 } of files) hash.update(`${name} ${sha256}\n`);
  return hash.digest("hex");
}

/** Throws `InvalidRequest` for other names or sizes. */
export function fromTextList({ digest, files }: ListTextReply): readonly TextFile[] {
  const seen: TextFile[] = [];
  let before = -1;
  for (const [i, { name, bytes, sha256 }] of files.entries()) {
    const at = textFileNames.indexOf(name);
    if (at <= before) throw invalid(`files[${i}].name`, `${JSON.stringify(name.slice(0, 64))} is none of them, or out of order`);
    before = at;
    if (!sha256Pattern.test(sha256)) throw invalid(`files[${i}].sha256`, "is no SHA-256");
    seen.push({ name, bytes: toNumber(bytes, `files[${i}].bytes`), sha256 });
  }
  const fault = sizeFault(seen);
  if (fault !== undefined) throw invalid("files", fault);
  if (textDigest(seen) !== digest) throw invalid("digest", "is not that of the files");
  return seen;
}

/** Undefined when the sizes are acceptable. */
export function sizeFault(files: readonly TextFile[]): string | undefined {
  const large = files.find(({ bytes }) => bytes > textFileBytesMax);
  if (large) return `${large.name} has ${large.bytes} bytes, more than the ${textFileBytesMax} allowed`;
  const all = files.reduce((sum, { bytes }) => sum + bytes, 0);
  return all > textBytesMax ? `they have ${all} bytes, more than the ${textBytesMax} allowed` : undefined;
}

const invalid = (field: string, what: string): AppError =>
  new AppError(`${field}: ${what}`, { code: "InvalidRequest", operation: "listing text files" });
