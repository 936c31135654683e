// Opens a model for the engine thread: store, program, backend, compiled dense part and KV cache. It reads each dense tensor once.
import { AppError } from "../../../crds/common.ts";
import type { KvType } from "../../../crds/names.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { kvPoolBytes, type RankMemory } from "../../../crds/rank-memory.ts";
import { type Backend, type Compiled, type KvCache, type KvSpec, streamSlots } from "../../compute/backend.ts";
import { checkOps } from "../../compute/call-checks.ts";
import { overDevices } from "../../compute/device-split.ts";
import { checkCopies } from "../../compute/engines/check-copies.ts";
import { type BesideOptions, withProcessor } from "../../compute/engines/index.ts";
import { type TriedForms, tryForms } from "../../compute/form-self-test.ts";
import { chooseBackend, createBackend, openDevices } from "../../compute/index.ts";
import { kvBlockBytes, kvBlocksOfContext, kvBlockTokens, kvTypeRefuses } from "../../compute/kv-size.ts";
import { checkResults, tryOps } from "../../compute/op-self-test.ts";
import { predictors } from "../../experts/prefetch/index.ts";
import { checkProgram, expertGrid, segmentsOf } from "../../kernels/check-program.ts";
import { routerSegment } from "../../kernels/router-segment.ts";
import type { ModelProgram, MoeLayer, Segment } from "../../kernels/segment.ts";
import { asF32, blockOf, type WeightData, type Weights } from "../../kernels/weights.ts";
import { programOf } from "../../models/index.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { checkLayerShapes } from "../../weights/layer-shapes.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import type { StoredForm } from "../../weights/stored.ts";
import type { EngineInfo } from "../api.ts";
import { compileHead } from "../pass/head.ts";
import { type LayerRouter, whyNotAsked } from "../pass/prefetch.ts";
import type { KvPool } from "../schedule/kv-ledger.ts";
import { limitsOn } from "../schedule/request.ts";
import { type DensePlan, planDense } from "./dense-plan.ts";
import type { ThreadOptions } from "./messages.ts";

export interface OpenModel {
  readonly store: ModelStore;
  readonly program: ModelProgram;
  readonly backend: Backend;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly head: Compiled;
  /** Routers by themselves, by layer; empty unless experts are named by them. */
  readonly routers: readonly (LayerRouter | undefined)[];
  readonly kv: KvCache;
  readonly pool: KvPool;
  /** The weight of the norm before the head; undefined if there is none. */
  readonly finalNorm: Float32Array | undefined;
  readonly info: EngineInfo;
  close(): Promise<void>;
}

const kvSlotsMax = 64;
/** Increase it when a change of this code changes the bits of results; `widened`: those of products with f16 alone. */
const orderOfSums = { usual: 4, widened: 5 } as const;
const speedRows = 16;
const speedRuns = 8;

export async function openModel(options: ThreadOptions): Promise<OpenModel> {
  const store = await openStore(options.storeDir);
  try {
    return await openProgram(store, programOf(store.config), options);
  } catch (caught) {
    await store.close();
    throw caught;
  }
}

export async function openProgram(store: ModelStore, program: ModelProgram, options: ThreadOptions): Promise<OpenModel> {
  checkProgram(program);
  checkLayerShapes(store, program);
  const name = await chooseBackend(options.backend);
  const devices = await openDevices(name, { threads: options.threads }, options.devices ?? 1);
  const opened = [...devices];
  try {
    const processor = await processorBeside(devices, options);
    if (processor) opened.push(processor);
    const { denseBits } = codecFor(options.codec);
    const manyRows = devices.every((device) => device.takesManyRows(program));
    const { maxBatchTokens: rowsMax } = limitsOn(manyRows, options.limits);
    const context = Math.min(options.maxContext, program.maxContext);
    if (options.tryDevice)
      for (const device of opened) await tryOut(device, device.withOptions({ denseBits }), formsOf(store, options.codec));
    const { layers } = program;
    const onDevices = overDevices(
      devices.map((device) => device.withOptions({ denseBits, rowsMax, context })),
      layers.length,
    );
    const copies = (): BesideOptions => copiesOf(store, program, { backend: onDevices, options });
    const backend = processor ? withProcessor(onDevices, processor, copies()) : onDevices;
    for (const segment of segmentsOf(program)) checkOps(backend, backend.device, segment);
    const dense = densePlanOf(store, program, { backend, options });
    const kvSpec = kvSpecOf(store, program, { backend, options, dense });
    return await compileModel({ store, program, backend, options: { ...options, backend: name }, kvSpec, dense });
  } catch (caught) {
    for (const device of opened) await device.close();
    throw caught;
  }
}

