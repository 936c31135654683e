// The common parts of fuzzers of model files: a file in memory that gives no more than it has, and the codes by which files are refused.
import assert from "node:assert/strict";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";

export const golden = join(import.meta.dirname, "../../golden");

/** Each names the file, and what is wrong with it. */
export const fileRefusals = [
  ...["BadGguf", "BadModelConfig", "BadModelIndex", "BadSafetensors", "BadTensor", "BadTokenizer", "CodecNotFound", "CorruptShard"],
  ...["ExpertNotFound", "InvalidArgument", "InvalidModelConfig", "MissingTensor", "ModelNotFound", "ShapeMismatch", "TooShort"],
  ...["UnknownArchitecture", "UnsupportedDtype", "UnsupportedModel", "UnsupportedTokenizer", "UnusableWeight"],
];

/** Opens bytes in place of a file. No reader may ask for more than the file has, whatever it says of itself. */
export function memoryFile(bytes: Buffer) {
  return async (path: string) => ({
    path,
    size: bytes.length,
    async read(position: number, length: number) {
      assert.ok(length <= bytes.length, `${length} bytes asked of ${bytes.length}`);
      if (position + length > bytes.length) throw new AppError(`${path}: too short`, { code: "TooShort" });
      return new Uint8Array(bytes.subarray(position, position + length));
    },
    close: async () => undefined,
  });
}
