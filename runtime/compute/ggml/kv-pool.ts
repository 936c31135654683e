// The KV cache with memory allocated up front, as on a GPU: slots take blocks from one pool of rows per layer.
import { AppError } from "../../../crds/common.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import type { KvSpec } from "../backend.ts";
import { checkCopy } from "../call-checks.ts";
import { kvBlockTokens } from "../kv-size.ts";
import type { GgmlDevice } from "./device.ts";
import { GgmlKv, type KvView, type Piece } from "./kv-memory.ts";

/** Attention reads a multiple of so many rows. */
const lengthStep = 256;

export class PoolKv extends GgmlKv {
  readonly slots: number;
  readonly shared = true;
  readonly #blockTokens: number;
  /** The number of slots that share each block. */
  readonly #users: Uint16Array;
  readonly #tables: number[][];
  readonly #views = new WeakMap<KvGroup, KvView>();
  /** No lower block is free. */
  #lowest = 0;

  constructor(device: GgmlDevice, spec: KvSpec) {
    super(device, spec, 1);
    this.slots = spec.slots;
    this.#blockTokens = kvBlockTokens(spec.context);
    this.#users = new Uint16Array(this.blocks);
    this.#tables = Array.from({ length: spec.slots }, () => []);
    try {
      // Masked values are multiplied by zero, so they must be finite.
      this.hold(this.blocks * this.#blockTokens, device.alignment, ({ handle }) => device.ggml.ggml_backend_buffer_clear(handle, 0));
    } catch (caught) {
      this.abandon();
      throw caught;
    }
  }

  get blocksUsed(): number {
    return this.#users.reduce((count, users) => count + (users > 0 ? 1 : 0), 0);
  }

  piecesOf(slot: number): readonly Piece[] {
    const count = this.#blockTokens;
    return (this.#tables[slot] as number[]).map((block, i) => ({ position: i * count, row: block * count, count }));
  }

  viewOf(group: KvGroup): KvView {
    const known = this.#views.get(group);
    if (known !== undefined) return known;
    const { firstSlot, batch, tokens, past } = group;
    let [first, end] = [Number.POSITIVE_INFINITY, 0];
    for (let b = 0; b < batch; b++) {
      const from = past[b] as number;
      this.#prepare(firstSlot + b, from, from + tokens);
      for (const block of (this.#tables[firstSlot + b] as number[]).slice(0, this.#blocksOf(from + tokens))) {
        first = Math.min(first, block);
        end = Math.max(end, block + 1);
      }
    }
    first = Math.floor((first * this.#blockTokens) / lengthStep) * lengthStep;
    end = Math.min(this.blocks * this.#blockTokens, Math.ceil((end * this.#blockTokens) / lengthStep) * lengthStep);
    const view = { first, length: end - first, step: undefined };
    this.#views.set(group, view);
    return view;
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (from === to) return;
    this.#drop(to, 0);
    const shared = (this.#tables[from] as number[]).slice(0, this.#blocksOf(length));
    for (const block of shared) this.#users[block] = (this.#users[block] as number) + 1;
    this.#tables[to] = shared;
  }

  async moveSlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (from === to) return this.trimSlot(from, length);
    this.#drop(to, 0);
    this.#drop(from, this.#blocksOf(length));
    this.#tables[to] = this.#tables[from] as number[];
    this.#tables[from] = [];
  }

  trimSlot(slot: number, length: number): void {
    checkCopy(this, slot, slot, length);
    this.#drop(slot, this.#blocksOf(length));
  }

  #blocksOf(length: number): number {
    return Math.ceil(length / this.#blockTokens);
  }

  #prepare(slot: number, from: number, to: number): void {
    const table = this.#tables[slot] as number[];
    while (table.length < this.#blocksOf(to)) table.push(this.#take(table.at(-1)));
    const count = this.#blockTokens;
    for (let i = Math.floor(from / count); i < this.#blocksOf(to); i++) {
      const block = table[i] as number;
      if ((this.#users[block] as number) === 1) continue;
      const own = this.#take(table[i - 1]);
      const written = Math.max(0, Math.min(count, from - i * count));
      if (written > 0) this.copyRows(this.layers, [{ from: block * count, to: own * count, count: written }]);
      this.#give(block);
      table[i] = own;
    }
  }

  #take(after: number | undefined): number {
    const next = after === undefined ? -1 : after + 1;
    const block = this.#users[next] === 0 ? next : this.#users.indexOf(0, this.#lowest);
    if (block < 0) {
      throw new AppError(`all ${this.blocks} blocks of the KV pool are in use; raise runtime.kvPool`, {
        code: "OutOfMemory",
        operation: "writing keys and values",
      });
    }
    this.#users[block] = 1;
    if (block !== next) this.#lowest = block + 1;
    return block;
  }

  #give(block: number): void {
    this.#users[block] = (this.#users[block] as number) - 1;
    if (this.#users[block] === 0) this.#lowest = Math.min(this.#lowest, block);
  }

  #drop(slot: number, index: number): void {
    for (const block of (this.#tables[slot] as number[]).splice(index)) this.#give(block);
  }
}