/** Undefined where none is asked for, or there is no device whose memory could be short. */
async function processorBeside(devices: readonly Backend[], { deviceExpertBytes, threads }: ThreadOptions): Promise<Backend | undefined> {
  if (deviceExpertBytes === undefined || devices.some((device) => device.memory() === undefined)) return undefined;
  return createBackend("cpu", { threads: 1, queueThreads: threads });
}

function copiesOf(store: ModelStore, { layers }: ModelProgram, { backend, options }: Pick<Parts, "backend" | "options">): BesideOptions {
  const { codec, deviceExpertBytes: deviceBytes = 0 } = options;
  checkCopies(backend, layers, { deviceBytes, formsOf: (layer) => store.unitForms(codec, layer, 0) });
  return {
    deviceBytes,
    layers: layers.filter(({ kind }) => kind === "moe").length,
    read: async (layer, expert) => store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert),
  };
}

/** Undefined where it is not asked for, or there is no device whose memory could be short. */
function densePlanOf(store: ModelStore, program: ModelProgram, { backend, options }: Pick<Parts, "backend" | "options">): Parts["dense"] {
  const { deviceDenseBytes: askedBytes, devices = 1, memory } = options;
  if (askedBytes === undefined || backend.memory() === undefined) return undefined;
  const bytesOf = (segment: Segment): number => {
    const forms = segment.weights.map(({ name }) => [name, store.denseInfo(name)?.form ?? "f32"] as const);
    return backend.denseResidentBytes?.(segment, Object.fromEntries(forms)) ?? 0;
  };
  const plan = planDense({
    ...{ endBytes: bytesOf(program.embed) + bytesOf(program.head), layerBytes: program.layers.map(({ block }) => bytesOf(block)) },
    ...{ slots: streamSlots * devices, askedBytes },
  });
  if (memory === undefined || plan.hostBytes <= memory.bytes) return plan;
  const message = `dense weights that spec.runtime.deviceDenseMemory leaves to the machine, ${formatBytes(plan.hostBytes)}, are above ${memory.of}`;
  throw new AppError(`${message}, ${formatBytes(memory.bytes)}: raise one of the two`, {
    code: "InsufficientMemory",
    operation: "placing dense weights",
  });
}

function kvSpecOf(
  store: ModelStore,
  program: ModelProgram,
  { backend, options, dense }: Pick<Parts, "backend" | "options" | "dense">,
): KvSpec & Required<Pick<KvSpec, "poolBlocks" | "type">> {
  const context = Math.min(options.maxContext, program.maxContext);
  const { layers, heads, kvHeads, headDim, valueDim } = program;
  const { codec, kvPoolBytes: askedBytes } = options;
  const shape = { layers: layers.length, heads, kvHeads, headDim, valueDim, context, type: kvTypeOf(program, backend, options) };
  const pages = backend.kvPageBytes;
  const blockBytes = kvBlockBytes(shape, pages);
  const whole = kvBlocksOfContext(context);
  const requestBytes = whole * blockBytes;
  const mostBytes = kvSlotsMax * requestBytes;
  // A device's free memory is what its graphs have left.
  const workBytes = backend.memory() === undefined ? workBytesOf(program, { backend, options }, shape) : 0;
  const denseBytes = (dense?.deviceBytes ?? store.denseBytes(codecFor(codec).denseBits)) + workBytes + prefetchBytes(program, options);
  const pool = kvPoolBytes({ askedBytes, requestBytes, mostBytes, maxContext: context, denseBytes, memory: memoryOf(backend, options) });
  const blocks = Math.floor(pool / blockBytes);
  const slots = Math.min(kvSlotsMax, blocks);
  return { ...shape, slots, poolBlocks: Math.min(blocks, slots * whole) };
}

