// The opening of a model for the engine thread: store, program, backend, dense part compiled, KV cache. Reads each dense tensor
// once. Not here: experts (expert-table.ts) and what the engine does with all of it (loop.ts).
import { AppError } from "../../crds/common.ts";
import type { Backend, Compiled, KvCache } from "../backends/backend.ts";
import { chooseBackend, createBackend } from "../backends/index.ts";
import type { ModelProgram, Segment } from "../kernels/segment.ts";
import type { Weights } from "../kernels/weights.ts";
import { programOf } from "../models/index.ts";
import { codecFor } from "../weights/codecs/index.ts";
import type { ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import type { EngineInfo } from "./api.ts";
import { slotsOf } from "./core/kv-slots.ts";
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
  close(): Promise<void>;
}

const speedRows = 16;
const speedRuns = 8;

export async function openModel(options: ThreadOptions): Promise<OpenModel> {
  const store = await openStore(options.storeDir);
  try {
    const program = programOf(store.config);
    const kvSpec = kvShape(program, options);
    const codec = codecFor(options.codec);
    const name = await chooseBackend(options.backend);
    const backend = await createBackend(name, { threads: options.threads, denseBits: codec.exact ? 32 : 8 });
    try {
      return await compileModel({ store, program, backend, options: { ...options, backend: name }, kvSpec });
    } catch (caught) {
      await backend.close();
      throw caught;
    }
  } catch (caught) {
    await store.close();
    throw caught;
  }
}

interface KvShape {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly context: number;
  readonly slots: number;
}

function kvShape(program: ModelProgram, { maxContext, kvPoolBytes }: ThreadOptions): KvShape {
  const context = Math.min(maxContext, program.maxContext);
  const shape = { layers: program.layers, kvHeads: program.kvHeads, headDim: program.headDim, context };
  const slots = slotsOf(kvPoolBytes, shape);
  if (slots >= 1) return { ...shape, slots };
  const needed = 2 * shape.layers * shape.kvHeads * shape.headDim * context * Float32Array.BYTES_PER_ELEMENT;
  throw new AppError(
    `kvPool: ${kvPoolBytes} bytes hold no request of ${context} tokens; raise kvPool to at least ${needed} or lower maxContext`,
    { code: "KvPoolTooSmall", operation: "starting the engine" },
  );
}

interface Parts {
  readonly store: ModelStore;
  readonly program: ModelProgram;
  readonly backend: Backend;
  readonly options: ThreadOptions;
  readonly kvSpec: KvShape;
}

async function compileModel({ store, program, backend, options, kvSpec }: Parts): Promise<OpenModel> {
  const embed = await compileDense(backend, program.embed, store);
  const blocks: Compiled[] = [];
  for (const block of program.blocks) blocks.push(await compileDense(backend, block, store));
  const head = await compileDense(backend, program.head, store);
  const kv = await backend.createKv(kvSpec);
  const { layers, experts, topK, hidden, ffn, vocab } = program;
  const info: EngineInfo = {
    modelDigest: store.index.modelDigest,
    architecture: store.index.architecture,
    layers,
    experts,
    topK,
    hidden,
    ffn,
    vocab,
    codec: options.codec,
    backend: options.backend,
    device: backend.device,
    maxContext: kvSpec.context,
    denseBytes: [embed, ...blocks, head].reduce((sum, { residentBytes }) => sum + residentBytes, 0),
    kvBytes: kv.bytes,
    kvSlots: kvSpec.slots,
    expertResidentBytes: backend.expertResidentBytes(program.expert, codecFor(options.codec).form),
    sharesCores: backend.sharesCores,
    speed: await measureSpeed(backend, store, program, options),
  };
  const close = async (): Promise<void> => {
    await kv.dispose();
    await backend.close();
    await store.close();
  };
  return { store, program, backend, embed, blocks, head, kv, info, close };
}

async function compileDense(backend: Backend, segment: Segment, store: ModelStore): Promise<Compiled> {
  const weights: Record<string, Weights[string]> = {};
  for (const { name } of segment.weights) weights[name] = await store.readDense(name);
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
