// The reference backend: the kernels' own forward, with f32 storage and f64 sums. The oracle of all others.
import { kernelOf, opNames } from "../kernels/index.ts";
import type { KvRows, Values } from "../kernels/kernel.ts";
import { rowsOfGroups } from "../kernels/kv-groups.ts";
import type { Segment, Tensor } from "../kernels/segment.ts";
import { copyF32, type Weights } from "../kernels/weights.ts";
import { isPlain } from "../kernels/widths.ts";
import type {
  Backend,
  BackendFactory,
  Capabilities,
  Compiled,
  ExpertSlab,
  Inputs,
  KvCache,
  KvCall,
  KvSpec,
  LayerRange,
  Outputs,
  RangeCall,
  RangeEnds,
  RangeLayer,
  RangeOutputs,
} from "./backend.ts";
import { checkCopy, checkInputs, checkKv, checkOps, weightOf } from "./call-checks.ts";
import { kvBlockBytes, kvBlocksOfContext, kvPositionBytes } from "./kv-size.ts";
import { withEnds } from "./range-ends.ts";

/** Never called for a segment without a cache. */
export type KvOfLayer = (layer: number) => KvRows | undefined;

/** Returns every value by name: inputs, weights and the ops' outputs (a tape). */
export function evaluate(segment: Segment, given: Values, kvOf: KvOfLayer): Map<string, Tensor> {
  const values = new Map(Object.entries(given));
  const read = (name: string): Tensor => {
    const value = values.get(name);
    if (!value) throw new TypeError(`${segment.name}: ${name} is read before it is written`);
    return value;
  };
  for (const op of segment.ops) {
    const kernel = kernelOf(op);
    const layer = kernel.kvLayer?.(op);
    const kv = layer === undefined ? undefined : kvOf(layer);
    for (const [name, value] of Object.entries(kernel.forward(op, { read, kv }))) values.set(name, value);
  }
  return values;
}

const pageBytes = 1;

interface LayerRows {
  keys: Float32Array;
  values: Float32Array;
}

class ReferenceKv implements KvCache {
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly positionBytes: number;
  readonly #spec: KvSpec;
  readonly #layers: readonly LayerRows[];
  #held = 0;

  constructor(spec: KvSpec) {
    this.slots = spec.slots;
    this.context = spec.context;
    this.bytes = (spec.poolBlocks ?? spec.slots * kvBlocksOfContext(spec.context)) * kvBlockBytes(spec, pageBytes);
    this.positionBytes = kvPositionBytes(spec);
    this.#spec = spec;
    this.#layers = Array.from({ length: spec.layers }, () => ({ keys: new Float32Array(0), values: new Float32Array(0) }));
  }

