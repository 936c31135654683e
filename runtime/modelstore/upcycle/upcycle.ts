// `enodia model upcycle`: every FFN of a dense Llama becomes E experts with seeded noise, and each layer gets a fitted router.

import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import type { CodecName } from "../../../crds/names.ts";
import { createBackend } from "../../compute/index.ts";
import { denseWeights } from "../../models/family.ts";
import { type DenseProgram, ffnTensors, llamaArchitecture, llamaProgram } from "../../models/llama.ts";
import { mixtral, mixtralArchitecture, mixtralConfig } from "../../models/mixtral.ts";
import { topKMax } from "../../models/moe.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import type { ExpertMatrices } from "../../weights/codecs/codec.ts";
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
import { importModel } from "../import.ts";
import { architectureIn, inFolder, noDense } from "../model-config.ts";
import { checkBlocks } from "../plan-store.ts";
import { isRemote, localSource, sourceName } from "../sources.ts";
import { calibrationSequences } from "./calibration-texts.ts";
import { fitRouter } from "./fit-router.ts";
import { denseStates } from "./hidden-states.ts";
import { keyOf, withNoise } from "./noise.ts";

/** Target mean probability of the first choice. */
const topProbability = 0.6;

export interface UpcycleOptions {
  /** A Hugging Face folder. */
  readonly from: string;
  readonly out: string;
  readonly experts: number;
  readonly topK: number;
  /** RMS of the noise on each FFN weight, relative to the weight's RMS. */
  readonly noise: number;
  readonly seed: number;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
  readonly threads: number;
}

export interface UpcycleResult {
  readonly out: string;
  readonly index: ExpertIndex;
  readonly tokens: number;
  /** Largest over mean expert load on the calibration texts, worst layer. */
  readonly imbalance: number;
}

function checkOptions(options: UpcycleOptions): void {
  const whole = (name: string, value: number, low: number, high: number) => {
    if (!Number.isInteger(value) || value < low || value > high) {
      throw new AppError(`--${name} is ${value}; it must be a whole number from ${low} to ${high}`, { code: "BadOption" });
    }
  };
  whole("experts", options.experts, 2, 256);
  whole("top-k", options.topK, 1, Math.min(options.experts, topKMax));
  whole("seed", options.seed, 0, 2 ** 31 - 1);
  if (!(options.noise >= 0 && options.noise <= 1))
    throw new AppError(`--noise is ${options.noise}; it must be from 0 to 1`, { code: "BadOption" });
}

/** Router rows [experts, hidden] of every layer. */
async function fitRouters(
  checkpoint: Checkpoint,
  program: DenseProgram,
  options: UpcycleOptions,
  log: Log,
): Promise<{ readonly routers: readonly Float32Array[]; readonly tokens: number; readonly imbalance: number }> {
  const sequences = (await calibrationSequences(await loadTokenizer(options.from))).map(({ ids }) => ids);
  const tokens = sequences.reduce((sum, ids) => sum + ids.length, 0);
  log(`fitting routers on ${tokens} tokens of ${sequences.length} texts`);
  // int8 results are bit-identical on more processors than f32's.
  const backend = await createBackend("cpu", { threads: options.threads, denseBits: 8 });
  const routers: Float32Array[] = [];
  let imbalance = 1;
  try {
    for await (const { layer, states } of denseStates(backend, program, checkpoint, sequences)) {
      const router = fitRouter(states, program.hidden, layer, { ...options, topProbability });
      routers.push(router.rows);
      const worst = (Math.max(...router.loads) * options.experts) / (tokens * options.topK);
      imbalance = Math.max(imbalance, worst);
      if ((layer + 1) % 5 === 0 || layer + 1 === program.layers)
        log(`router ${layer + 1}/${program.layers}: busiest expert ${worst.toFixed(2)} x mean`);
    }
  } finally {
    await backend.close();
  }
  return { routers, tokens, imbalance };
}

function denseTensors(checkpoint: Checkpoint, config: unknown, routers: readonly Float32Array[]): readonly TensorToWrite[] {
  return denseWeights(mixtral.program(config)).map(({ name, shape }): TensorToWrite => {
    const gate = /^model\.layers\.(\d+)\.block_sparse_moe\.gate\.weight$/.exec(name);
    if (gate) return { name, dtype: "F32", shape, read: async () => bytesOf(routers[Number(gate[1])] as Float32Array) };
    return { name, dtype: "F32", shape, read: async () => bytesOf(await checkpoint.read(name)) };
  });
}

