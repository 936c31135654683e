// The files that pods give to each other whole: text files to gateways, and a store but its experts to ranks. Names, bounds, digests. Pure.
import { createHash } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import type { FileList } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "./mapping.ts";

export interface FileEntry {
  readonly name: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** `files` are sorted by name; `digest` is of text files their own, of a store its model's. */
export interface ListedFiles {
  readonly digest: string;
  readonly files: readonly FileEntry[];
}

export interface FileKind {
  /** Sorted. */
  readonly names: readonly string[];
  /** Undefined for acceptable files. */
  fault(files: readonly FileEntry[]): string | undefined;
  isDigest(digest: string, files: readonly FileEntry[]): boolean;
}

const mebibyte = 1024 * 1024;
/** The limit of one file and of all: a gateway stores them in /tmp. */
export const textFileBytesMax = 64 * mebibyte;
export const textBytesMax = 96 * mebibyte;
const denseBytesMax = 2 ** 40;
const sha256Pattern = /^[0-9a-f]{64}$/;

/** A folder need not have all of them. */
export const textFiles: FileKind = {
  names: ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"],
  fault(files) {
    const all = files.reduce((sum, { bytes }) => sum + bytes, 0);
    return largeFault(files) ?? (all > textBytesMax ? `they have ${all} bytes, more than the ${textBytesMax} allowed` : undefined);
  },
  isDigest: (digest, files) => digest === textDigest(files),
};

const neededFiles: readonly string[] = ["config.json", "dense.safetensors", "expert-index.json"];
export const storeFiles: FileKind = {
  names: [...new Set([...neededFiles, ...textFiles.names])].sort(),
  fault(files) {
    const missing = neededFiles.find((name) => !files.some((file) => file.name === name));
    return missing === undefined ? largeFault(files) : `${missing} is missing`;
  },
  isDigest: (digest) => sha256Pattern.test(digest),
};

function largeFault(files: readonly FileEntry[]): string | undefined {
  const mostOf = (name: string) => (name === "dense.safetensors" ? denseBytesMax : textFileBytesMax);
  const large = files.find(({ name, bytes }) => bytes > mostOf(name));
  return large && `${large.name} has ${large.bytes} bytes, more than the ${mostOf(large.name)} allowed`;
}

/** `files` must be in the order of names. */
export function textDigest(files: readonly FileEntry[]): string {
  const hash = createHash("sha256");
  for (const { name, sha256 } of files) hash.update(`${name} ${sha256}\n`);
  return hash.digest("hex");
}

/** Throws `InvalidRequest` for other names, sizes or digests: who gives files must not choose paths or sizes. */
export function fromFileList({ digest, files }: FileList, kind: FileKind): ListedFiles {
  const seen: FileEntry[] = [];
  let before = -1;
  for (const [i, { name, bytes, sha256 }] of files.entries()) {
    const at = kind.names.indexOf(name);
    if (at <= before) throw invalid(`files[${i}].name`, `${JSON.stringify(name.slice(0, 64))} is none of them, or out of order`);
    before = at;
    if (!sha256Pattern.test(sha256)) throw invalid(`files[${i}].sha256`, "is no SHA-256");
    seen.push({ name, bytes: toNumber(bytes, `files[${i}].bytes`), sha256 });
  }
  const fault = kind.fault(seen);
  if (fault !== undefined) throw invalid("files", fault);
  if (!kind.isDigest(digest, seen)) throw invalid("digest", "is not that of the files");
  return { digest, files: seen };
}

const invalid = (field: string, what: string): AppError =>
  new AppError(`${field}: ${what}`, { code: "InvalidRequest", operation: "listing files" });
