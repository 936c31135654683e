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
import type { ExpertForm } from "../../weights/stored.ts";
import type { Log } from "../companions.ts";
import { inFolder } from "../model-config.ts";
import { calibrationSequences, sequenceTokensMax } from "../upcycle/calibration-texts.ts";
import { allocate } from "./allocate.ts";
import { calibrate } from "./calibrate.ts";
import { ExpertRounding, type Measured, measure } from "./measure.ts";
import { rewriteStore } from "./rewrite-store.ts";
import { type RoundedType, type StoredTypes, usualTypes, valuesIn, waysToStore } from "./types.ts";

export interface QuantizeOptions {
  readonly dir: string;
  readonly out: string;
  /** The mean over a layer's experts, scales included. */
  readonly bits: number;
  readonly types?: readonly RoundedType[] | undefined;
  /** A file on which experts are judged; unset = texts of several topics. */
  readonly text?: string | undefined;
  /** The most tokens of it. */
  readonly tokens: number;
  /** Unset: one for each processor. */
  readonly threads?: number | undefined;
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

async function sequencesOf({ dir, text, tokens }: QuantizeOptions): Promise<readonly (readonly number[])[]> {
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
  const inTurn = Array.from({ length: step }, (_, first) => sequences.filter((_, i) => i % step === first)).flat();
  let left = tokens;
  const taken = inTurn.map((sequence) => {
    const own = sequence.slice(0, left);
    left -= own.length;
    return own;
  });
  return taken.filter(({ length }) => length > 0);
}

interface LayerPlan {
  readonly ways: readonly StoredTypes[];
  readonly values: number;
  readonly budget: number;
}

/** Throws AppError `BadOption` where no types are so small. */
function planLayers(store: ModelStore, { bits, types = usualTypes }: QuantizeOptions): LayerPlan[] {
  return store.layerShapes.map(({ experts, matrices }, layer) => {
    if (experts === 0) return { ways: [], values: 0, budget: 0 };
    const [ways, values] = [waysToStore(types, matrices), valuesIn(matrices)];
    const [least] = ways as [StoredTypes];
    const budget = Math.floor((bits / 8) * values * experts);
    if (least.bytes * experts <= budget) return { ways, values, budget };
    const columns = [...new Set(matrices.map(({ shape }) => shape.at(-1)))].join(" and ");
    const bitsLeast = Math.ceil((800 * least.bytes) / values) / 100;
    throw invalid(
      `--bits ${bits}: experts of layer ${layer} take ${bitsLeast} bits a value at least, as ${least.types.join(", ")}, since their rows have ${columns} values; pass --bits ${bitsLeast} or more, or smaller --types`,
    );
  });
}

interface Judged extends Measured {
  readonly chosen: number;
  readonly share: number;
  readonly gateShare: number;
}

/** One layer's choices: the least sum of significance times error within its bytes. */
function judge(measured: readonly Measured[], { ways, budget }: LayerPlan): Judged[] {
  const rows = measured.reduce((sum, each) => sum + each.rows, 0) || 1;
  const gates = measured.reduce((sum, each) => sum + each.gateSum, 0) || 1;
  const weighed = measured.map((each) => ({ ...each, share: each.rows / rows, gateShare: each.gateSum / gates }));
  const choices = weighed.map(({ share, gateShare, errors }) =>
    ways.map(({ bytes }, way) => {
      const cost = share ** significance.share * gateShare ** significance.gate * (errors[way] as number);
      return { bytes, cost };
    }),
  );
  const chosen = allocate(choices, budget) as number[];
  return weighed.map((each, i) => Object.assign(each, { chosen: chosen[i] as number }));
}

const mostExact = (index: ExpertIndex): CodecName =>
  codecsOf(index).reduce((best, name) => (codecFor(name).loss < codecFor(best).loss ? name : best));

interface Judging {
  readonly store: ModelStore;
  readonly from: CodecName;
  readonly plans: readonly LayerPlan[];
  readonly rounding: ExpertRounding;
  readonly threads: number;
}

async function judgeAll({ store, from, plans, rounding, threads }: Judging, options: QuantizeOptions, log: Log) {
  const { dir } = options;
  const program = inFolder(dir, () => programOf(store.config));
  checkLayerShapes(store, program);
  const sequences = await sequencesOf(options);
  const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
  log(`judging experts in ${from} on ${tokens} tokens of ${sequences.length} texts`);
  const measured: Measured[][] = store.layerShapes.map(() => []);
  const say = spaced(log);
  const backend = await createBackend("cpu", { threads, denseBits: codecFor(from).denseBits });
  try {
    const parts = {
      ...{ backend, program, dense: store.readDense },
      expert: async (layer: number, expert: number) => store.decodeUnit(await store.readUnit(layer, expert, from), from, layer, expert),
    };
    await calibrate(parts, sequences, async (use) => {
      const { layer, expert } = use;
      measured[layer]?.push(await measure(use, plans[layer]?.ways ?? [], { backend, rounding }));
      say(() => `layer ${layer + 1} of ${plans.length}, expert ${expert + 1} of ${store.layerShapes[layer]?.experts} judged`);
    });
  } finally {
    await backend.close();
  }
  return { tokens, judged: measured.map((layer, l) => judge(layer, plans[l] as LayerPlan)) };
}

const asMatrices = (weights: Weights): ExpertMatrices =>
  Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, weight.form === "f32" ? asF32(weight).slice() : weight]));

