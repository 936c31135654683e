// `enodia model import`: any supported source to a model store, or a dense Llama to a folder for `upcycle`.
import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AppError } from "../../crds/common.ts";
import { knownArchitectures } from "../models/index.ts";
import { llamaArchitecture } from "../models/llama.ts";
import { checkTarget } from "../weights/model-folder.ts";
import { readConfig } from "../weights/store-reader.ts";
import type { Log } from "./companions.ts";
import { importDenseFolder } from "./import-dense.ts";
import { importGguf } from "./import-gguf.ts";
import { importMoe } from "./import-moe.ts";
import { codecsWritten, type ImportOptions, type ImportResult } from "./import-options.ts";
import { architectureIn, noDense } from "./model-config.ts";
import { fetchSource, isRemote, localSource, sourceName } from "./sources.ts";

async function importFolder(from: string, out: string, options: ImportOptions, log: Log): Promise<ImportResult> {
  const config = await readConfig(from, "ModelNotFound");
  const architecture = architectureIn(from, config);
  if (options.folder) {
    if (architecture !== llamaArchitecture) throw noDense(from, architecture);
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
