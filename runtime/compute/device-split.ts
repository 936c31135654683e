// One backend over several devices: each has consecutive layers with experts, weights and KV memory; rows pass through host memory.
import { AppError } from "../../crds/common.ts";
import type { KvType } from "../../crds/names.ts";
import type { Op, Segment } from "../kernels/segment.ts";
import type { WeightForm, WeightForms, Weights } from "../kernels/weights.ts";
import type {
  Backend,
  BufferAllocator,
  Compiled,
  DeviceMemory,
  ExpertSlab,
  Inputs,
  KvCache,
  KvCall,
  KvSpec,
  LayerRange,
  ModelOptions,
  Outputs,
  Pause,
  RangeCall,
  RangeEnds,
  RangeLayer,
  RangeOutputs,
} from "./backend.ts";

/** `devices` must be of one kind and not empty; `layers` at least as many as devices. */
export function overDevices(devices: readonly Backend[], layers: number): Backend {
  const [alone] = devices;
  if (alone !== undefined && devices.length === 1) return alone;
  if (devices.length <= layers) return new SeveralDevices(devices, layers);
  throw new AppError(`devices: ${devices.length} for a model of ${layers} layers; set spec.runtime.devices to at most ${layers}`, {
    code: "InvalidOption",
    operation: "starting the engine",
  });
}

export function firstLayerOf(device: number, layers: number, devices: number): number {
  return device * Math.floor(layers / devices) + Math.min(device, layers % devices);
}

class Placed implements Compiled {
  readonly device: number;
  readonly inner: Compiled;

  constructor(device: number, inner: Compiled) {
    this.device = device;
    this.inner = inner;
  }
  get residentBytes(): number {
    return this.inner.residentBytes;
  }
  run(inputs: Inputs, kv?: KvCall, allocate?: BufferAllocator): Promise<Outputs> {
    return this.inner.run(inputs, kv && callOn(kv, this.device), allocate);
  }
  keptRow(output: string, row: number): Float32Array {
    if (this.inner.keptRow === undefined) throw new TypeError("a program that keeps no rows");
    return this.inner.keptRow(output, row);
  }
  dispose(): Promise<void> {
    return this.inner.dispose();
  }
}

class PlacedExpertSlab implements ExpertSlab {
  readonly device: number;
  readonly inner: ExpertSlab;
  readonly copies: boolean;
  readonly step: number;

  constructor(device: number, inner: ExpertSlab) {
    this.device = device;
    this.inner = inner;
    this.copies = inner.copies ?? false;
    this.step = inner.step ?? 1;
  }
  async put(expert: number, weights: Weights, pause?: Pause): Promise<Compiled> {
    return new Placed(this.device, await this.inner.put(expert, weights, pause));
  }
}

interface Share {
  readonly first: number;
  readonly end: number;
  readonly range: LayerRange;
}

class RangeOverSeveral implements LayerRange {
  readonly #shares: readonly Share[];

  constructor(shares: readonly Share[]) {
    this.#shares = shares;
  }
  covers(layer: number): boolean {
    const share = this.#shares.find(({ first, end }) => layer >= first && layer < end);
    return share?.range.covers(layer - share.first) ?? false;
  }
  async run({ x, kv, from, to, head }: RangeCall): Promise<RangeOutputs> {
    const ids: Int32Array[] = [];
    let passed: RangeOutputs | undefined;
    for (const [device, { first, end, range }] of this.#shares.entries()) {
      if (to <= first || from >= end) continue;
      const own = { from: Math.max(from, first) - first, to: Math.min(to, end) - first };
      passed = await range.run({ x: passed?.x ?? x, kv: callOn(kv, device), ...own, head: to <= end ? head : undefined });
      ids.push(...passed.ids);
    }
    return { ...(passed as RangeOutputs), ids };
  }
}

class KvOnSeveral implements KvCache {
  readonly caches: readonly KvCache[];
  /** Backends recognize a call by identity, so each device gets its own object. */
  readonly calls = new WeakMap<KvCall, (KvCall | undefined)[]>();

