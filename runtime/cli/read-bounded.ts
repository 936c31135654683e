// Reads a file of text that a person named, up to a size.
import { readFile, stat } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";

const fileBytesMax = 16 * 2 ** 20;

/** Throws AppError `BadOption` that names the file. */
export async function readBounded(file: string): Promise<string> {
  const { size } = await stat(file).catch((caught) => {
    throw new AppError(`${file}: ${caught instanceof Error ? caught.message : caught}`, { code: "BadOption" });
  });
  if (size > fileBytesMax)
    throw new AppError(`${file}: has ${size} bytes, more than ${fileBytesMax}; take a part of it`, { code: "BadOption" });
  return readFile(file, "utf8");
}
