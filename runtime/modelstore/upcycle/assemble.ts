// `enodia model assemble`: joins dense Llamas with a common seed model into one Mixture of Experts, for further training.
import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { gaussian } from "../../kernels/random.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { bamArchitecture, bamConfig } from "../../models/bam.ts";
import type { DecoderDims } from "../../models/decoder.ts";
import { denseWeights } from "../../models/family.ts";
import { programOf } from "../../models/index.ts";
import { type DenseProgram, ffnTensors, llamaArchitecture, llamaProgram } from "../../models/llama.ts";
import { mixtralArchitecture, mixtralConfig } from "../../models/mixtral.ts";
import { topKMax } from "../../models/moe.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { readTextFile, statIfThere } from "../../weights/file.ts";
import { bytesOf } from "../../weights/floats.ts";
import { layerShapes } from "../../weights/layer-shapes.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import type { TensorToWrite } from "../../weights/safetensors-writer.ts";
import type { ExpertIndex } from "../../weights/store.ts";
import { readConfig } from "../../weights/store-reader.ts";
import { writeStore } from "../../weights/store-writer.ts";
import type { Checkpoint } from "../../weights/tensor-view.ts";
import { checkDense } from "../check-tensors.ts";
import { companionFiles, type Log } from "../companions.ts";
import { architectureIn, inFolder } from "../model-config.ts";
import { keyOf } from "./noise.ts";

const [branchesMin, branchesMax] = [2, 256];
/** A single expert's gate is always 1, so the router could not learn. */
const topKMin = 2;
const tokenizerBytesMax = 64 * 2 ** 20;
const routerDeviation = 0.02;

export interface AssembleOptions {
  /** Hugging Face folders; may repeat. */
  readonly branches: readonly string[];
  readonly out: string;
  readonly topK: number;
  /** How attentions are joined. */
  readonly attention: string;
  /** Seed of the routers. */
  readonly seed: number;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
}

interface Branch {
  readonly dir: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly program: DenseProgram;
  readonly tokenizer: string;
}

/** Throws AppError `BadOption`. */
function checkOptions({ branches, topK, seed, attention }: AssembleOptions): AttentionForm {
  const refuse = (message: string): never => {
    throw new AppError(message, { code: "BadOption", operation: "reading the command line" });
  };
  const count = branches.length;
  if (count < branchesMin || count > branchesMax) refuse(`${count} branches are given; name from ${branchesMin} to ${branchesMax} folders`);
  const most = Math.min(count, topKMax);
  if (!Number.isInteger(topK) || topK < topKMin || topK > most)
    refuse(
      `--top-k is ${topK}; it must be a whole number from ${topKMin} (routers learn nothing by one) to ${most}${most === count ? ", the number of branches" : ""}`,
    );
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 31)
    refuse(`--seed is ${seed}; it must be a whole number from 0 to ${2 ** 31 - 1}`);
  const known = [...attentionForms.keys()].join(", ");
  return attentionForms.get(attention) ?? refuse(`--attention is "${attention}"; it must be one of ${known}`);
}

async function readBranch(dir: string): Promise<Branch> {
  const config = (await readConfig(dir, "ModelNotFound")) as Readonly<Record<string, unknown>>;
  const architecture = architectureIn(dir, config);
  if (architecture !== llamaArchitecture)
    throw new AppError(`${dir}: is ${architecture}; only ${llamaArchitecture} can be a branch`, { code: "UnknownArchitecture" });
  const path = join(dir, "tokenizer.json");
  if ((await statIfThere(path)) === undefined)
    throw new AppError(`${dir}: has no tokenizer.json; copy the seed model's there`, { code: "ModelNotFound" });
  const text = await readTextFile(path, tokenizerBytesMax, "ModelNotFound");
  return { dir, config, program: inFolder(dir, () => llamaProgram(config)), tokenizer: createHash("sha256").update(text).digest("hex") };
}

/** Throws AppError `BadOption` unless branches can have grown from one seed. */
function checkAlike([first, ...others]: readonly Branch[]): void {
  for (const other of others) {
    const differs = (what: string): AppError =>
      new AppError(`${other.dir}: has another ${what} than ${first?.dir}; branches are trained from one seed model`, {
        code: "BadOption",
        operation: "assembling a model",
      });
    if (JSON.stringify(other.program) !== JSON.stringify(first?.program)) throw differs("config.json");
    if (other.tokenizer !== first?.tokenizer) throw differs("tokenizer.json");
  }
}

/** Sums in f64. */
async function meanOf(branches: readonly Checkpoint[], name: string): Promise<Float32Array> {
  let sums: Float64Array | undefined;
  for (const branch of branches) {
    const values = await branch.read(name);
    sums ??= new Float64Array(values.length);
    for (const [i, value] of values.entries()) sums[i] = (sums[i] as number) + value;
  }
  return Float32Array.from(sums ?? [], (sum) => sum / branches.length);
}

