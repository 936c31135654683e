// Decode and prefill of a model's shape on one device, with random weights and no download: measured with one layer and with two, from
// which the time of all layers follows. Beside it what the device itself reaches: a copy of its memory, and a product of matrices.
import { appendFileSync, existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { type BackendName, backendNames, type CodecName, codecNames, defaultCodec } from "../../crds/names.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { createBackend } from "../../runtime/compute/index.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import type { MoeLayer, Segment } from "../../runtime/kernels/segment.ts";
import type { WeightData, Weights } from "../../runtime/kernels/weights.ts";
import { programOf } from "../../runtime/models/index.ts";
import { selfTest } from "../../runtime/tools/selftest.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { loadModel, type ModelWeights } from "../contract/harness.ts";

interface Shape {
  /** Of the whole model; a run has one or two of them. */
  readonly layers: number;
  readonly prompt: number;
  readonly config: object;
}

const common = { architectures: ["Qwen3MoeForCausalLM"], rms_norm_eps: 1e-6, rope_theta: 1e6, hidden_act: "silu", norm_topk_prob: true };
const shapes: Readonly<Record<string, Shape>> = {
  // That of Qwen3-30B-A3B.
  "30b": {
    layers: 48,
    prompt: 512,
    config: {
      ...{ hidden_size: 2048, intermediate_size: 6144, moe_intermediate_size: 768, num_experts: 128, num_experts_per_tok: 8 },
      ...{ num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128, vocab_size: 151_936, max_position_embeddings: 4096 },
    },
  },
  tiny: {
    layers: 4,
    prompt: 32,
    config: {
      ...{ hidden_size: 64, intermediate_size: 128, moe_intermediate_size: 64, num_experts: 8, num_experts_per_tok: 2 },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, vocab_size: 256, max_position_embeddings: 128 },
    },
  },
};
const options = {
  backend: { type: "string", default: "cuda" },
  shape: { type: "string", default: "30b" },
  codec: { type: "string", default: defaultCodec },
  runs: { type: "string", default: "5" },
  out: { type: "string" },
} as const;

const log = (line: string): boolean => process.stderr.write(`${line}\n`);
/** Random values that large matrices repeat: drawing each would take minutes. */
const drawn = 65_536;

interface GpuRow {
  readonly case: string;
  readonly milliseconds: number;
  readonly tokensPerSecond: number;
  /** Bytes of weights that the tokens need at least, per second, as a share of what a copy on the device moves. */
  readonly ofCopy: string;
}

interface Times {
  readonly prefillMs: number;
  readonly decodeMs: number;
  readonly copyGigabytesPerSecond: number;
}

function matrix(shape: readonly number[]): Float32Array {
  const block = randomTensor(1, [drawn], 0.02).data;
  const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
  for (let at = 0; at < data.length; at += block.length) data.set(block.subarray(0, Math.min(block.length, data.length - at)), at);
  return shape.length === 1 ? data.fill(1) : data;
}

function randomModel(shape: Shape, layers: number, codec: CodecName): ModelWeights {
  const program = programOf({ ...common, ...shape.config, num_hidden_layers: layers });
  const { expert } = program.layers[0] as MoeLayer;
  const declared = expert.weights.map(({ name, shape: sizes }) => ({ name, shape: sizes }));
  const { encode, decode } = codecFor(codec);
  const unit = decode(encode(Object.fromEntries(declared.map((each) => [each.name, matrix(each.shape)])), declared), declared) as Weights;
  const weights = (segment: Segment): Weights =>
    Object.fromEntries(
      segment.weights.map(({ name, shape: sizes }) => [name, { form: "f32", shape: sizes, data: matrix(sizes) } as WeightData]),
    );
  return { program, weights, expert: () => unit }; // alike in their values, each in its own memory on the device
}

async function best(runs: number, work: () => Promise<unknown>): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let run = 0; run <= runs; run++) {
    const start = performance.now();
    await work();
    if (run > 0) least = Math.min(least, performance.now() - start); // the first builds graphs and kernels
  }
  return least;
}

async function measure(backend: Backend, model: ModelWeights, prompt: number, runs: number): Promise<Times> {
  const ids = Array.from({ length: prompt }, (_, i) => (i * 7919) % model.program.vocab);
  const loaded = await loadModel(backend, model, { context: 2 * prompt, slots: 2 });
  const prefillMs = await best(runs, () => loaded.forward(ids, 0));
  const decodeMs = await best(runs, () => loaded.forward([1], prompt));
  const copyMs = await best(runs, () => loaded.kv.copySlot(0, 1, 2 * prompt));
  const copyGigabytesPerSecond = loaded.kv.bytes / copyMs / 1e6; // half of it is read, as much is written
  await loaded.dispose();
  return { prefillMs, decodeMs, copyGigabytesPerSecond };
}