type Kv = Pick<KvSpec, "context" | "type">;

/** What graphs keep, and one context of the heads that this rank has of others' prompts. */
export function workBytesOf(
  program: ModelProgram,
  { backend, options }: Pick<Parts, "backend" | "options">,
  { context, type }: Kv,
): number {
  const { maxBatchTokens, maxDecodeBatch } = limitsOn(false, options.limits);
  const { layers, kvHeads, headDim, valueDim } = program;
  const { prefillParallelism = 1 } = options;
  const shape = {
    layers: layers.length,
    kvHeads: Math.ceil(kvHeads / prefillParallelism),
    headDim,
    valueDim,
    context,
    type: type ?? "f32",
  };
  const heads = prefillParallelism > 1 ? kvBlocksOfContext(context) * kvBlockBytes(shape, backend.kvPageBytes) : 0;
  return heads + backend.workBytes(layers, Math.max(maxBatchTokens, maxDecodeBatch), { context, ...(type && { type }) });
}

/** A device that has memory of its own says how much is free. */
function memoryOf(backend: Backend, { memory, deviceExpertBytes }: ThreadOptions): RankMemory | undefined {
  const { freeBytes: bytes } = backend.memory() ?? {};
  if (bytes === undefined || memory === undefined) return memory;
  const copies = deviceExpertBytes === undefined ? {} : { expertBytes: deviceExpertBytes, field: "runtime.deviceExpertMemory" };
  const own = { own: true, offloadBytes: 0, dense: "runtime.deviceDenseMemory" };
  return { ...memory, bytes, of: `the free memory of ${backend.device}`, ...own, ...copies };
}

function kvTypeOf(program: ModelProgram, backend: Backend, { kvType }: ThreadOptions): KvType {
  const { kvTypes } = backend;
  const reason = (type: KvType): string | undefined =>
    kvTypes.includes(type) ? kvTypeRefuses(type, program) : `${type} is not kept by this backend`;
  if (kvType === undefined) return kvTypes.find((type) => reason(type) === undefined) ?? "f32";
  const refused = reason(kvType);
  if (refused === undefined) return kvType;
  throw new AppError(`kvType: ${refused} (${backend.device}); set another or leave it out`, {
    code: "UnsupportedShape",
    operation: "opening a model",
  });
}

/** Tests the device's ops against f64 sums, and the model's forms of weights (compute/DECISIONS.md 3). */
async function tryOut(device: Backend, backend: Backend, forms: TriedForms): Promise<void> {
  const oracle = await createBackend("reference", { threads: 1 });
  checkResults(device, [...(await tryOps(device, oracle)), ...(await tryForms(backend, oracle, forms))]);
}

function formsOf(store: ModelStore, codec: ThreadOptions["codec"]): { experts: readonly StoredForm[]; dense: readonly StoredForm[] } {
  const experts = store.layerShapes.flatMap(({ experts }, layer) =>
    Array.from({ length: experts }, (_, expert) => Object.values(store.unitForms(codec, layer, expert))),
  );
  return { experts: [...new Set(experts.flat())], dense: store.denseForms };
}

interface Parts {
  readonly store: ModelStore;
  readonly program: ModelProgram;
  readonly backend: Backend;
  readonly options: ThreadOptions;
  readonly kvSpec: ReturnType<typeof kvSpecOf>;
  /** Unset: all weights stay where they are computed with. */
  readonly dense: DensePlan | undefined;
}

