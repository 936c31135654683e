// Decode and prefill of a model's shape on one device, with random weights and no download: measured with one layer and with two, from
// which the time of all layers follows. In turns with it llama.cpp on the same device with the same weights, and beside both what the
// device itself reaches: a copy of its memory, and a product of matrices.
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { type CodecName, codecNames, defaultCodec } from "../../crds/names.ts";
import { selfTest } from "../../runtime/cli/selftest.ts";
import type { Backend } from "../../runtime/compute/backend.ts";
import { gpuNames } from "../../runtime/compute/ggml/packages.ts";
import { createBackend } from "../../runtime/compute/index.ts";
import type { MoeLayer, Segment } from "../../runtime/kernels/segment.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { cacheRoot } from "../cluster/binaries.ts";
import { type LoadedModel, loadModel, type ModelWeights } from "../kit/models/small-engine.ts";
import { deviceCopy } from "./device-copy.ts";
import { countRows } from "./gpu-count.ts";
import { randomModel, type Shape, shapes } from "./gpu-model.ts";
import { type Both, type DeviceLimits, gpuRows, gpuTable, type Times } from "./gpu-rows.ts";
import { writeGguf } from "./llama/gguf.ts";
import type { PeerDevice } from "./llama/library.ts";
import { planModelGguf } from "./llama/model-gguf.ts";
import { Peer } from "./llama/peer.ts";

const backends = ["cuda", "vulkan", "cpu"] as const;
const options = {
  backend: { type: "string", default: "cuda" },
  shape: { type: "string", default: "30b" },
  codec: { type: "string", default: defaultCodec },
  runs: { type: "string", default: "5" },
  alone: { type: "boolean", default: false },
  count: { type: "boolean", default: false },
  out: { type: "string" },
} as const;

/** Steps of a round, whose mean counts. */
const decodeSteps = 16;
const runsMax = 1_000;

const log = (line: string): boolean => process.stderr.write(`${line}\n`);

interface Asked {
  readonly backend: (typeof backends)[number];
  readonly shape: Shape;
  readonly codec: CodecName;
  readonly runs: number;
  readonly alone: boolean;
}

const named = <T extends string>(field: string, value: string, known: readonly T[]): T => {
  const found = known.find((name) => name === value);
  if (found !== undefined) return found;
  throw new AppError(`--${field} is "${value}"; it must be ${known.join(", ")}`, { code: "InvalidOption" });
};

function runsOf(value: string): number {
  const runs = Number(value);
  if (Number.isInteger(runs) && runs >= 1 && runs <= runsMax) return runs;
  throw new AppError(`--runs is "${value}"; it must be a whole number from 1 to ${runsMax}`, { code: "InvalidOption" });
}

/** An engine with one of the models. */
interface Subject {
  prefill(ids: readonly number[]): Promise<number>;
  /** Milliseconds of a token behind those, which it has prefilled. */
  decode(ids: readonly number[]): Promise<number>;
}

const ownSubject = (loaded: LoadedModel): Subject => ({
  async prefill(ids) {
    const start = performance.now();
    await loaded.next(ids, 0);
    return performance.now() - start;
  },
  async decode(ids) {
    await loaded.next(ids, 0);
    const start = performance.now();
    for (let step = 0; step < decodeSteps; step++) await loaded.next([step], ids.length + step);
    return (performance.now() - start) / decodeSteps;
  },
});

const peerSubject = (peer: Peer, tokens: number): Subject => ({
  prefill: async (text) => (1000 * text.length) / (await peer.prefill({ text, tokens, threads: 1 })),
  async decode(ids) {
    const text = [...ids, ...Array.from({ length: decodeSteps }, (_, step) => step)];
    return 1000 / (await peer.decode({ texts: [text], promptTokens: ids.length, tokens, threads: 1 }));
  },
});

/** The best of each engine's turns; in the first round graphs and kernels are built. */
async function inTurns(subjects: readonly Subject[], ids: readonly number[], runs: number): Promise<Times[]> {
  const best = subjects.map(() => ({ prefillMs: Number.POSITIVE_INFINITY, decodeMs: Number.POSITIVE_INFINITY }));
  for (let run = 0; run <= runs; run++) {
    for (const [i, subject] of subjects.entries()) {
      const times = { prefillMs: await subject.prefill(ids), decodeMs: await subject.decode(ids) };
      const least = best[i] as Times;
      if (run === 0) continue;
      best[i] = { prefillMs: Math.min(least.prefillMs, times.prefillMs), decodeMs: Math.min(least.decodeMs, times.decodeMs) };
    }
  }
  return best;
}

/** A device of ours, as llama.cpp is to find it: its process has the environment of this one, where opening an adapter in software has set
 *  the variable that shows those. */
function peerDevice(name: Asked["backend"], device: string): PeerDevice {
  const kind = gpuNames.find((each) => each === name);
  return kind === undefined ? { kind: "cpu" } : { kind, called: device };
}

/** llama.cpp with that model, which has been written to a file for it; or the reason why there is none. */
async function startPeer(asked: Asked, backend: Backend, model: ModelWeights, folder: string): Promise<Peer | string> {
  const path = join(folder, `${model.program.layers.length}.gguf`);
  await writeGguf(planModelGguf(model, asked.shape.config, asked.codec), path);
  try {
    return await Peer.start({ path, vocab: model.program.vocab, on: peerDevice(asked.backend, backend.device), log });
  } catch (caught) {
    const error = AppError.from(caught);
    if (error.code !== "BackendUnavailable") throw error;
    return error.message;
  } finally {
    rmSync(path); // the process that has it mapped keeps it
  }
}

