// `enodia model quantize`: measures what each expert of a store loses in each type, chooses types within a mean of bits, and writes a store.
import { readFile, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { createBackend } from "../../compute/index.ts";
import { createRounder } from "../../compute/rounder.ts";
import { asF32, type Weights } from "../../kernels/weights.ts";
import { programOf } from "../../models/index.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import type { ExpertMatrices } from "../../weights/codecs/codec.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { checkLayerShapes } from "../../weights/layer-shapes.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import { codecsOf, type ExpertIndex, layerForms, type ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import type { WriteOptions } from "../../weights/store-writer.ts";
import type { ExpertForm } from "../../weights/stored.ts";
import type { Log } from "../companions.ts";
import { inFolder } from "../model-config.ts";
import { calibrationSequences, sequenceTokensMax } from "../upcycle/calibration-texts.ts";
import { allocate } from "./allocate.ts";
import { calibrate } from "./calibrate.ts";
import { ExpertRounding, type Measured, measure } from "./measure.ts";
import { rewriteStore } from "./rewrite-store.ts";
import { type RoundedType, type StoredTypes, usualTypes, valuesIn, waysToStore } from "./types.ts";

export interface JudgeOptions {
  readonly types?: readonly RoundedType[] | undefined;
  /** A file on which experts are judged; unset = texts of several topics. */
  readonly text?: string | undefined;
  /** The most tokens of it. */
  readonly tokens: number;
  /** Unset: one for each processor. */
  readonly threads?: number | undefined;
}

export interface QuantizeOptions extends JudgeOptions {
  readonly dir: string;
  readonly out: string;
  /** The mean over a layer's experts, scales included. */
  readonly bits: number;
  readonly overwrite: boolean;
}

interface QuantizedExpert {
  readonly layer: number;
  readonly expert: number;
  /** One for each matrix, in the order of the store. */
  readonly types: readonly ExpertForm[];
  readonly bytes: number;
  readonly bits: number;
  /** Parts of the layer's rows and gates. */
  readonly share: number;
  readonly gateShare: number;
  /** The error of its gated outputs on the text, relative to them. */
  readonly error: number;
}

export interface QuantizeReport {
  readonly out: string;
  readonly modelDigest: string;
  readonly from: CodecName;
  readonly bits: number;
  readonly bytes: number;
  readonly tokens: number;
  readonly experts: readonly QuantizedExpert[];
}

const textBytesMax = 16 * 2 ** 20;
const progressMs = 5_000;
/** The powers of share and gate in an expert's significance (MC-MoE). */
const significance = { share: 1, gate: 1.5 } as const;

const invalid = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "quantizing a model" });

/** One line in so many seconds. */
function spaced(log: Log): (line: () => string) => void {
  let last = performance.now();
  return (line) => {
    if (performance.now() - last < progressMs) return;
    last = performance.now();
    log(line());
  };
}

async function sequencesOf(dir: string, { text, tokens }: JudgeOptions): Promise<readonly (readonly number[])[]> {
  const tokenizer = await loadTokenizer(dir);
  if (text === undefined)
    return cut(
      (await calibrationSequences(tokenizer)).map(({ ids }) => ids),
      tokens,
    );
  const { size } = await stat(text).catch((caught) => {
    throw invalid(`--text: ${caught instanceof Error ? caught.message : caught}`);
  });
  if (size > textBytesMax) throw invalid(`--text: ${text} has ${size} bytes, more than ${textBytesMax}; take a part of it`);
  const ids = tokenizer.encode(await readFile(text, "utf8"));
  const count = Math.ceil(ids.length / sequenceTokensMax);
  const sequences = Array.from({ length: count }, (_, i) => ids.slice(i * sequenceTokensMax, (i + 1) * sequenceTokensMax));
  if (sequences.length === 0) throw invalid(`--text: ${text} is empty`);
  return cut(sequences, tokens);
}