async function compileModel({ store, program, backend, options, kvSpec, dense: plan }: Parts): Promise<OpenModel> {
  const dense = denseAhead([program.embed, ...program.layers.map(({ block }) => block), program.head], store);
  const embed = await backend.compile(program.embed, await dense(), 0);
  const blocks: Compiled[] = [];
  const slotBytesOf = (layer: number): number | undefined => (plan?.streamed.has(layer) ? plan.slotBytes : undefined);
  for (const [layer, { block }] of program.layers.entries())
    blocks.push(await backend.compile(block, await dense(), layer, slotBytesOf(layer)));
  const head = await compileHead(backend, program, await dense());
  const asks = options.prefetch !== undefined && predictors[options.prefetch].asks !== undefined;
  const routers = asks ? await compileRouters(program, store, backend) : [];
  const notAsked = asks ? whyNotAsked(routers, backend.memory() && backend.device) : undefined;
  const kv = await backend.createKv(kvSpec);
  const { hidden, vocab } = program;
  const pool: KvPool = {
    slots: kv.slots,
    context: kv.context,
    blocks: kvSpec.poolBlocks,
    blockTokens: kvBlockTokens(kv.context),
  };
  const info: EngineInfo = {
    modelDigest: store.index.modelDigest,
    architecture: store.index.architecture,
    ...expertGrid(program),
    topK: store.index.topK,
    hidden,
    vocab,
    codec: options.codec,
    backend: options.backend,
    device:
      plan && plan.streamed.size > 0 ? `${backend.device}; ${plan.streamed.size} of ${blocks.length} layers streamed` : backend.device,
    numerics: numericsOf(backend, store, options, { type: kvSpec.type, byProducts: kv.byProducts, stored: kv.stored }),
    maxContext: kvSpec.context,
    denseBytes: [embed, ...blocks, head].reduce(
      (sum, each) => sum + each.residentBytes,
      workBytesOf(program, { backend, options }, kvSpec) + prefetchBytes(program, options),
    ),
    kvBytes: kv.bytes,
    kvSlots: pool.slots,
    kvBlocks: pool.blocks,
    kvBlockTokens: pool.blockTokens,
    kvPositionBytes: kv.positionBytes,
    ...residentBytesOf(program, (segment, ...at) => backend.expertResidentBytes(segment, store.unitForms(options.codec, ...at))),
    sharesCores: backend.sharesCores,
    speed: await measureSpeed(backend, store, program, options),
    warning: notAsked && `experts.prefetch: ${notAsked}; Path and Transitions go without`,
  };
  const finalNorm = await normBeforeHead(program.head, store);
  const close = async (): Promise<void> => {
    await kv.dispose();
    await backend.close();
    await store.close();
  };
  return { store, program, backend, embed, blocks, head, routers, kv, pool, finalNorm, info, close };
}

/** Copies of routers, whose weights are f32, and what a predictor learns. */
function prefetchBytes(program: ModelProgram, { prefetch }: ThreadOptions): number {
  if (prefetch === undefined) return 0;
  const { asks, tableBytes } = predictors[prefetch];
  const routers = asks ? program.layers.map((layer) => (layer.kind === "moe" ? routerSegment(layer, layer.topK) : undefined)) : [];
  const shapes = routers.flatMap((router) => router?.weights ?? []).map(({ shape }) => shape);
  const numbers = shapes.reduce((sum, shape) => sum + shape.reduce((product, size) => product * size, 1), 0);
  return numbers * Float32Array.BYTES_PER_ELEMENT + (tableBytes?.(expertGrid(program)) ?? 0);
}

/** Each names as many experts of a row as its layer chooses. */
async function compileRouters({ layers }: ModelProgram, store: ModelStore, backend: Backend): Promise<(LayerRouter | undefined)[]> {
  const routers: (LayerRouter | undefined)[] = [];
  for (const [at, layer] of layers.entries()) {
    const segment = layer.kind === "moe" ? routerSegment(layer, layer.topK) : undefined;
    const weights: Record<string, WeightData> = {};
    for (const { name } of segment?.weights ?? []) weights[name] = await store.readDense(name);
    const input = segment?.inputs[0]?.name;
    routers.push(segment && input ? { input, compiled: await backend.compile(segment, weights, at) } : undefined);
  }
  return routers;
}