function markdown(device: string, title: string, rows: readonly GpuRow[]): string {
  const lines = rows.map((row) => `| ${row.case} | ${row.milliseconds} | ${row.tokensPerSecond} | ${row.ofCopy} |`);
  const head = `\n## ${new Date().toISOString().slice(0, 10)}: ${title}\n${device}\n\n| case | ms | tokens/s | bytes of weights, of a copy |\n|---|---|---|---|\n`;
  return `${head}${lines.join("\n")}\n`;
}

const named = <T extends string>(field: string, value: string, known: readonly T[]): T => {
  const found = known.find((name) => name === value);
  if (found !== undefined) return found;
  throw new AppError(`--${field} is "${value}"; it must be ${known.join(", ")}`, { code: "InvalidOption" });
};

export async function gpuBench(args: readonly string[]): Promise<readonly GpuRow[]> {
  const { values } = parseArgs({ args: [...args], options });
  const name: BackendName = named("backend", values.backend, backendNames);
  const codec = named("codec", values.codec, codecNames);
  const shape = shapes[named("shape", values.shape, Object.keys(shapes))] as Shape;
  const runs = Number(values.runs);
  // A case that there is not, so that speeds alone are measured.
  const { products, device } = await selfTest({ backend: name, threads: 1, speed: values.shape !== "tiny", only: "none" });
  for (const { case: product, gigabytesPerSecond, gigaflops } of products)
    log(`product, ${product}: ${gigabytesPerSecond.toFixed(1)} GB/s of weights, ${gigaflops.toFixed(0)} GFLOP/s`);
  const { denseBits } = codecFor(codec);
  const backend = await createBackend(name, { threads: 1, denseBits });
  try {
    const [one, two] = [1, 2].map((layers) => randomModel(shape, layers, codec)) as [ModelWeights, ModelWeights];
    const first = await measure(backend, one, shape.prompt, runs);
    const second = await measure(backend, two, shape.prompt, runs);
    const all = (times: "decodeMs" | "prefillMs"): number => first[times] + (shape.layers - 1) * Math.max(0, second[times] - first[times]);
    const copy = Math.max(first.copyGigabytesPerSecond, second.copyGigabytesPerSecond);
    const { block, expert, topK } = one.program.layers[0] as MoeLayer;
    const perToken =
      shape.layers * (denseBytes(block, denseBits) + topK * backend.expertResidentBytes(expert, codecFor(codec).forms(expert.weights))) +
      denseBytes(one.program.head, denseBits);
    const row = (what: string, ms: number, tokens: number, bytes: number): GpuRow => ({
      case: what,
      milliseconds: Number(ms.toFixed(2)),
      tokensPerSecond: Number(((1000 * tokens) / ms).toFixed(1)),
      ofCopy: bytes === 0 ? "" : `${((100 * bytes) / ms / 1e6 / copy).toFixed(0)}%`,
    });
    const rows = [
      row(`decode after ${shape.prompt} tokens, ${shape.layers} layers`, all("decodeMs"), 1, perToken),
      row(`prefill of ${shape.prompt} tokens, ${shape.layers} layers`, all("prefillMs"), shape.prompt, 0),
      row("decode, one layer more", second.decodeMs - first.decodeMs, 1, 0),
    ];
    log(`${device}; a copy on the device moves ${copy.toFixed(1)} GB/s, read and written`);
    if (values.out !== undefined) {
      if (!existsSync(values.out)) appendFileSync(values.out, "# Measured on GPUs\n");
      appendFileSync(values.out, markdown(`${device}; copy ${copy.toFixed(1)} GB/s`, `${values.shape}, experts ${codec}`, rows));
    }
    return rows;
  } finally {
    await backend.close();
  }
}

/** In f32, or as int8 in blocks of 32 that each have a scale in half precision. */
const denseBytes = (segment: Segment, bits: 8 | 16 | 32): number =>
  segment.weights.reduce(
    (sum, { shape }) => sum + (bits === 8 ? 34 / 32 : bits / 8) * shape.reduce((product, size) => product * size, 1),
    0,
  );