function reportOf(judged: readonly (readonly Judged[])[], plans: readonly LayerPlan[]): QuantizedExpert[] {
  return judged.flatMap((experts, layer) =>
    experts.map(({ chosen, share, gateShare, errors, norm }, expert): QuantizedExpert => {
      const { ways, values } = plans[layer] as LayerPlan;
      const { types, bytes } = ways[chosen] as StoredTypes;
      const error = norm === 0 ? 0 : (errors[chosen] as number) / norm;
      return { layer, expert, types, bytes, bits: (8 * bytes) / values, share, gateShare, error };
    }),
  );
}

export async function quantize({ threads = availableParallelism(), ...options }: QuantizeOptions, log: Log): Promise<QuantizeReport> {
  const out = resolve(options.out);
  const target = { dir: out, overwrite: options.overwrite, sources: [options.dir] };
  await checkTarget(target);
  const store = await openStore(options.dir);
  try {
    const plans = planLayers(store, options);
    const from = mostExact(store.index);
    const rounding = new ExpertRounding(createRounder(), threads);
    const { tokens, judged } = await judgeAll({ store, from, plans, rounding, threads }, options, log);
    const judgedAs = (layer: number, expert: number): Judged => judged[layer]?.[expert] as Judged;
    const wayOf = (layer: number, expert: number): StoredTypes => plans[layer]?.ways[judgedAs(layer, expert).chosen] as StoredTypes;
    const say = spaced(log);
    const written = {
      forms: judged.map((experts, layer) => layerForms(experts.map((_, expert) => wayOf(layer, expert).types))),
      expert: async (layer: number, expert: number) => {
        const weights = store.decodeUnit(await store.readUnit(layer, expert, from), from, layer, expert);
        const [rounded] = (await rounding.in([wayOf(layer, expert)], weights, judgedAs(layer, expert).importance)) as [Weights];
        return asMatrices(rounded);
      },
    };
    const index = await rewriteStore(store, written, {
      ...target,
      onProgress: ({ units, of, bytes }) => say(() => `experts ${units}/${of}, ${(bytes / 1e6).toFixed(0)} MB written`),
    });
    const experts = reportOf(judged, plans);
    const bytes = experts.reduce((sum, each) => sum + each.bytes, 0);
    const values = experts.reduce((sum, each) => sum + (8 * each.bytes) / each.bits, 0);
    return { out, modelDigest: index.modelDigest, from, bits: (8 * bytes) / values, bytes, tokens, experts };
  } finally {
    await store.close();
  }
}
