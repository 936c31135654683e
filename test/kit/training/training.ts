// Models and token data for tests of training: the tiny golden model, and corpora of given ids.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { uniform } from "../../../runtime/kernels/random.ts";
import type { TrainSettings } from "../../../runtime/train/loop/train-settings.ts";
import { tokenizerDigest } from "../../../runtime/train/model/model-source.ts";
import { parseRecipes } from "../../../runtime/train/recipes/index.ts";

const golden = join(import.meta.dirname, "../../golden");
const dir = join(golden, "tiny-f32");

export const tinyModel = { dir, vocab: (JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as { vocab_size: number }).vocab_size };

/** A short run on the tiny model at a constant rate, without decay. */
export const runSettings = {
  model: tinyModel.dir,
  init: "random",
  seed: 1,
  validation: undefined,
  sequences: 4,
  sequenceLength: 16,
  microBatches: 2,
  schedule: { name: "constant", rate: 1e-3, warmup: 0, steps: 2, floor: 0 },
  optimizer: { name: "adamw", values: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0 } },
  clip: 1,
  checkpoint: { everySteps: 1, keep: 2 },
  codecs: ["f32"],
  threads: 1,
} as const satisfies Partial<TrainSettings>;

/** A folder with the config.json of a golden family, changed, and the tiny model's tokenizer: a model whose weights are to be drawn. */
export function writeModel(folder: string, family: string, changed: Readonly<Record<string, unknown>>): string {
  mkdirSync(folder, { recursive: true });
  cpSync(join(dir, "tokenizer.json"), join(folder, "tokenizer.json"));
  const config = JSON.parse(readFileSync(join(golden, "families", family, "config.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, ...changed }));
  return folder;
}

/** Six steps on a small DeepSeek-V3 with a loss and a bias of balance, all of which ranks have to agree on; writes model and data. */
export async function balancedRun(folder: string): Promise<Omit<TrainSettings, "out">> {
  const data = join(folder, "data");
  await writeCorpus(data, chainedTokens(400, 1));
  const small = { n_group: 1, topk_group: 1, num_experts_per_tok: 2, initializer_range: 0.1 };
  return {
    ...runSettings,
    model: writeModel(join(folder, "model"), "deepseek-v3", small),
    data,
    sequences: 8,
    microBatches: 4,
    recipes: parseRecipes({ balance: "bias:0.01,switch:0.01" }),
    schedule: { ...runSettings.schedule, rate: 3e-3, steps: 6 },
  };
}

/** Tokens of which each follows from the one before, but for two bits. */
export function chainedTokens(tokens: number, seed: number): number[] {
  const draw = uniform(seed);
  const stream = [0];
  while (stream.length < tokens) stream.push(((stream.at(-1) ?? 0) * 5 + Math.floor(draw() * 4)) % tinyModel.vocab);
  return stream;
}

/** Runs of 64 tokens, each of which multiplies by one of these numbers from token to token, but for two bits: tasks of several parts. */
export function chainsOf(multipliers: readonly number[], tokens: number, seed: number): number[] {
  const draw = uniform(seed);
  const below = (count: number): number => Math.floor(draw() * count);
  const stream: number[] = [];
  while (stream.length < tokens) {
    const multiplier = multipliers[below(multipliers.length)] as number;
    let token = below(tinyModel.vocab);
    for (let i = 0; i < 64; i++, token = (token * multiplier + below(4)) % tinyModel.vocab) stream.push(token);
  }
  return stream.slice(0, tokens);
}

/** Runs of 64 tokens, nine of ten of which repeat the one that is one of these numbers of places before, the same in a run; each number has
 *  twelve tokens of its own. Tasks of several parts that differ in where one has to look. */
export function echoesOf(distances: readonly number[], tokens: number, seed: number): number[] {
  const draw = uniform(seed);
  const below = (count: number): number => Math.floor(draw() * count);
  const stream: number[] = [];
  while (stream.length < tokens) {
    const distance = distances[below(distances.length)] as number;
    const run: number[] = [];
    while (run.length < 64) run.push((draw() < 0.9 ? run.at(-distance) : undefined) ?? 12 * distance + below(12));
    stream.push(...run);
  }
  return stream.slice(0, tokens);
}

/** Token data as `enodia data import` writes it; `documents` are the tokens at which each begins. */
export async function writeCorpus(folder: string, ids: readonly number[], documents: readonly number[] = [0]): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const tokens = Buffer.from(Uint16Array.from(ids).buffer);
  const offsets = Buffer.from(BigUint64Array.from(documents, BigInt).buffer);
  const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
  const index = {
    version: 1,
    tokens: ids.length,
    documents: documents.length,
    tokenBytes: 2,
    vocab: tinyModel.vocab,
    tokenizerDigest: await tokenizerDigest(dir),
    hashes: { tokens: sha256(tokens), documents: sha256(offsets) },
  };
  writeFileSync(join(folder, "tokens.bin"), tokens);
  writeFileSync(join(folder, "documents.idx"), offsets);
  writeFileSync(join(folder, "index.json"), JSON.stringify(index));
}
