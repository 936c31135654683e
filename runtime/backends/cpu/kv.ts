// KV storage of the cpu backend: per layer one tensor of keys and one of values, [slot][kvHeads][capacity][headDim].
// A call binds the view of its slots as past; what the graph computes anew is stored afterwards, row by row. Attention copies
// the whole view (measured: 150 us a layer at 2048 positions), so rows are laid out with a capacity that follows what is
// stored, in powers of two, inside the same arrays.
import type { Tensor } from "onnxruntime-node";
import { ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvCall, KvSpec } from "../backend.ts";
import { checkCopy } from "../check.ts";
import { f32 } from "./session.ts";

interface View {
  readonly keys: Tensor;
  readonly values: Tensor;
}

const capacityMin = 64; // positions

export class CpuKv implements KvCache {
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly #spec: KvSpec;
  readonly #layers: { readonly keys: Float32Array; readonly values: Float32Array }[];
  readonly #views = new Map<string, View[]>();
  readonly #rope = new Map<Rope, { readonly cos: Tensor; readonly sin: Tensor }>();
  /** Positions of each slot that hold something. */
  readonly #used: Int32Array;
  #capacity: number;

  constructor(spec: KvSpec) {
    const length = spec.slots * spec.kvHeads * spec.context * spec.headDim;
    this.slots = spec.slots;
    this.context = spec.context;
    this.bytes = 2 * spec.layers * length * Float32Array.BYTES_PER_ELEMENT;
    this.#spec = spec;
    this.#layers = Array.from({ length: spec.layers }, () => ({ keys: new Float32Array(length), values: new Float32Array(length) }));
    this.#used = new Int32Array(spec.slots);
    this.#capacity = Math.min(spec.context, capacityMin);
  }

  /** Tensors over the slots of a call; views are kept, since a decode step asks for the same one in every layer. */
  view(layer: number, call: KvCall): View {
    this.#fit(call);
    const { firstSlot, batch } = call;
    const key = `${firstSlot}.${batch}`;
    let views = this.#views.get(key);
    if (!views) {
      const { kvHeads, headDim } = this.#spec;
      const slot = kvHeads * this.#capacity * headDim;
      const shape = [batch, kvHeads, this.#capacity, headDim];
      const cut = (array: Float32Array): Tensor => f32(array.subarray(firstSlot * slot, (firstSlot + batch) * slot), shape);
      views = this.#layers.map(({ keys, values }) => ({ keys: cut(keys), values: cut(values) }));
      this.#views.set(key, views);
    }
    const view = views[layer];
    if (!view) throw new RangeError(`layer ${layer} is not in this KV cache`);
    return view;
  }

  /** Stores the keys and values of a call's tokens, [batch, tokens, kvHeads * headDim] each. */
  store(layer: number, call: KvCall, keys: Float32Array, values: Float32Array): void {
    const { kvHeads, headDim } = this.#spec;
    const to = this.#layers[layer];
    if (!to) throw new RangeError(`layer ${layer} is not in this KV cache`);
    let from = 0;
    for (let i = 0; i < call.batch; i++) {
      for (let t = 0; t < call.tokens; t++) {
        const position = (call.past[i] as number) + t;
        for (let h = 0; h < kvHeads; h++, from += headDim) {
          const at = (((call.firstSlot + i) * kvHeads + h) * this.#capacity + position) * headDim;
          to.keys.set(keys.subarray(from, from + headDim), at);
          to.values.set(values.subarray(from, from + headDim), at);
        }
      }
    }
  }

  /** Layers share the object of a model's rotation, which is the key. */
  rope(rope: Rope): { readonly cos: Tensor; readonly sin: Tensor } {
    let tables = this.#rope.get(rope);
    if (!tables) {
      const { cos, sin } = ropeTables(this.context, rope);
      const shape = [this.context, this.#spec.headDim / 2];
      tables = { cos: f32(cos, shape), sin: f32(sin, shape) };
      this.#rope.set(rope, tables);
    }
    return tables;
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    this.#lay(length);
    const { kvHeads, headDim } = this.#spec;
    const head = this.#capacity * headDim;
    for (const { keys, values } of this.#layers) {
      for (let h = 0; h < kvHeads; h++) {
        const source = (from * kvHeads + h) * head;
        for (const array of [keys, values]) array.copyWithin((to * kvHeads + h) * head, source, source + length * headDim);
      }
    }
    this.#used[to] = Math.max(this.#used[to] ?? 0, length);
  }

  async dispose(): Promise<void> {
    this.#layers.length = 0;
    this.#views.clear();
  }

  /** Makes room for the rows of a call, and notes them. */
  #fit({ firstSlot, batch, tokens, past }: KvCall): void {
    let needed = 0;
    for (let i = 0; i < batch; i++) {
      const total = (past[i] ?? 0) + tokens;
      const before = past[i] === 0 ? 0 : (this.#used[firstSlot + i] ?? 0); // a prompt that starts anew drops what was there
      this.#used[firstSlot + i] = Math.max(before, total);
      needed = Math.max(needed, total);
    }
    if (needed > this.#capacity) this.#lay(needed);
    else if (past[0] === 0 && this.#capacity > capacityMin) this.#shrink();
  }

  #shrink(): void {
    const most = Math.max(...this.#used);
    if (2 * most <= this.#capacity / 2) this.#relay(this.#tier(2 * most));
  }

  #lay(positions: number): void {
    if (positions > this.#capacity) this.#relay(this.#tier(positions));
  }

  #tier(positions: number): number {
    let capacity = capacityMin;
    while (capacity < positions) capacity *= 2;
    return Math.min(capacity, this.context);
  }

  /** Moves every row to the layout of another capacity, in place: from the last row when rows move up, from the first when down. */
  #relay(capacity: number): void {
    const { kvHeads, headDim } = this.#spec;
    const rows = this.slots * kvHeads;
    const up = capacity > this.#capacity;
    for (let i = 0; i < rows; i++) {
      const row = up ? rows - 1 - i : i;
      const length = Math.min(this.#used[Math.floor(row / kvHeads)] ?? 0, this.#capacity) * headDim;
      if (length === 0) continue;
      const from = row * this.#capacity * headDim;
      for (const { keys, values } of this.#layers) {
        keys.copyWithin(row * capacity * headDim, from, from + length);
        values.copyWithin(row * capacity * headDim, from, from + length);
      }
    }
    this.#capacity = capacity;
    this.#views.clear();
  }
}
