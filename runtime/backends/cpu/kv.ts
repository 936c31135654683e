// KV storage of the cpu backend: per layer one tensor of keys and one of values, [slot][kvHeads][context][headDim].
// GroupQueryAttention appends in place when past and present are the same tensor; a call binds the view of its slots.
import type { Tensor } from "onnxruntime-node";
import { ropeTables } from "../../kernels/rope.ts";
import type { Backend, KvCache, KvCall } from "../backend.ts";
import { checkCopy } from "../check.ts";
import { f32 } from "./session.ts";

type KvSpec = Parameters<Backend["createKv"]>[0];

interface View {
  readonly keys: Tensor;
  readonly values: Tensor;
}

export class CpuKv implements KvCache {
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly #spec: KvSpec;
  readonly #layers: { readonly keys: Float32Array; readonly values: Float32Array }[];
  readonly #views = new Map<string, View[]>();
  readonly #rope = new Map<number, { readonly cos: Tensor; readonly sin: Tensor }>();

  constructor(spec: KvSpec) {
    const length = spec.slots * spec.kvHeads * spec.context * spec.headDim;
    this.slots = spec.slots;
    this.context = spec.context;
    this.bytes = 2 * spec.layers * length * Float32Array.BYTES_PER_ELEMENT;
    this.#spec = spec;
    this.#layers = Array.from({ length: spec.layers }, () => ({ keys: new Float32Array(length), values: new Float32Array(length) }));
  }

  /** Tensors over the slots of a call; views are kept, since a decode step asks for the same one in every layer. */
  view(layer: number, { firstSlot, batch }: KvCall): View {
    const key = `${firstSlot}.${batch}`;
    let views = this.#views.get(key);
    if (!views) {
      const { kvHeads, headDim, context } = this.#spec;
      const slot = kvHeads * context * headDim;
      const shape = [batch, kvHeads, context, headDim];
      const cut = (array: Float32Array): Tensor => f32(array.subarray(firstSlot * slot, (firstSlot + batch) * slot), shape);
      views = this.#layers.map(({ keys, values }) => ({ keys: cut(keys), values: cut(values) }));
      this.#views.set(key, views);
    }
    const view = views[layer];
    if (!view) throw new RangeError(`layer ${layer} is not in this KV cache`);
    return view;
  }

  rope(base: number): { readonly cos: Tensor; readonly sin: Tensor } {
    let tables = this.#rope.get(base);
    if (!tables) {
      const { cos, sin } = ropeTables(this.context, this.#spec.headDim, base);
      const shape = [this.context, this.#spec.headDim / 2];
      tables = { cos: f32(cos, shape), sin: f32(sin, shape) };
      this.#rope.set(base, tables);
    }
    return tables;
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    const { kvHeads, headDim, context } = this.#spec;
    const head = context * headDim;
    for (const { keys, values } of this.#layers) {
      for (let h = 0; h < kvHeads; h++) {
        const source = (from * kvHeads + h) * head;
        for (const array of [keys, values]) array.copyWithin((to * kvHeads + h) * head, source, source + length * headDim);
      }
    }
  }

  async dispose(): Promise<void> {
    this.#layers.length = 0;
    this.#views.clear();
  }
}