  constructor(caches: readonly KvCache[]) {
    this.caches = caches;
  }
  get slots(): number {
    return Math.min(...this.caches.map(({ slots }) => slots));
  }
  get context(): number {
    return (this.caches[0] as KvCache).context;
  }
  get byProducts(): boolean {
    return this.caches.every(({ byProducts }) => byProducts);
  }
  get stored(): string | undefined {
    return this.caches.some(({ stored }) => stored === undefined)
      ? undefined
      : [...new Set(this.caches.map(({ stored }) => stored))].join(" and ");
  }
  get bytes(): number {
    return this.caches.reduce((sum, { bytes }) => sum + bytes, 0);
  }
  get positionBytes(): number {
    return this.caches.reduce((sum, { positionBytes }) => sum + positionBytes, 0);
  }
  async copySlot(from: number, to: number, length: number): Promise<void> {
    for (const cache of this.caches) await cache.copySlot(from, to, length);
  }
  async moveSlot(from: number, to: number, length: number): Promise<void> {
    for (const cache of this.caches) await cache.moveSlot(from, to, length);
  }
  trimSlot(slot: number, length: number): void {
    for (const cache of this.caches) cache.trimSlot(slot, length);
  }
  readRows(slot: number, from: number, count: number): Uint8Array {
    const rows = new Uint8Array(count * this.positionBytes);
    let at = 0;
    for (const cache of this.caches) {
      rows.set(cache.readRows(slot, from, count), at);
      at += count * cache.positionBytes;
    }
    return rows;
  }
  writeRows(slot: number, from: number, rows: Uint8Array): void {
    const count = rows.byteLength / this.positionBytes;
    let at = 0;
    for (const cache of this.caches) {
      const end = at + count * cache.positionBytes;
      cache.writeRows(slot, from, rows.subarray(at, end));
      at = end;
    }
  }
  async dispose(): Promise<void> {
    for (const cache of this.caches) await cache.dispose();
  }
}

function callOn(call: KvCall, device: number): KvCall {
  const kv = call.cache as KvOnSeveral;
  const calls = kv.calls.get(call) ?? [];
  kv.calls.set(call, calls);
  calls[device] ??= Object.assign({}, call, { cache: kv.caches[device] as KvCache });
  return calls[device];
}

class SeveralDevices implements Backend {
  readonly device: string;
  readonly numericClass: Backend["numericClass"];
  readonly prefillEqualsDecode: boolean;
  readonly kvTypes: readonly KvType[];
  readonly kvPageBytes: Backend["kvPageBytes"];
  readonly sharesCores: boolean;
  readonly selectsTokens: boolean;
  readonly ops: ReadonlySet<string>;
  readonly #devices: readonly Backend[];
  readonly #layers: number;

  constructor(devices: readonly Backend[], layers: number) {
    const [first] = devices as readonly [Backend];
    this.#devices = devices;
    this.#layers = layers;
    this.device = `${devices.length} devices: ${[...new Set(devices.map(({ device }) => device))].join("; ")}`;
    this.numericClass = devices.every(({ numericClass }) => numericClass === "exact") ? "exact" : "tolerance";
    this.prefillEqualsDecode = devices.every((each) => each.prefillEqualsDecode);
    this.sharesCores = devices.some((each) => each.sharesCores);
    this.selectsTokens = devices.every((each) => each.selectsTokens);
    this.kvTypes = first.kvTypes.filter((type) => devices.every((each) => each.kvTypes.includes(type)));
    this.kvPageBytes = first.kvPageBytes;
    this.ops = first.ops;
  }

  readonly refuses = (op: Op): string | undefined => this.#devices.map((each) => each.refuses(op)).find((reason) => reason !== undefined);