/** So many tokens, if there are: every so-manieth sequence, so that all parts of a text count, then others; the last one in part. */
function cut(sequences: readonly (readonly number[])[], tokens: number): readonly (readonly number[])[] {
  const all = sequences.reduce((sum, { length }) => sum + length, 0);
  const step = Math.max(1, Math.ceil(all / tokens));
  const inTurn = [...sequences.keys()].sort((a, b) => (a % step) - (b % step) || a - b);
  const taken: (readonly number[])[] = [];
  let left = tokens;
  for (const at of inTurn) {
    if (left === 0) break;
    const own = (sequences[at] as readonly number[]).slice(0, left);
    left -= own.length;
    taken.push(own);
  }
  return taken.filter(({ length }) => length > 0);
}

/** How a layer's experts may be stored. */
interface LayerWays {
  readonly ways: readonly StoredTypes[];
  /** Bytes of one expert. */
  readonly values: number;
}

const waysOf = ({ layerShapes }: ModelStore, types: readonly RoundedType[] = usualTypes): LayerWays[] =>
  layerShapes.map(({ experts, matrices }) =>
    experts === 0 ? { ways: [], values: 0 } : { ways: waysToStore(types, matrices), values: valuesIn(matrices) },
  );

/** Bytes of each layer's experts. Throws AppError `BadOption` where no types are so small. */
function budgetsOf({ layerShapes }: ModelStore, layers: readonly LayerWays[], bits: number): number[] {
  return layers.map(({ ways, values }, layer) => {
    const { experts = 0, matrices = [] } = layerShapes[layer] ?? {};
    const budget = Math.floor((bits / 8) * values * experts);
    const [least] = ways;
    if (least === undefined || least.bytes * experts <= budget) return budget;
    const columns = [...new Set(matrices.map(({ shape }) => shape.at(-1)))].join(" and ");
    const bitsLeast = Math.ceil((800 * least.bytes) / values) / 100;
    throw invalid(
      `--bits ${bits}: experts of layer ${layer} take ${bitsLeast} bits a value at least, as ${least.types.join(", ")}, since their rows have ${columns} values; pass --bits ${bitsLeast} or more, or smaller --types`,
    );
  });
}

interface Judged extends Measured {
  readonly share: number;
  readonly gateShare: number;
}

function weighed(measured: readonly Measured[]): Judged[] {
  const rows = measured.reduce((sum, each) => sum + each.rows, 0) || 1;
  const gates = measured.reduce((sum, each) => sum + each.gateSum, 0) || 1;
  return measured.map((each) => ({ ...each, share: each.rows / rows, gateShare: each.gateSum / gates }));
}

/** One layer's choices of those ways: the least sum of significance times error within its bytes. */
function chooseWays(experts: readonly Judged[], layer: LayerWays, ways: readonly number[], budget: number): number[] {
  const choices = experts.map(({ share, gateShare, errors }) =>
    ways.map((way) => {
      const cost = share ** significance.share * gateShare ** significance.gate * (errors[way] as number);
      return { bytes: (layer.ways[way] as StoredTypes).bytes, cost };
    }),
  );
  return (allocate(choices, budget) as number[]).map((choice) => ways[choice] as number);
}

const mostExact = (index: ExpertIndex): CodecName =>
  codecsOf(index).reduce((best, name) => (codecFor(name).loss < codecFor(best).loss ? name : best));

/** By layer and expert, the index of its way. */
export type Chosen = readonly (readonly number[])[];

/** A store whose experts were judged in each way, from which others are written. */
export interface JudgedStore {
  /** Ways of each layer's experts, in the order of their bytes. */
  readonly layers: readonly LayerWays[];
  /** The least loss within a mean of bits, of all types or of some. Throws AppError `BadOption` where none are so small. */
  choose(bits: number, of?: readonly RoundedType[]): Chosen;
  write(chosen: Chosen, target: WriteOptions): Promise<QuantizeReport>;
}

