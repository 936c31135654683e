// KV storage on the device: per layer one buffer for keys and one for values, [slot][kvHeads][context][headDim], zeroed,
// and the rotary tables its programs read. Copies between slots stay on the device.
import { ropeTables } from "../../kernels/rope.ts";
import type { Rope } from "../../kernels/segment.ts";
import type { KvCache, KvSpec } from "../backend.ts";
import { checkCopy } from "../check.ts";
import { allocate, type BufferPool, upload } from "./buffers.ts";
import { type Gpu, scoped } from "./device.ts";

const bytesPerValue = 4;

export class DeviceKv implements KvCache {
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  readonly #spec: KvSpec;
  readonly #gpu: Gpu;
  readonly #pool: BufferPool;
  readonly #layers: { readonly keys: GPUBuffer; readonly values: GPUBuffer }[] = [];
  readonly #rope = new Map<Rope, GPUBuffer>();

  private constructor(gpu: Gpu, pool: BufferPool, spec: KvSpec) {
    this.#gpu = gpu;
    this.#pool = pool;
    this.#spec = spec;
    this.slots = spec.slots;
    this.context = spec.context;
    const layerBytes = spec.slots * this.#slotBytes;
    this.bytes = 2 * spec.layers * layerBytes;
    for (let layer = 0; layer < spec.layers; layer++) {
      this.#layers.push({
        keys: allocate(gpu, layerBytes, `keys of layer ${layer}`),
        values: allocate(gpu, layerBytes, `values of layer ${layer}`),
      });
    }
  }

  static create(gpu: Gpu, pool: BufferPool, spec: KvSpec): Promise<DeviceKv> {
    return scoped(gpu, "allocating KV storage", () => new DeviceKv(gpu, pool, spec));
  }

  get #slotBytes(): number {
    return this.#spec.kvHeads * this.#spec.context * this.#spec.headDim * bytesPerValue;
  }

  buffer(layer: number, part: "keys" | "values"): GPUBuffer | undefined {
    return this.#layers[layer]?.[part];
  }

  /** [context, headDim / 2] of (cos, sin). */
  rope(rope: Rope): GPUBuffer {
    const known = this.#rope.get(rope); // layers share the object of a model's rotation
    if (known) return known;
    const { cos, sin } = ropeTables(this.context, rope);
    const pairs = Float32Array.from({ length: 2 * cos.length }, (_, i) => (i % 2 === 0 ? cos : sin)[i >> 1] as number);
    const made = upload(this.#gpu, pairs, "rotary table");
    this.#rope.set(rope, made);
    return made;
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (from === to || length === 0) return;
    // A copy within one buffer is not allowed, so it goes through scratch.
    const { kvHeads, context, headDim } = this.#spec;
    const headBytes = context * headDim * bytesPerValue;
    const bytes = length * headDim * bytesPerValue;
    await scoped(this.#gpu, "copying a KV slot", () => {
      const scratch = this.#pool.take("scratch", this.#slotBytes);
      const encoder = this.#gpu.device.createCommandEncoder();
      for (const buffer of this.#layers.flatMap(({ keys, values }) => [keys, values])) {
        for (let h = 0; h < kvHeads; h++) {
          encoder.copyBufferToBuffer(buffer, from * this.#slotBytes + h * headBytes, scratch, h * headBytes, bytes);
        }
        for (let h = 0; h < kvHeads; h++) {
          encoder.copyBufferToBuffer(scratch, h * headBytes, buffer, to * this.#slotBytes + h * headBytes, bytes);
        }
      }
      this.#gpu.device.queue.submit([encoder.finish()]);
      this.#pool.give("scratch", scratch);
    });
  }

  async dispose(): Promise<void> {
    for (const { keys, values } of this.#layers) {
      keys.destroy();
      values.destroy();
    }
    for (const table of this.#rope.values()) table.destroy();
    this.#layers.length = 0;
    this.#rope.clear();
  }
}