  numerics(form: WeightForm): string {
    return [...new Set(this.#devices.map((each) => each.numerics(form)))].join(" and ");
  }
  expertResidentBytes(segment: Segment, forms: WeightForms): number {
    return (this.#devices[0] as Backend).expertResidentBytes(segment, forms);
  }

  denseResidentBytes(segment: Segment, forms: WeightForms): number {
    return (this.#devices[0] as Backend).denseResidentBytes?.(segment, forms) ?? 0;
  }

  async compile(segment: Segment, weights: Weights, layer = 0, slotBytes?: number): Promise<Compiled> {
    const device = this.#deviceOf(layer);
    const first = this.#firstLayer(device);
    const ops = segment.ops.map((op) => (op.op === "attention" ? Object.assign({}, op, { layer: op.layer - first }) : op));
    const inner = await (this.#devices[device] as Backend).compile(Object.assign({}, segment, { ops }), weights, layer, slotBytes);
    return new Placed(device, inner);
  }

  createExpertSlab(expert: Segment, experts: number, layer = 0): ExpertSlab {
    const device = this.#deviceOf(layer);
    return new PlacedExpertSlab(device, (this.#devices[device] as Backend).createExpertSlab(expert, experts, layer));
  }

  createRange(layers: readonly RangeLayer[], { embed, head }: RangeEnds = {}): LayerRange {
    const own = ({ layer, block, expertSlab }: RangeLayer): RangeLayer => {
      const inner = { layer, block: (block as Placed).inner };
      return expertSlab ? Object.assign(inner, { expertSlab: (expertSlab as PlacedExpertSlab).inner }) : inner;
    };
    const shares = this.#devices.map((device, i) => {
      const [first, end] = [this.#firstLayer(i), this.#firstLayer(i + 1)];
      const ends = { embed: (embed as Placed | undefined)?.inner, head: (head as Placed | undefined)?.inner };
      return { first, end, range: device.createRange(layers.slice(first, end).map(own), ends) };
    });
    return new RangeOverSeveral(shares);
  }

  async createKv(spec: KvSpec): Promise<KvCache> {
    const caches: KvCache[] = [];
    try {
      for (const [i, device] of this.#devices.entries()) {
        const layers = this.#firstLayer(i + 1) - this.#firstLayer(i);
        caches.push(await device.createKv(Object.assign({}, spec, { layers })));
      }
    } catch (caught) {
      for (const cache of caches) await cache.dispose();
      throw caught;
    }
    return new KvOnSeveral(caches);
  }

  async runMany(calls: Parameters<Backend["runMany"]>[0]): Promise<readonly Outputs[]> {
    const outputs: Outputs[] = [];
    const placed = calls.map(({ program, inputs }, at) => ({ at, inputs, program: program as Placed }));
    for (const [i, device] of this.#devices.entries()) {
      const here = placed.filter(({ program }) => program.device === i);
      if (here.length === 0) continue;
      const done = await device.runMany(here.map(({ program, inputs }) => ({ program: program.inner, inputs })));
      for (const [k, { at }] of here.entries()) outputs[at] = done[k] as Outputs;
    }
    return outputs;
  }

  memory(): DeviceMemory | undefined {
    const own = this.#devices.flatMap((each) => each.memory() ?? []);
    if (own.length === 0) return undefined;
    const sum = (of: (each: DeviceMemory) => number): number => own.reduce((total, each) => total + of(each), 0);
    return { freeBytes: sum(({ freeBytes }) => freeBytes), totalBytes: sum(({ totalBytes }) => totalBytes) };
  }
  workBytes(...of: Parameters<Backend["workBytes"]>): number {
    return this.#devices.reduce((sum, each) => sum + each.workBytes(...of), 0);
  }
  fault(): AppError | undefined {
    return this.#devices.map((each) => each.fault()).find((fault) => fault !== undefined);
  }
  takesManyRows(heads: Parameters<Backend["takesManyRows"]>[0]): boolean {
    return this.#devices.every((each) => each.takesManyRows(heads));
  }
  withOptions(options: ModelOptions): Backend {
    return new SeveralDevices(
      this.#devices.map((device) => device.withOptions(options)),
      this.#layers,
    );
  }
  async close(): Promise<void> {
    for (const device of this.#devices) await device.close();
  }

  #deviceOf(layer: number): number {
    return this.#devices.findLastIndex((_, i) => this.#firstLayer(i) <= layer);
  }
  #firstLayer(device: number): number {
    return firstLayerOf(device, this.#layers, this.#devices.length);
  }
}