  rows(layer: number, call: KvCall): KvRows | undefined {
    const stored = this.#layers[layer];
    if (!stored) return undefined;
    const { groups } = call;
    this.#hold(groups.reduce((most, { firstSlot, batch }) => Math.max(most, firstSlot + batch), 0));
    return { ...stored, context: this.context, groups };
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    this.#hold(Math.max(from, to) + 1);
    const { kvHeads, headDim, valueDim } = this.#spec;
    for (const { keys, values } of this.#layers)
      for (const [array, width] of [[keys, headDim] as const, [values, valueDim] as const])
        for (let h = 0; h < kvHeads; h++) {
          const source = (from * kvHeads + h) * this.context * width;
          array.copyWithin((to * kvHeads + h) * this.context * width, source, source + length * width);
        }
  }

  moveSlot(from: number, to: number, length: number): Promise<void> {
    return this.copySlot(from, to, length);
  }

  trimSlot(slot: number, length: number): void {
    checkCopy(this, slot, slot, length); // the arrays stay: they are small
  }

  readRows(slot: number, from: number, count: number): Uint8Array {
    const rows = new Float32Array((count * this.positionBytes) / Float32Array.BYTES_PER_ELEMENT);
    this.#eachRow(slot, { from, count }, (stored, at) => rows.set(stored, at));
    return new Uint8Array(rows.buffer);
  }

  writeRows(slot: number, from: number, rows: Uint8Array): void {
    const values = new Float32Array(rows.slice().buffer);
    const count = rows.byteLength / this.positionBytes;
    this.#eachRow(slot, { from, count }, (stored, at) => stored.set(values.subarray(at, at + stored.length)));
  }

  /** Each head's row of each position, and where it is among all. */
  #eachRow(
    slot: number,
    { from, count }: { readonly from: number; readonly count: number },
    visit: (row: Float32Array, at: number) => void,
  ): void {
    checkCopy(this, slot, slot, from + count);
    this.#hold(slot + 1);
    const { kvHeads, headDim, valueDim } = this.#spec;
    let at = 0;
    for (const { keys, values } of this.#layers)
      for (const [array, width] of [[keys, headDim] as const, [values, valueDim] as const])
        for (let position = from; position < from + count; position++)
          for (let h = 0; h < kvHeads; h++, at += width) {
            const start = ((slot * kvHeads + h) * this.context + position) * width;
            visit(array.subarray(start, start + width), at);
          }
  }

  #hold(slots: number): void {
    if (slots <= this.#held) return;
    this.#held = Math.min(this.slots, Math.max(slots, 2 * this.#held));
    const { kvHeads, headDim, valueDim } = this.#spec;
    const grown = (array: Float32Array, width: number): Float32Array => {
      const larger = new Float32Array(this.#held * kvHeads * this.context * width);
      larger.set(array);
      return larger;
    };
    for (const layer of this.#layers) {
      layer.keys = grown(layer.keys, headDim);
      layer.values = grown(layer.values, valueDim);
    }
  }

  async dispose(): Promise<void> {}
}

function compile(segment: Segment, weights: Weights): Compiled {
  const constants: Record<string, Tensor> = {};
  for (const { name, shape } of segment.weights) {
    const weight = weightOf(segment, weights, name);
    constants[name] = { shape, data: copyF32(weight) };
  }
  let last: ReadonlyMap<string, Tensor> = new Map();
  return {
    residentBytes: f32Bytes(segment),
    async run(inputs: Inputs, kv?: KvCall): Promise<Outputs> {
      checkKv(segment, kv, checkInputs(segment, inputs));
      const values = evaluate(segment, { ...constants, ...inputs }, (layer) =>
        kv?.cache instanceof ReferenceKv ? kv.cache.rows(layer, kv) : undefined,
      );
      last = values;
      return Object.fromEntries(segment.outputs.flatMap(({ name, kept }) => (kept ? [] : [[name, values.get(name) as Tensor]])));
    },
    keptRow(name, row) {
      const { shape = [0, 0], data } = last.get(name) ?? {};
      const width = shape[1] ?? 0;
      return (data as Float32Array).slice(row * width, (row + 1) * width);
    },
    async dispose() {},
  };
}

class ReferenceExpertSlab implements ExpertSlab {
  readonly experts = new Map<number, Compiled>();
  readonly #segment: Segment;

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  async put(expert: number, weights: Weights): Promise<Compiled> {
    checkOps(referenceCapabilities, device, this.#segment);
    const compiled = compile(this.#segment, weights);
    const lone = this.experts.has(expert);
    if (!lone) this.experts.set(expert, compiled);
    return { ...compiled, dispose: async () => void (lone || this.experts.delete(expert)) };
  }
}

/** Layer by layer. */
class ReferenceRange implements LayerRange {
  readonly #layers: readonly RangeLayer[];
  readonly #ends: RangeEnds;

  constructor(layers: readonly RangeLayer[], ends: RangeEnds) {
    this.#layers = layers;
    this.#ends = ends;
  }

  covers(layer: number): boolean {
    const part = this.#layers[layer];
    if (part === undefined || !isPlain(part.layer)) return false;
    return part.layer.kind === "dense" || expertSlabOf(part).experts.size === part.layer.experts;
  }

  run(call: RangeCall): Promise<RangeOutputs> {
    return withEnds(this.#ends, call, (x) => this.#pass(x, call));
  }

  async #pass(x: Float32Array, { kv, from, to }: RangeCall): Promise<RangeOutputs> {
    const rows = rowsOfGroups(kv.groups);
    const width = x.length / rows;
    const ids: Int32Array[] = [];
    let y = x;
    for (const part of this.#layers.slice(from, to)) {
      const out = await part.block.run({ x: { shape: [rows, width], data: y } }, kv);
      const chosen = part.layer.kind === "moe" ? (out.ids?.data as Int32Array) : new Int32Array(0);
      ids.push(chosen);
      y = part.layer.kind === "moe" ? await withExperts(expertSlabOf(part), out, chosen) : (out.y?.data as Float32Array);
    }
    return { x: y, ids };
  }
}

const expertSlabOf = ({ expertSlab }: RangeLayer): ReferenceExpertSlab => expertSlab as ReferenceExpertSlab;

/** h + the sum over k of gates[k] * y[k], in gate order and in f32. */
async function withExperts({ experts }: ReferenceExpertSlab, out: Outputs, ids: Int32Array): Promise<Float32Array> {
  const [h, f, gates] = [out.h, out.f, out.gates].map((tensor) => tensor?.data as Float32Array) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const width = out.h?.shape[1] as number;
  const topK = (ids.length * width) / h.length;
  const sum = h.slice();
  for (const [pair, id] of ids.entries()) {
    const at = Math.floor(pair / topK) * width;
    const { y } = await (experts.get(id) as Compiled).run({ x: { shape: [1, width], data: f.subarray(at, at + width) } });
    for (let j = 0; j < width; j++) sum[at + j] = (sum[at + j] as number) + Math.fround((gates[pair] as number) * (y?.data[j] as number));
  }
  return sum;
}

const f32Bytes = (segment: Segment): number =>
  segment.weights.reduce((bytes, { shape }) => bytes + shape.reduce((a, b) => a * b, Float32Array.BYTES_PER_ELEMENT), 0);

const device = "reference: plain TypeScript";

export const referenceCapabilities: Capabilities = { ops: new Set<string>(opNames), refuses: () => undefined };

export const createReferenceBackend: BackendFactory = async ({ selects = false }): Promise<Backend> => ({
  ...referenceCapabilities,
  device,
  numericClass: "exact",
  numerics: () => "reference",
  prefillEqualsDecode: true,
  kvTypes: ["f32"],
  kvPageBytes: pageBytes,
  sharesCores: true,
  takesManyRows: () => false,
  selectsTokens: selects,
  async compile(segment, weights) {
    checkOps(referenceCapabilities, device, segment);
    return compile(segment, weights);
  },
  createExpertSlab: (expert) => new ReferenceExpertSlab(expert),
  createRange: (layers, ends = {}) => new ReferenceRange(layers, ends),
  createKv: async (spec) => new ReferenceKv(spec),
  async runMany(calls) {
    const outputs: Outputs[] = [];
    for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
    return outputs;
  },
  expertResidentBytes: f32Bytes,
  withOptions() {
    return this as Backend;
  },
  memory: () => undefined,
  workBytes: () => 0,
  fault: () => undefined,
  async close() {},
});
