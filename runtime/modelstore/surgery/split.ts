// `enodia model split`: the columns of a dense Llama's FFNs are dealt to experts. All of them together are the dense layer.
import { resolve } from "node:path";
import type { CodecName } from "../../../crds/names.ts";
import type { Backend } from "../../compute/backend.ts";
import { createBackend } from "../../compute/index.ts";
import type { Segment, Tensor } from "../../kernels/segment.ts";
import { denseWeights } from "../../models/family.ts";
import { type DenseProgram, ffnTensors, llamaArchitecture, llamaProgram } from "../../models/llama.ts";
import { mixtral, mixtralConfig } from "../../models/mixtral.ts";
import { topKMax } from "../../models/moe.ts";
import { loadTokenizer } from "../../text/tokenizer.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { bytesOf } from "../../weights/floats.ts";
import { layerShapes } from "../../weights/layer-shapes.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import type { ExpertIndex } from "../../weights/store.ts";
import { readConfig } from "../../weights/store-reader.ts";
import { type Checkpoint, checkpointOf, rowsOf, type TensorView } from "../../weights/tensor-view.ts";
import { checkDense } from "../check-tensors.ts";
import { companionFiles, type Log } from "../companions.ts";
import { storeModel } from "../import-moe.ts";
import { architectureIn, inFolder, noDense } from "../model-config.ts";
import { checkBlocks } from "../plan-store.ts";
import { calibrationSequences } from "../upcycle/calibration-texts.ts";
import { labelledRouter } from "../upcycle/fit-router.ts";
import { denseStates } from "../upcycle/hidden-states.ts";
import { type Config, refused } from "./derive.ts";
import { byLabel, inOrder, strongest } from "./slices.ts";

export interface SplitOptions {
  readonly from: string;
  readonly out: string;
  readonly overwrite: boolean;
  readonly experts: number;
  /** Unset: all. */
  readonly topK?: number | undefined;
  readonly by: "columns" | "domain";
  readonly codecs: readonly CodecName[];
  readonly threads: number;
}

type Sized = SplitOptions & { readonly topK: number };

/** Enough for means, and few enough for an FFN of 15,000 columns in 256 MiB. */
const tokensMax = 4096;
/** Gates of chosen slices that are nearly alike leave each its part of the dense layer. */
const evenness = 1.25;

interface Cut {
  /** The columns of each expert. */
  readonly columns: readonly (readonly number[])[];
  readonly router: Float32Array;
}

function activationSegment({ hidden, ffn }: DenseProgram): Segment {
  return {
    name: "activations",
    inputs: [{ name: "f", dtype: "f32", width: hidden }],
    outputs: [{ name: "m", dtype: "f32", width: ffn }],
    weights: ["w1", "w3"].map((name) => ({ name, shape: [ffn, hidden] })),
    ops: [
      { op: "matMul", x: "f", weight: "w1", out: "g" },
      { op: "matMul", x: "f", weight: "w3", out: "u" },
      { op: "siluMul", a: "g", b: "u", out: "m" },
    ],
  };
}

async function activations(
  backend: Backend,
  program: DenseProgram,
  checkpoint: Checkpoint,
  { layer, states }: LayerRows,
): Promise<Float32Array> {
  const [names, shape] = [ffnTensors(layer), [program.ffn, program.hidden]];
  const weight = async (name: string) => ({ form: "f32" as const, shape, data: await checkpoint.read(name) });
  const compiled = await backend.compile(activationSegment(program), { w1: await weight(names.w1), w3: await weight(names.w3) });
  try {
    const { m } = await compiled.run({ f: { shape: [states.length / program.hidden, program.hidden], data: states } });
    return Float32Array.from((m as Tensor).data);
  } finally {
    await compiled.dispose();
  }
}

interface LayerRows {
  readonly layer: number;
  readonly states: Float32Array;
}

function everyRow(states: Float32Array, hidden: number, stride: number): Float32Array {
  const out = new Float32Array(Math.ceil(states.length / hidden / stride) * hidden);
  for (let to = 0; to < out.length; to += hidden) out.set(states.subarray(to * stride, to * stride + hidden), to);
  return out;
}

async function cuts(checkpoint: Checkpoint, program: DenseProgram, options: Sized, log: Log): Promise<readonly Cut[]> {
  const { experts, topK, by } = options;
  const { ffn, hidden } = program;
  const even = program.blocks.map(() => ({ columns: inOrder(ffn, experts), router: new Float32Array(experts * hidden) }));
  if (topK === experts && by === "columns") return even; // all are chosen, with gates that are alike
  const sequences = await calibrationSequences(await loadTokenizer(options.from));
  const topics = [...new Set(sequences.map(({ topic }) => topic))];
  if (by === "domain" && topics.length !== experts)
    throw refused(`--experts is ${experts}; by domain it is the number of domains, ${topics.length}: ${topics.join(", ")}`);
  const tokens = sequences.reduce((sum, { ids }) => sum + ids.length, 0);
  const stride = Math.ceil(tokens / tokensMax);
  const domains = Uint16Array.from(sequences.flatMap(({ topic, ids }) => ids.map(() => topics.indexOf(topic)))).filter(
    (_, i) => i % stride === 0,
  );
  const backend = await createBackend("cpu", { threads: options.threads, denseBits: 8 });
  const found: Cut[] = [];
  try {
    const all = denseStates(
      backend,
      program,
      checkpoint,
      sequences.map(({ ids }) => ids),
    );
    for await (const { layer, states } of all) {
      const rows = everyRow(states, hidden, stride);
      const active = { values: await activations(backend, program, checkpoint, { layer, states: rows }), ffn };
      const columns = by === "domain" ? byLabel(active, domains, experts) : inOrder(ffn, experts);
      const labels = by === "domain" ? domains : strongest(active, columns);
      const { rows: fitted, loads } = labelledRouter(rows, hidden, labels, { experts, topK, topProbability: evenness / experts });
      found.push({ columns, router: topK === experts ? new Float32Array(experts * hidden) : fitted });
      const busiest = (Math.max(...loads) * experts) / (labels.length * topK);
      log(`layer ${layer + 1}/${program.layers}: busiest expert ${busiest.toFixed(2)} x mean`);
    }
  } finally {
    await backend.close();
  }
  return found;
}