/** Takes `pieces` of each branch in turn. */
async function interleaved(branches: readonly Checkpoint[], name: string, pieces: number): Promise<Float32Array> {
  let all = new Float32Array();
  for (const [i, branch] of branches.entries()) {
    const values = await branch.read(name);
    if (i === 0) all = new Float32Array(values.length * branches.length);
    const size = values.length / pieces;
    for (let piece = 0; piece < pieces; piece++)
      all.set(values.subarray(piece * size, (piece + 1) * size), (piece * branches.length + i) * size);
  }
  return all;
}

/** New tensors: routers of experts and gates of attentions. */
const router = /^model\.layers\.(?<layer>\d+)\.(?<of>\w+)\.gate\.weight$/;

/** Undefined for other tensors. */
function routerKey(name: string, seed: number): number | undefined {
  const { layer, of } = router.exec(name)?.groups ?? {};
  if (layer === undefined) return undefined;
  return of === "self_attn" ? keyOf(seed, Number(layer), 1) : keyOf(seed, Number(layer));
}

interface Assembly {
  readonly branches: readonly Checkpoint[];
  readonly dense: DenseProgram;
  readonly program: ModelProgram;
  readonly form: AttentionForm;
  readonly seed: number;
}

function denseTensors({ branches, dense, program, form, seed }: Assembly): readonly TensorToWrite[] {
  return denseWeights(program).map(({ name, shape }): TensorToWrite => {
    const size = shape.reduce((a, b) => a * b, 1);
    const [key, pieces] = [routerKey(name, seed), form.pieces(name, dense)];
    const values = async (): Promise<Float32Array> => {
      if (key !== undefined) return gaussian(key, size, routerDeviation);
      return pieces === undefined ? meanOf(branches, name) : interleaved(branches, name, pieces);
    };
    return { name, dtype: "F32", shape, read: async () => bytesOf(await values()) };
  });
}

export async function assemble(options: AssembleOptions, log: Log): Promise<{ readonly out: string; readonly index: ExpertIndex }> {
  const form = checkOptions(options);
  const out = resolve(options.out);
  const target = { dir: out, overwrite: options.overwrite, sources: options.branches };
  await checkTarget(target);
  const branches: Branch[] = [];
  for (const dir of options.branches) branches.push(await readBranch(dir));
  checkAlike(branches);
  const { dir, config: raw, program: dense } = branches[0] as Branch;
  const config = form.config(raw, dense, { experts: branches.length, topK: options.topK });
  const program = programOf(config);
  const opened: Checkpoint[] = [];
  try {
    for (const branch of branches) {
      const checkpoint = await openCheckpoint(branch.dir);
      opened.push(checkpoint);
      await checkDense(checkpoint, branch.config, dense);
    }
    log(`writing ${dense.layers} layers of ${branches.length} experts, codecs ${options.codecs.join(", ")}`);
    const index = await writeStore(
      {
        config,
        architecture: form.architecture,
        layers: layerShapes(program),
        hidden: program.hidden,
        codecs: options.codecs,
        dense: denseTensors({ branches: opened, dense, program, form, seed: options.seed }),
        async expert(layer, expert) {
          const [names, branch] = [ffnTensors(layer), opened[expert] as Checkpoint];
          return { w1: await branch.read(names.w1), w2: await branch.read(names.w2), w3: await branch.read(names.w3) };
        },
        files: await companionFiles(dir),
      },
      target,
    );
    return { out, index };
  } finally {
    for (const checkpoint of opened) await checkpoint.close();
  }
}

interface AttentionForm {
  readonly architecture: string;
  config(
    raw: Readonly<Record<string, unknown>>,
    dims: DecoderDims,
    counts: { readonly experts: number; readonly topK: number },
  ): Record<string, unknown>;
  /** Number of pieces that a tensor takes in turn from each branch; undefined for a mean. */
  pieces(tensor: string, dims: DecoderDims): number | undefined;
}

const mean: AttentionForm = { architecture: mixtralArchitecture, config: mixtralConfig, pieces: () => undefined };

/** A piece is a branch's part of one key head; each row of the output projection has one piece per head. */
function experts(shareKeyValues: boolean): AttentionForm {
  return {
    architecture: bamArchitecture,
    config: (raw, dims, counts) => bamConfig(raw, dims, { ...counts, shareKeyValues }),
    pieces(tensor, { kvHeads, hidden }) {
      const keys = shareKeyValues ? undefined : kvHeads;
      const of = { q: kvHeads, k: keys, v: keys, o: hidden * kvHeads };
      const projection = /\.self_attn\.([qkvo])_proj\.weight$/.exec(tensor)?.[1];
      return projection === undefined ? undefined : of[projection as keyof typeof of];
    },
  };
}

/** Keys are values of `--attention`. */
const attentionForms: ReadonlyMap<string, AttentionForm> = new Map([
  ["mean", mean],
  ["experts", experts(false)],
  ["shared-kv", experts(true)],
]);