type KvOfClass = Required<Pick<KvSpec, "type">> & Pick<KvCache, "byProducts" | "stored">;

/** One line, since it is compared as a whole. */
function numericsOf(backend: Backend, store: ModelStore, { codec, minGatePercent = 0 }: ThreadOptions, kv: KvOfClass): string {
  const { denseBits } = codecFor(codec);
  const { experts, dense: stored } = formsOf(store, codec);
  const placed = { 8: "q8_0", 16: undefined, 32: "f32" } as const; // floats of the dense part
  const beside = stored.map((form) => (blockOf(form) === 1 ? (placed[denseBits] ?? form) : form));
  // Norms, routers, gates and attention are always f32.
  const computed = new Set([...new Set([...experts, ...beside, "f32" as const])].sort().map((form) => backend.numerics(form)));
  const dense = { 8: "q8_0", 16: "as stored", 32: "f32" }[denseBits];
  const order = orderOfSums[kv.byProducts && kv.type === "f16" ? "widened" : "usual"];
  const gates = minGatePercent > 0 ? `gates from ${minGatePercent}%, ` : "";
  return `${backend.numericClass}: ${gates}order ${order}, ${[...computed].join(" and ")}, experts ${codec}, dense ${dense}, KV ${kv.stored ?? kv.type}`;
}

/** Weights of one segment after another; those of the next are read and hashed while the caller places these. */
function denseAhead(segments: readonly Segment[], store: ModelStore): () => Promise<Weights> {
  const left = [...segments];
  const read = async (): Promise<Weights> => {
    const names = left.shift()?.weights.map(({ name }) => name) ?? [];
    return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await store.readDense(name)] as const)));
  };
  let next = read();
  return async () => {
    const weights = await next;
    next = read();
    next.catch(() => undefined); // the caller meets it, if it comes so far
    return weights;
  };
}

async function normBeforeHead({ ops }: Segment, store: ModelStore): Promise<Float32Array | undefined> {
  const norm = ops.find((op) => op.op === "rmsNorm" && op.x === "x");
  return norm?.op === "rmsNorm" ? asF32(await store.readDense(norm.weight)) : undefined;
}

function residentBytesOf(
  program: ModelProgram,
  bytesOf: (segment: Segment, layer: number, expert: number) => number,
): Pick<EngineInfo, "expertResidentBytes" | "unlikeResidentBytes"> {
  const bytes = program.layers.map((layer, i) =>
    layer.kind === "moe" ? Array.from({ length: layer.experts }, (_, expert) => bytesOf(layer.expert, i, expert)) : [],
  );
  const expertResidentBytes = bytes.flat().reduce((most, each) => Math.max(most, each), 0);
  return bytes.flat().every((each) => each === expertResidentBytes)
    ? { expertResidentBytes }
    : { expertResidentBytes, unlikeResidentBytes: bytes };
}

/** Expert rows per second (compute/DECISIONS.md 8). */
async function measureSpeed(backend: Backend, store: ModelStore, program: ModelProgram, options: ThreadOptions): Promise<number> {
  const layer = program.layers.findIndex(({ kind }) => kind === "moe");
  if (layer < 0) return 1;
  const form = (program.layers[layer] as MoeLayer).expert;
  const unit = await store.readUnit(layer, 0, options.codec);
  const expert = await backend.createExpertSlab(form, 1, layer).put(0, store.decodeUnit(unit, options.codec, layer, 0));
  const data = new Float32Array(speedRows * program.hidden).fill(0.01);
  const inputs = { x: { shape: [speedRows, program.hidden], data } };
  await expert.run(inputs);
  const start = performance.now();
  for (let i = 0; i < speedRuns; i++) await expert.run(inputs);
  const seconds = (performance.now() - start) / 1000;
  await expert.dispose();
  return (speedRows * speedRuns) / Math.max(seconds, 1e-9);
}
