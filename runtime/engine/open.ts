// Opens a model for the engine thread: store, program, backend, dense part compiled, KV cache. Reads each dense tensor once.
// Not here: experts (expert-table.ts) and what a worker does with all of it (thread.ts).
import { AppError } from "../../crds/common.ts";
import type { Backend, Compiled, KvCache, Weights } from "../backends/backend.ts";
import { createBackend } from "../backends/index.ts";
import type { ModelProgram, Segment } from "../kernels/segment.ts";
import { programOf } from "../models/index.ts";
import type { ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import type { EngineInfo } from "./api.ts";
import { slotsOf } from "./core/kv.ts";
import type { ThreadOptions } from "./messages.ts";

export interface OpenModel {
  readonly store: ModelStore;
  readonly program: ModelProgram;
  readonly backend: Backend;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly head: Compiled;
  readonly kv: KvCache;
  readonly info: EngineInfo;
}

const speedRows = 16;
const speedRuns = 8;

export async function openModel(options: ThreadOptions): Promise<OpenModel> {
  const store = await openStore(options.storeDir);
  const program = programOf(store.config);
  const maxContext = Math.min(options.maxContext, program.maxContext);
  const kvSpec = { layers: program.layers, kvHeads: program.kvHeads, headDim: program.headDim, context: maxContext };
  const slots = slotsOf(options.kvPoolBytes, kvSpec);
  if (slots < 1) {
    const needed = 2 * kvSpec.layers * kvSpec.kvHeads * kvSpec.headDim * maxContext * 4;
    throw new AppError(
      `kvPool: ${options.kvPoolBytes} bytes hold no request of ${maxContext} tokens; raise kvPool to at least ${needed} or lower maxContext`,
      { code: "KvPoolTooSmall", operation: "starting the engine" },
    );
  }
  const backend = await createBackend(options.backend, { threads: options.threads, denseBits: options.codec === "int4" ? 8 : 32 });
  const read = denseCache(store);
  const embed = await compileDense(backend, program.embed, read);
  const blocks: Compiled[] = [];
  for (const block of program.blocks) blocks.push(await compileDense(backend, block, read));
  const head = await compileDense(backend, program.head, read);
  const kv = await backend.createKv({ ...kvSpec, slots });
  const info: EngineInfo = {
    modelDigest: store.index.modelDigest,
    architecture: store.index.architecture,
    layers: program.layers,
    experts: program.experts,
    topK: program.topK,
    hidden: program.hidden,
    ffn: program.ffn,
    vocab: program.vocab,
    codec: options.codec,
    backend: options.backend,
    device: backend.device,
    maxContext,
    denseBytes: [embed, ...blocks, head].reduce((sum, { residentBytes }) => sum + residentBytes, 0),
    kvBytes: kv.bytes,
    kvSlots: slots,
    expertResidentBytes: backend.expertResidentBytes(program.expert, options.codec),
    speed: await measureSpeed(backend, store, program, options),
  };
  return { store, program, backend, embed, blocks, head, kv, info };
}

/** Keeps the last big tensor: a tied embedding is read for `embed` and again for `head`. */
function denseCache(store: ModelStore): (name: string) => Promise<Weights[string]> {
  return (name) => store.readDense(name);
}

async function compileDense(backend: Backend, segment: Segment, read: (name: string) => Promise<Weights[string]>): Promise<Compiled> {
  const weights: Record<string, Weights[string]> = {};
  for (const { name } of segment.weights) weights[name] = await read(name);
  return backend.compile(segment, weights);
}

/** Expert rows per second on one expert of the store, loaded for this and dropped. */
async function measureSpeed(backend: Backend, store: ModelStore, program: ModelProgram, options: ThreadOptions): Promise<number> {
  const expert = await backend.compile(program.expert, store.decodeUnit(await store.readUnit(0, 0, options.codec), options.codec));
  const data = new Float32Array(speedRows * program.hidden).fill(0.01);
  const inputs = { x: { shape: [speedRows, program.hidden], data } };
  await expert.run(inputs);
  const start = performance.now();
  for (let i = 0; i < speedRuns; i++) await expert.run(inputs);
  const seconds = (performance.now() - start) / 1000;
  await expert.dispose();
  return (speedRows * speedRuns) / Math.max(seconds, 1e-9);
}
