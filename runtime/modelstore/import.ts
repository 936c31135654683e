// `enodia model import`: any supported source to a model store, or a dense Llama to a folder for `upcycle`.
import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AppError } from "../../crds/common.ts";
import { denseWeights } from "../models/family.ts";
import { knownArchitectures } from "../models/index.ts";
import { llamaArchitecture, llamaProgram } from "../models/llama.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { bytesOf } from "../weights/floats.ts";
import { checkTarget } from "../weights/model-folder.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import { readConfig } from "../weights/store-reader.ts";
import { checkDense } from "./check-tensors.ts";
import { companionFiles, type Log } from "./companions.ts";
import { writeDenseFolder } from "./dense-folder.ts";
import { importGguf } from "./import-gguf.ts";
import { importMoe } from "./import-moe.ts";
import { codecsWritten, type ImportOptions, type ImportResult } from "./import-options.ts";
import { architectureIn, inFolder, noDense, unquantized } from "./model-config.ts";
import { fetchSource, isRemote, localSource, sourceName } from "./sources.ts";

async function importFolder(from: string, out: string, options: ImportOptions, log: Log): Promise<ImportResult> {
  const config = await readConfig(from, "ModelNotFound");
  const architecture = architectureIn(from, config);
  if (options.folder) {
    if (architecture !== llamaArchitecture) throw noDense(from, architecture, "imported with --folder");
    await importDenseFolder(from, out, options.overwrite, log);
    return { out, kind: "dense", architecture };
  }
  if (knownArchitectures.includes(architecture)) {
    const index = await importMoe({ from, out, codecs: options.codecs ?? codecsWritten.folder, overwrite: options.overwrite }, log);
    return { out, kind: "store", architecture, modelDigest: index.modelDigest };
  }
  throw new AppError(`${from}: architecture ${architecture} is not supported; supported are ${knownArchitectures.join(", ")}`, {
    code: "UnknownArchitecture",
  });
}

export async function importModel(options: ImportOptions, log: Log): Promise<ImportResult> {
  const out = resolve(options.out ?? join(options.cache, "models", sourceName(options.source)));
  const sources = isRemote(options.source) ? [] : [localSource(options.source)];
  await checkTarget({ dir: out, overwrite: options.overwrite, sources }); // before a download
  const path = await fetchSource(options.source, { cache: options.cache, secrets: options.secrets }, log);
  if ((await stat(path)).isDirectory()) return importFolder(path, out, options, log);
  return importGguf(path, out, options, log);
}

async function importDenseFolder(from: string, out: string, overwrite: boolean, log: Log): Promise<void> {
  const config = await readConfig(from, "BadModelConfig");
  const program = inFolder(from, () => llamaProgram(config));
  const checkpoint = await openCheckpoint(from);
  try {
    await checkDense(checkpoint, config, program);
    const tensors = denseWeights(program).map(({ name, shape }): TensorToWrite => {
      return { name, dtype: "F32", shape, read: async () => bytesOf(await checkpoint.read(name)) };
    });
    const files = await companionFiles(from);
    log(`importing dense model: ${program.layers} layers, hidden ${program.hidden}`);
    await writeDenseFolder({ config: unquantized(config), files, tensors }, { dir: out, overwrite, sources: [from] });
  } finally {
    await checkpoint.close();
  }
}