/** Both engines with as many layers. */
async function measureLayers(asked: Asked, backend: Backend, layers: number, folder: string): Promise<readonly [Times, Times | string]> {
  const { prompt } = asked.shape;
  const model = randomModel(asked.shape, layers, asked.codec);
  const ids = Array.from({ length: prompt }, (_, i) => (i * 7919) % model.program.vocab);
  const kvType = backend.kvTypes[0] ?? "f32";
  const loaded = await loadModel(backend, model, { context: 2 * prompt, slots: 1, kvType });
  const peer = asked.alone ? "left out by --alone" : await startPeer(asked, backend, model, folder);
  try {
    if (typeof peer === "string") {
      log(`without llama.cpp: ${peer}`);
      return [(await inTurns([ownSubject(loaded)], ids, asked.runs))[0] as Times, peer];
    }
    const off = await peer.agreeOnLogits({ text: ids, tokens: 2 * prompt, threads: 1 }, await loaded.next(ids, 0));
    log(`llama.cpp agrees on the logits of ${layers === 1 ? "one layer" : `${layers} layers`}: ${off.toExponential(1)} off`);
    return (await inTurns([ownSubject(loaded), peerSubject(peer, 2 * prompt)], ids, asked.runs)) as [Times, Times];
  } finally {
    if (typeof peer !== "string") await peer.close();
    await loaded.dispose();
  }
}

async function limitsOf(name: Asked["backend"], speed: boolean): Promise<DeviceLimits> {
  // A case that there is not, so that speeds alone are measured.
  const { products } = await selfTest({ backend: name, threads: 1, speed, only: "none" });
  for (const { case: product, gigabytesPerSecond, gigaflops } of products)
    log(`product, ${product}: ${gigabytesPerSecond.toFixed(1)} GB/s of weights, ${gigaflops.toFixed(0)} GFLOP/s`);
  const productGigaflops = products.length === 0 ? undefined : Math.max(...products.map(({ gigaflops }) => gigaflops));
  return { copyGigabytesPerSecond: deviceCopy(name), productGigaflops };
}

const valuesOf = (segment: Segment): number =>
  segment.weights.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);

/** In f32, or as int8 in blocks of 32 that each have a scale in half precision. */
const denseBytes = (segment: Segment, bits: 8 | 16 | 32): number => (bits === 8 ? 34 / 32 : bits / 8) * valuesOf(segment);

/** What a token needs of the whole model. */
function tokenCost({ shape, codec }: Asked, backend: Backend): { readonly tokenBytes: number; readonly tokenValues: number } {
  const { program } = randomModel(shape, 1, codec);
  const { block, expert, topK } = program.layers[0] as MoeLayer;
  const { denseBits, forms } = codecFor(codec);
  const layerBytes = denseBytes(block, denseBits) + topK * backend.expertResidentBytes(expert, forms(expert.weights));
  return {
    tokenBytes: shape.layers * layerBytes + denseBytes(program.head, denseBits),
    tokenValues: shape.layers * (valuesOf(block) + topK * valuesOf(expert)),
  };
}

async function measureAll(asked: Asked, backend: Backend): Promise<{ readonly ours: Both; readonly llama: Both | string }> {
  const root = join(cacheRoot(), "gguf");
  mkdirSync(root, { recursive: true });
  const folder = mkdtempSync(join(root, "random-"));
  try {
    const [one, peerOne] = await measureLayers(asked, backend, 1, folder);
    const [two, peerTwo] = await measureLayers(asked, backend, 2, folder);
    if (typeof peerOne === "string") return { ours: [one, two], llama: peerOne };
    return { ours: [one, two], llama: typeof peerTwo === "string" ? peerTwo : [peerOne, peerTwo] };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export async function gpuBench(args: readonly string[]): Promise<readonly object[]> {
  const { values } = parseArgs({ args: [...args], options });
  if (values.count) return countRows();
  const name = named("backend", values.backend, backends);
  const codec = named("codec", values.codec, codecNames);
  const shape = shapes[named("shape", values.shape, Object.keys(shapes))] as Shape;
  const asked: Asked = { backend: name, codec, shape, runs: runsOf(values.runs), alone: values.alone };
  const limits = await limitsOf(name, values.shape !== "tiny");
  const backend = await createBackend(name, { threads: 1, denseBits: codecFor(codec).denseBits });
  try {
    const { ours, llama } = await measureAll(asked, backend);
    const { layers, prompt } = shape;
    const cost = tokenCost(asked, backend);
    const rows = gpuRows({ layers, prompt, ours, llama, tokenBytes: cost.tokenBytes, tokenValues: cost.tokenValues, limits });
    const { copyGigabytesPerSecond: copy, productGigaflops: product } = limits;
    const reached = `copy ${copy.toFixed(1)} GB/s${product === undefined ? "" : `, product ${product.toFixed(0)} GFLOP/s`}`;
    log(`${backend.device}; ${reached}`);
    if (values.out !== undefined) {
      if (!existsSync(values.out)) appendFileSync(values.out, "# Measured on GPUs\n");
      const day = new Date().toISOString().slice(0, 10);
      appendFileSync(values.out, gpuTable(day, `${values.shape}, experts ${codec}`, `${backend.device}; ${reached}`, rows));
    }
    return rows;
  } finally {
    await backend.close();
  }
}
