// Imports dense Llamas to a Hugging Face folder in f32, for `upcycle` and the dense-equality test.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { denseWeights } from "../models/family.ts";
import { llamaArchitecture, llamaProgram } from "../models/llama.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { bytesOf } from "../weights/floats.ts";
import { writeFolder } from "../weights/model-folder.ts";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-writer.ts";
import { readConfig } from "../weights/store-reader.ts";
import { checkShape, checkTiedHead, refuseUnknown } from "./check-tensors.ts";
import { companionFiles, type Log } from "./companions.ts";
import { inFolder } from "./model-config.ts";

export async function importDenseFolder(from: string, out: string, overwrite: boolean, log: Log): Promise<void> {
  const config = await readConfig(from, "BadModelConfig");
  const program = inFolder(from, () => llamaProgram(config));
  const checkpoint = await openCheckpoint(from);
  try {
    const weights = denseWeights(program);
    const known = new Set(weights.map(({ name }) => name));
    refuseUnknown(from, checkpoint.names, known, llamaArchitecture);
    await checkTiedHead(checkpoint, known);
    const tensors = weights.map(({ name, shape }): TensorToWrite => {
      checkShape(from, name, checkpoint.shape(name), shape);
      return { name, dtype: "F32", shape, read: async () => bytesOf(await checkpoint.read(name)) };
    });
    const files = await companionFiles(from);
    log(`importing dense model: ${program.layers} layers, hidden ${program.hidden}`);
    await writeFolder({ dir: out, overwrite, sources: [from] }, async (work) => {
      await writeFile(join(work, "config.json"), `${JSON.stringify(config, undefined, 2)}\n`);
      for (const [name, path] of files) await copyFile(path, join(work, name));
      await writeSafetensors(join(work, "model.safetensors"), tensors);
    });
  } finally {
    await checkpoint.close();
  }
}
