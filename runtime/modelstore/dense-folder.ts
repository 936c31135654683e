// Writes a dense model as a Hugging Face folder.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type FolderTarget, writeFolder } from "../weights/model-folder.ts";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-writer.ts";

interface DenseModel {
  readonly config: unknown;
  /** Additional files: name in the folder to path. */
  readonly files: ReadonlyMap<string, string>;
  readonly tensors: readonly TensorToWrite[];
}

export function writeDenseFolder({ config, files, tensors }: DenseModel, target: FolderTarget): Promise<void> {
  return writeFolder(target, async (work) => {
    await writeFile(join(work, "config.json"), `${JSON.stringify(config, undefined, 2)}\n`);
    for (const [name, path] of files) await copyFile(path, join(work, name));
    await writeSafetensors(join(work, "model.safetensors"), tensors);
  });
}