/** Caches a layer's base weights, which its experts share. */
function expertMaker(checkpoint: Checkpoint, options: UpcycleOptions): (layer: number, expert: number) => Promise<ExpertMatrices> {
  let base: { readonly layer: number; readonly matrices: Readonly<Record<"w1" | "w2" | "w3", Float32Array>> } | undefined;
  return async (layer, expert) => {
    if (base?.layer !== layer) {
      const names = ffnTensors(layer);
      base = {
        layer,
        matrices: { w1: await checkpoint.read(names.w1), w2: await checkpoint.read(names.w2), w3: await checkpoint.read(names.w3) },
      };
    }
    const { w1, w2, w3 } = base.matrices;
    const noisy = (values: Float32Array, matrix: number) => withNoise(values, options.noise, keyOf(options.seed, layer, expert, matrix));
    return { w1: noisy(w1, 1), w2: noisy(w2, 2), w3: noisy(w3, 3) };
  };
}

export async function upcycle(options: UpcycleOptions, log: Log): Promise<UpcycleResult> {
  checkOptions(options);
  const out = resolve(options.out);
  const target = { dir: out, overwrite: options.overwrite, sources: [options.from] };
  await checkTarget(target);
  const raw = (await readConfig(options.from, "ModelNotFound")) as Readonly<Record<string, unknown>>;
  const architecture = architectureIn(options.from, raw);
  if (architecture !== llamaArchitecture) throw noDense(options.from, architecture, "upcycled");
  const program = inFolder(options.from, () => llamaProgram(raw));
  const files = await companionFiles(options.from);
  const checkpoint = await openCheckpoint(options.from);
  try {
    await checkDense(checkpoint, raw, program);
    const moe = { ...mixtralConfig(raw, program, options), upcycled: { noise: options.noise, seed: options.seed } };
    const shapes = layerShapes(mixtral.program(moe));
    checkBlocks({ checkpoint, shapes }, options.codecs);
    const { routers, tokens, imbalance } = await fitRouters(checkpoint, program, options, log);
    const { layers } = program;
    log(`writing ${layers} layers of ${options.experts} experts, codecs ${options.codecs.join(", ")}`);
    const step = Math.max(1, Math.floor(layers / 10)) * options.experts;
    const index = await writeStore(
      {
        config: moe,
        architecture: mixtralArchitecture,
        layers: shapes,
        hidden: program.hidden,
        codecs: options.codecs,
        dense: denseTensors(checkpoint, moe, routers),
        expert: expertMaker(checkpoint, options),
        files,
      },
      {
        ...target,
        onProgress: ({ units, of, bytes }) => {
          if (units % step === 0 || units === of) log(`experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`);
        },
      },
    );
    return { out, index, tokens, imbalance };
  } finally {
    await checkpoint.close();
  }
}

export interface UpcycleSourceOptions extends Omit<UpcycleOptions, "from" | "out"> {
  readonly source: string;
  readonly out?: string;
  readonly cache: string;
  /** Credentials and endpoints of downloads, by source variable. */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

/** Undefined unless it is a folder in Hugging Face layout. */
async function architectureAt(dir: string): Promise<string | undefined> {
  if (!(await stat(join(dir, "config.json")).catch(() => undefined))) return undefined;
  return architectureIn(dir, await readConfig(dir, "ModelNotFound"));
}

async function denseFolder(options: UpcycleSourceOptions, log: Log): Promise<string> {
  const cached = join(options.cache, "models", `${sourceName(options.source)}-dense`);
  const remote = isRemote(options.source);
  // Checks a local folder before anything is written.
  if (!remote && (await architectureAt(localSource(options.source)))) return localSource(options.source);
  if (remote && (await architectureAt(cached)) === llamaArchitecture) {
    await (await openCheckpoint(cached)).close(); // a broken cache shows here, by name
    log(`using the dense model in ${cached}`);
    return cached;
  }
  await importModel({ ...options, out: cached, overwrite: true, folder: true }, log);
  return cached;
}

export async function upcycleSource(options: UpcycleSourceOptions, log: Log): Promise<UpcycleResult> {
  const name = `${sourceName(options.source)}-moe${options.experts}x${options.topK}`;
  const out = options.out ?? join(options.cache, "models", name);
  const sources = isRemote(options.source) ? [] : [localSource(options.source)];
  await checkTarget({ dir: out, overwrite: options.overwrite, sources }); // before a download or an import
  return upcycle({ ...options, from: await denseFolder(options, log), out }, log);
}
