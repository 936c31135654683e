// The files of a store that a weight server gives to a rank: names, bounds and checks. Pure.
import { AppError } from "../../crds/common.ts";
import type { ListStoreReply } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "./mapping.ts";
import { type TextFile, textFileNames } from "./text-files.ts";

/** A store needs all of these. */
const neededFiles: readonly string[] = ["config.json", "dense.safetensors", "expert-index.json"];
/** Sorted. */
export const storeFileNames: readonly string[] = [...new Set([...neededFiles, ...textFileNames])].sort();

const denseBytesMax = 2 ** 40;
const otherBytesMax = 64 * 1024 * 1024;

const sha256Pattern = /^[0-9a-f]{64}$/;

export interface StoreList {
  readonly modelDigest: string;
  readonly files: readonly TextFile[];
}

/** Throws `InvalidRequest`: a weight server must not choose paths or sizes. */
export function fromStoreList({ modelDigest, files }: ListStoreReply): StoreList {
  if (!sha256Pattern.test(modelDigest)) throw invalid("model_digest", "is no SHA-256");
  const seen: TextFile[] = [];
  let before = -1;
  for (const [i, { name, bytes, sha256 }] of files.entries()) {
    const at = storeFileNames.indexOf(name);
    if (at <= before) throw invalid(`files[${i}].name`, `${JSON.stringify(name.slice(0, 64))} is none of them, or out of order`);
    before = at;
    if (!sha256Pattern.test(sha256)) throw invalid(`files[${i}].sha256`, "is no SHA-256");
    seen.push({ name, bytes: toNumber(bytes, `files[${i}].bytes`), sha256 });
  }
  const fault = storeFault(seen);
  if (fault !== undefined) throw invalid("files", fault);
  return { modelDigest, files: seen };
}

/** Undefined for a valid store. */
export function storeFault(files: readonly TextFile[]): string | undefined {
  const missing = neededFiles.find((name) => !files.some((file) => file.name === name));
  if (missing !== undefined) return `${missing} is missing`;
  const large = files.find(({ name, bytes }) => bytes > (name === "dense.safetensors" ? denseBytesMax : otherBytesMax));
  return large && `${large.name} has ${large.bytes} bytes, more than is allowed`;
}

const invalid = (field: string, what: string): AppError =>
  new AppError(`${field}: ${what}`, { code: "InvalidRequest", operation: "listing the files of a store" });
