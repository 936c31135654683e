// Imports a GGUF to a store, or a dense Llama to an f32 folder for `upcycle`. The tokenizer is rebuilt from metadata and must load
// (DECISIONS.md 3).
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { denseWeights } from "../models/family.ts";
import { llamaArchitecture, llamaProgram } from "../models/llama.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { openGguf } from "../weights/gguf.ts";
import type { TensorToWrite } from "../weights/safetensors-writer.ts";
import { checkShape } from "./check-tensors.ts";
import type { Log } from "./companions.ts";
import { writeDenseFolder } from "./dense-folder.ts";
import { type GgufCheckpoint, ggufCheckpoint } from "./gguf/checkpoint.ts";
import { type GgufModel, ggufModel } from "./gguf/index.ts";
import { type TokenizerFiles, tokenizerFromGguf } from "./gguf/tokenizer.ts";
import { storeModel } from "./import-moe.ts";
import { codecsWritten, type ImportOptions, type ImportResult } from "./import-options.ts";
import { architectureIn, inFolder, noDense } from "./model-config.ts";

type Config = GgufModel["config"];

/** Writes config.json and the other files; returns name to path of the latter. */
async function writeCompanions(folder: string, config: Config, tokenizer: TokenizerFiles): Promise<ReadonlyMap<string, string>> {
  const { bos_token_id, eos_token_id, pad_token_id } = config;
  const contents: Readonly<Record<string, unknown>> = {
    "generation_config.json": { bos_token_id, eos_token_id, pad_token_id },
    "tokenizer.json": tokenizer.tokenizer,
    "tokenizer_config.json": tokenizer.tokenizerConfig,
  };
  await writeFile(join(folder, "config.json"), `${JSON.stringify(config, undefined, 2)}\n`);
  const files = new Map<string, string>();
  for (const [name, value] of Object.entries(contents)) {
    const path = join(folder, name);
    await writeFile(path, `${JSON.stringify(value, undefined, name === "tokenizer.json" ? 0 : 2)}\n`);
    files.set(name, path);
  }
  return files;
}

function denseTensors(checkpoint: GgufCheckpoint, config: Config): readonly TensorToWrite[] {
  const program = inFolder(checkpoint.dir, () => llamaProgram(config));
  const weights = denseWeights(program);
  const known = new Set(weights.map(({ name }) => name));
  const strange = checkpoint.names.find((name) => !known.has(name));
  if (strange !== undefined) {
    throw new AppError(`${checkpoint.dir}: tensor "${checkpoint.storedName(strange)}" belongs to no part of a plain Llama model`, {
      code: "UnsupportedModel",
    });
  }
  return weights.map(({ name, shape }) => {
    checkShape(checkpoint.dir, checkpoint.storedName(name), checkpoint.shape(name), shape);
    return { name, dtype: "F32", shape, read: () => checkpoint.floats(name) };
  });
}

interface Opened {
  readonly config: Config;
  readonly checkpoint: GgufCheckpoint;
  readonly files: ReadonlyMap<string, string>;
  readonly path: string;
}

async function writeDense({ config, checkpoint, files, path }: Opened, out: string, overwrite: boolean): Promise<void> {
  const tensors = denseTensors(checkpoint, config);
  await writeDenseFolder({ config, files, tensors }, { dir: out, overwrite, sources: [path] });
}

async function importOpened(opened: Opened, out: string, options: ImportOptions, log: Log): Promise<ImportResult> {
  const { config, checkpoint, files, path } = opened;
  const architecture = architectureIn(path, config);
  if (options.folder) {
    if (architecture !== llamaArchitecture) throw noDense(path, architecture, "imported with --folder");
    await writeDense(opened, out, options.overwrite);
    return { out, kind: "dense", architecture };
  }
  const { codecs = codecsWritten.gguf, overwrite } = options;
  const index = await storeModel({ out, codecs, overwrite, sources: [path], config, checkpoint, files }, log);
  return { out, kind: "store", architecture, modelDigest: index.modelDigest };
}

export async function importGguf(path: string, out: string, options: ImportOptions, log: Log): Promise<ImportResult> {
  const file = await openGguf(path);
  const scratch = await mkdtemp(join(tmpdir(), "enodia-import-"));
  try {
    const tokenizer = inFolder(path, () => tokenizerFromGguf(file.metadata, path));
    const model = ggufModel(file, tokenizer.vocabulary);
    const checkpoint = ggufCheckpoint(file, model);
    const vocab = Number(model.config.vocab_size);
    if (tokenizer.vocabulary > vocab)
      throw new AppError(`${path}: ${tokenizer.vocabulary} tokens but ${vocab} embeddings`, { code: "BadTokenizer" });
    log(`importing GGUF (${file.formats.join(", ")}): ${file.names.length} tensors, vocabulary ${vocab}`);
    const files = await writeCompanions(scratch, model.config, tokenizer);
    await loadTokenizer(scratch); // a rebuilt tokenizer must serve the model, too
    return await importOpened({ config: model.config, checkpoint, files, path }, out, options, log);
  } finally {
    await rm(scratch, { recursive: true, force: true });
    await file.close();
  }
}
