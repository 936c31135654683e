// Dense Llama models to a Hugging Face folder in f32: what `upcycle` reads, and what the dense-equality test serves as its oracle.
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { denseWeights } from "../models/family.ts";
import { type DenseProgram, llamaArchitecture, llamaProgram } from "../models/llama.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { bytesOf } from "../weights/floats.ts";
import { type GgufFile, openGguf } from "../weights/gguf.ts";
import { writeFolder } from "../weights/model-folder.ts";
import { type TensorToWrite, writeSafetensors } from "../weights/safetensors-writer.ts";
import { readConfig } from "../weights/store-reader.ts";
import { companionFiles, type Log } from "./files.ts";
import { huggingFaceName, llamaConfig, undoRotaryPermutation } from "./gguf-llama.ts";
import { tokenizerFromGguf } from "./gguf-tokenizer.ts";
import { inFolder } from "./model-config.ts";
import { checkShape, checkTiedHead, refuseUnknown } from "./tensors.ts";

/** A safetensors folder: checked and normalised to f32 under our own names. */
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

function ggufTensors(file: GgufFile, program: DenseProgram): readonly TensorToWrite[] {
  const names = new Map<string, string>();
  for (const name of file.names) {
    const mapped = huggingFaceName(name);
    if (!mapped)
      throw new AppError(`${file.path}: tensor "${name}" belongs to no part of a plain Llama model`, { code: "UnsupportedModel" });
    names.set(mapped, name);
  }
  const weights = denseWeights(program);
  const known = new Set(weights.map(({ name }) => name));
  const beyond = [...names].find(([mapped]) => !known.has(mapped));
  if (beyond)
    throw new AppError(
      `${file.path}: llama.block_count is ${program.layers}, and tensor "${beyond[1]}" lies beyond; download or convert the file again`,
      { code: "BadGguf" },
    );
  return weights.map(({ name, shape }) => {
    const source = names.get(name) ?? name;
    checkShape(file.path, source, file.shape(source), shape);
    const heads = name.endsWith("q_proj.weight") ? program.heads : name.endsWith("k_proj.weight") ? program.kvHeads : undefined;
    const read = async () => {
      const data = await file.read(source);
      return bytesOf(heads === undefined ? data : undoRotaryPermutation(data, heads, shape[0] as number, shape[1] as number));
    };
    return { name, dtype: "F32", shape, read };
  });
}

/** A GGUF file: weights dequantised, rotary rows put back into Hugging Face's order, tokenizer rebuilt. */
export async function importGguf(path: string, out: string, overwrite: boolean, log: Log): Promise<void> {
  const file = await openGguf(path);
  try {
    const tokenizer = inFolder(path, () => tokenizerFromGguf(file.metadata, path));
    const embedding = file.shape("token_embd.weight");
    const vocab = embedding?.[0] ?? tokenizer.vocabulary;
    const raw = inFolder(path, () => llamaConfig(file.metadata, path, !file.names.includes("output.weight"), vocab));
    const program = inFolder(path, () => llamaProgram(raw));
    if (tokenizer.vocabulary > vocab)
      throw new AppError(`${path}: ${tokenizer.vocabulary} tokens but ${vocab} embeddings`, { code: "BadTokenizer" });
    const tensors = ggufTensors(file, program);
    log(`importing GGUF (${file.formats.join(", ")}): ${program.layers} layers, hidden ${program.hidden}, vocabulary ${vocab}`);
    await writeFolder({ dir: out, overwrite, sources: [path] }, async (work) => {
      const json = (name: string, value: unknown) =>
        writeFile(join(work, name), `${JSON.stringify(value, undefined, name === "tokenizer.json" ? 0 : 2)}\n`);
      await json("config.json", raw);
      await json("generation_config.json", {
        bos_token_id: raw.bos_token_id,
        eos_token_id: raw.eos_token_id,
        pad_token_id: raw.pad_token_id,
      });
      await json("tokenizer.json", tokenizer.tokenizer);
      await json("tokenizer_config.json", tokenizer.tokenizerConfig);
      await loadTokenizer(work); // what was rebuilt must serve the model as one from a folder must
      await writeSafetensors(join(work, "model.safetensors"), tensors);
    });
  } finally {
    await file.close();
  }
}