function floatsView(shape: readonly number[], read: () => Promise<Float32Array>): TensorView {
  const columns = shape.at(-1) ?? 1;
  return {
    shape,
    form: "f32",
    rows: async ({ first, rows }) => rowsOf("f32", bytesOf((await read()).slice(first * columns, (first + rows) * columns))),
  };
}

/** The matrix that was read last stays in memory for all experts of its layer. */
function reader(checkpoint: Checkpoint): (name: string) => Promise<Float32Array> {
  const last = new Map<string, { readonly name: string; readonly values: Promise<Float32Array> }>();
  return (name) => {
    const kind = name.replace(/\d+/, "");
    const known = last.get(kind);
    if (known?.name === name) return known.values;
    const values = checkpoint.read(name);
    last.set(kind, { name, values });
    return values;
  };
}

/** Tensors of the Mixtral; `w2` times top-k, since gates add up to 1. */
function splitViews(checkpoint: Checkpoint, program: DenseProgram, config: Config, given: readonly Cut[]): Map<string, TensorView> {
  const read = reader(checkpoint);
  const { hidden, ffn } = program;
  const made = mixtral.program(config);
  const views = new Map<string, TensorView>();
  for (const { name, shape } of denseWeights(made)) {
    const layer = /^model\.layers\.(\d+)\.block_sparse_moe\.gate\.weight$/.exec(name)?.[1];
    views.set(
      name,
      floatsView(shape, async () => (layer === undefined ? read(name) : (given[Number(layer)] as Cut).router)),
    );
  }
  for (const [layer, { columns }] of given.entries())
    for (const [expert, own] of columns.entries()) {
      const [from, to] = [ffnTensors(layer), mixtral.expertTensors(layer, expert)];
      const topK = made.layers[layer]?.kind === "moe" ? made.layers[layer].topK : 1;
      for (const matrix of ["w1", "w3"] as const)
        views.set(
          to[matrix] as string,
          floatsView([own.length, hidden], async () => {
            const values = await read(from[matrix]);
            const out = new Float32Array(own.length * hidden);
            for (const [i, at] of own.entries()) out.set(values.subarray(at * hidden, (at + 1) * hidden), i * hidden);
            return out;
          }),
        );
      views.set(
        to.w2 as string,
        floatsView([hidden, own.length], async () => {
          const values = await read(from.w2);
          const size = own.length;
          return Float32Array.from(
            { length: hidden * size },
            (_, i) => topK * (values[Math.floor(i / size) * ffn + (own[i % size] as number)] as number),
          );
        }),
      );
    }
  return views;
}

/** Returns top-k. */
function checkOptions({ experts, topK }: SplitOptions, { ffn }: DenseProgram): number {
  if (experts < 2 || experts > ffn || ffn % experts !== 0)
    throw refused(`--experts is ${experts}; it must be 2 at least and divide the FFN's ${ffn} columns`);
  const most = Math.min(experts, topKMax);
  const used = topK ?? experts;
  if (used >= 1 && used <= most) return used;
  throw refused(`--top-k is ${topK === undefined ? `missing, and all are ${experts}` : topK}; it must be from 1 to ${most}`);
}

export async function split(options: SplitOptions, log: Log): Promise<{ readonly out: string; readonly index: ExpertIndex }> {
  const { from, codecs, overwrite, experts } = options;
  const out = resolve(options.out);
  await checkTarget({ dir: out, overwrite, sources: [from] });
  const raw = (await readConfig(from, "ModelNotFound")) as Config;
  const architecture = architectureIn(from, raw);
  if (architecture !== llamaArchitecture) throw noDense(from, architecture, "split");
  const program = inFolder(from, () => llamaProgram(raw));
  const topK = checkOptions(options, program);
  const files = await companionFiles(from);
  const checkpoint = await openCheckpoint(from);
  try {
    await checkDense(checkpoint, raw, program);
    const config = mixtralConfig({ ...raw, intermediate_size: program.ffn / experts }, program, { experts, topK });
    checkBlocks({ checkpoint, shapes: layerShapes(mixtral.program(config)) }, codecs);
    const views = splitViews(checkpoint, program, config, await cuts(checkpoint, program, { ...options, topK }, log));
    const model = { out, codecs, overwrite, sources: [from], config, files, checkpoint: checkpointOf(from, views, async () => {}) };
    return { out, index: await storeModel(model, log) };
  } finally {
    await checkpoint.close();
  }
}
