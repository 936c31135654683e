// Split GGUF models, as llama.cpp writes them: file names, and checks that the files belong together.
import { AppError } from "../../crds/common.ts";
import { badGguf, type GgufValue } from "./gguf-header.ts";

/** Bounds what a header may claim. */
const splitFilesMax = 512;

const splitName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

function count(path: string, metadata: ReadonlyMap<string, GgufValue>, key: string, most: number): number {
  const value = metadata.get(key) ?? 0;
  const number = typeof value === "bigint" ? Number(value) : value;
  if (typeof number === "number" && Number.isInteger(number) && number >= 0 && number <= most) return number;
  throw badGguf(path, `${key} is ${String(value)}, not a whole number of at most ${most}`);
}

/** Throws unless `path` is the first file; the result is in order. */
export function splitFiles(path: string, metadata: ReadonlyMap<string, GgufValue>): readonly string[] {
  const files = count(path, metadata, "split.count", splitFilesMax);
  if (files <= 1) return [path];
  const match = splitName.exec(path);
  if (!match || Number(match[3]) !== files) {
    throw new AppError(
      `${path}: is one of ${files} files, which are called NAME-00001-of-${five(files)}.gguf; give them these names again`,
      {
        code: "BadGguf",
      },
    );
  }
  const name = (index: number): string => `${match[1]}-${five(index + 1)}-of-${five(files)}.gguf`;
  if (count(path, metadata, "split.no", splitFilesMax) !== 0 || Number(match[2]) !== 1)
    throw new AppError(`${path}: is not the first of ${files} files; give ${name(0)}`, { code: "BadGguf" });
  return Array.from({ length: files }, (_, index) => name(index));
}

const five = (index: number): string => String(index).padStart(5, "0");

export function checkPart(path: string, metadata: ReadonlyMap<string, GgufValue>, index: number, files: number): void {
  const [no, of] = [count(path, metadata, "split.no", splitFilesMax), count(path, metadata, "split.count", splitFilesMax)];
  if (no !== index || of !== files)
    throw badGguf(path, `says that it is part ${no + 1} of ${of}, where part ${index + 1} of ${files} is expected`);
}

/** Throws when tensors that the first file announces are missing. */
export function checkTensors(path: string, metadata: ReadonlyMap<string, GgufValue>, found: number): void {
  if (!metadata.has("split.tensors.count")) return;
  const announced = count(path, metadata, "split.tensors.count", Number.MAX_SAFE_INTEGER);
  if (announced !== found) throw badGguf(path, `announces ${announced} tensors in all files, ${found} are there`);
}