export async function judgeStore(store: ModelStore, options: JudgeOptions, log: Log): Promise<JudgedStore> {
  const { types, threads = availableParallelism() } = options;
  const { dir } = store;
  const layers = waysOf(store, types);
  const from = mostExact(store.index);
  const program = inFolder(dir, () => programOf(store.config));
  checkLayerShapes(store, program);
  const sequences = await sequencesOf(dir, options);
  const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
  log(`judging experts in ${from} on ${tokens} tokens of ${sequences.length} texts`);
  const rounding = new ExpertRounding(createRounder(), threads);
  const expert = async (layer: number, e: number) => store.decodeUnit(await store.readUnit(layer, e, from), from, layer, e);
  const measured: Measured[][] = layers.map(() => []);
  const say = spaced(log);
  const backend = await createBackend("cpu", { threads, denseBits: codecFor(from).denseBits });
  try {
    await calibrate({ backend, program, dense: store.readDense, expert }, sequences, async (use) => {
      measured[use.layer]?.push(await measure(use, layers[use.layer]?.ways ?? [], { backend, rounding }));
      say(() => `layer ${use.layer + 1} of ${layers.length}, expert ${use.expert + 1} of ${store.layerShapes[use.layer]?.experts} judged`);
    });
  } finally {
    await backend.close();
  }
  const judged = measured.map(weighed);
  return {
    layers,
    choose(bits, of) {
      const allowed = of === undefined ? layers : waysOf(store, of);
      const budgets = budgetsOf(store, allowed, bits);
      return judged.map((experts, at) => {
        const layer = layers[at] as LayerWays;
        const named = new Set(allowed[at]?.ways.map((way) => way.types.join()));
        const ways = [...layer.ways.keys()].filter((way) => named.has((layer.ways[way] as StoredTypes).types.join()));
        return chooseWays(experts, layer, ways, budgets[at] as number);
      });
    },
    async write(chosen, target) {
      const wayOf = (layer: number, e: number) => layers[layer]?.ways[chosen[layer]?.[e] as number] as StoredTypes;
      const written = {
        forms: chosen.map((experts, layer) => layerForms(experts.map((_, e) => wayOf(layer, e).types))),
        expert: async (layer: number, e: number) => {
          const known = judged[layer]?.[e] as Judged;
          const [rounded] = (await rounding.in([wayOf(layer, e)], await expert(layer, e), known.importance)) as [Weights];
          return asMatrices(rounded);
        },
      };
      const { modelDigest } = await rewriteStore(store, written, {
        ...target,
        onProgress: ({ units, of, bytes }) => say(() => `experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`),
      });
      const experts = reportOf(judged, layers, chosen);
      const bytes = experts.reduce((sum, each) => sum + each.bytes, 0);
      const values = experts.reduce((sum, each) => sum + (8 * each.bytes) / each.bits, 0);
      return { out: target.dir, modelDigest, from, bits: (8 * bytes) / values, bytes, tokens, experts };
    },
  };
}

const asMatrices = (weights: Weights): ExpertMatrices =>
  Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, weight.form === "f32" ? asF32(weight).slice() : weight]));

function reportOf(judged: readonly (readonly Judged[])[], layers: readonly LayerWays[], chosen: Chosen): QuantizedExpert[] {
  return judged.flatMap((experts, layer) =>
    experts.map(({ share, gateShare, errors, norm }, expert): QuantizedExpert => {
      const { ways, values } = layers[layer] as LayerWays;
      const way = chosen[layer]?.[expert] as number;
      const { types, bytes } = ways[way] as StoredTypes;
      const error = norm === 0 ? 0 : (errors[way] as number) / norm;
      return { layer, expert, types, bytes, bits: (8 * bytes) / values, share, gateShare, error };
    }),
  );
}

export async function quantize({ dir, bits, overwrite, ...options }: QuantizeOptions, log: Log): Promise<QuantizeReport> {
  const target = { dir: resolve(options.out), overwrite, sources: [dir] };
  await checkTarget(target);
  const store = await openStore(dir);
  try {
    budgetsOf(store, waysOf(store, options.types), bits); // before experts are judged for long
    const judged = await judgeStore(store, options, log);
    return await judged.write(judged.choose(bits), target);
  } finally {
    await store.close();
  }
}
