// The KV cache with memory allocated up front, as on a GPU: slots take blocks from one pool of rows per layer.
import { AppError } from "../../../crds/common.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import type { KvSpec } from "../backend.ts";
import { checkCopy } from "../call-checks.ts";
import { kvBlockTokens } from "../kv-size.ts";
import type { GgmlDevice } from "./device.ts";
import { GgmlKv, type KvRun, type Piece, type RowCopy } from "./kv-memory.ts";
import { runsOfSpans, type Span } from "./kv-runs.ts";

/** Attention reads a multiple of so many rows. */
const lengthStep = 256;
/** See `runsOfSpans`; an operation's start costs a device more than a masked position. */
const paddings = [2, 4, Number.POSITIVE_INFINITY];

export class PoolKv extends GgmlKv {
  readonly slots: number;
  readonly shared = true;
  readonly byProducts = false;
  readonly #blockTokens: number;
  /** The number of slots that share each block. */
  readonly #users: Uint16Array;
  readonly #tables: number[][];
  /** Blocks from one slot's first one to the next slot's, where these are free: slots of one group then are one view (../DECISIONS.md 9). */
  readonly #region: number;
  readonly #runs = new WeakMap<KvGroup, readonly KvRun[]>();

  constructor(device: GgmlDevice, spec: KvSpec) {
    super(device, spec, 1);
    this.slots = spec.slots;
    this.#blockTokens = kvBlockTokens(spec.context);
    this.#users = new Uint16Array(this.blocks);
    this.#region = Math.floor(this.blocks / spec.slots);
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

  runsOf(group: KvGroup): readonly KvRun[] {
    const known = this.#runs.get(group);
    if (known !== undefined) return known;
    const { firstSlot, batch, tokens, past } = group;
    const spans = Array.from({ length: batch }, (_, b) => {
      const [slot, from] = [firstSlot + b, past[b] as number];
      this.#prepare(slot, from, from + tokens);
      return this.#span((this.#tables[slot] as number[]).slice(0, this.#blocksOf(from + tokens)));
    });
    const blocks = spans.flatMap(({ first, length }) => [first, first + length - 1]).map((row) => Math.floor(row / this.#blockTokens));
    const apart = runsOfSpans(spans, paddings, (run, span) => this.#joined(run, span));
    const found = apart ?? [{ at: 0, batch, ...this.#span(blocks), step: undefined }]; // a mask tells streams apart
    this.#runs.set(group, found);
    return found;
  }

  /** Rows that contain these blocks. */
  #span(blocks: readonly number[]): Span {
    const count = this.#blockTokens;
    const rows = this.blocks * count;
    const [first, end] = [Math.min(...blocks) * count, (Math.max(...blocks) + 1) * count];
    const length = Math.min(rows, Math.ceil((end - first) / lengthStep) * lengthStep);
    return { first: Math.min(first, rows - length), length };
  }

  #joined(run: KvRun, { first, length }: Span): KvRun | undefined {
    const step = run.batch === 1 ? first - run.first : (run.step as number);
    const most = Math.max(run.length, length);
    const rows = this.blocks * this.#blockTokens;
    if (step <= 0 || first !== run.first + run.batch * step || first + most > rows) return undefined;
    if (run.first + (run.batch + 1) * most > rows) return undefined; // ggml wants as much memory behind a view as its values take
    return { ...run, batch: run.batch + 1, length: most, step };
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
    this.#toRegion(to);
  }

  trimSlot(slot: number, length: number): void {
    checkCopy(this, slot, slot, length);
    this.#drop(slot, this.#blocksOf(length));
  }

  override writeRows(slot: number, from: number, rows: Uint8Array): void {
    checkCopy(this, slot, slot, from + rows.byteLength / this.positionBytes);
    this.#prepare(slot, from, from + rows.byteLength / this.positionBytes);
    super.writeRows(slot, from, rows);
  }

  #blocksOf(length: number): number {
    return Math.ceil(length / this.#blockTokens);
  }

  #prepare(slot: number, from: number, to: number): void {
    const table = this.#tables[slot] as number[];
    while (table.length < this.#blocksOf(to)) table.push(this.#take(this.#after(slot, table.at(-1))));
    const count = this.#blockTokens;
    for (let i = Math.floor(from / count); i < this.#blocksOf(to); i++) {
      const block = table[i] as number;
      if ((this.#users[block] as number) === 1) continue;
      const own = this.#take(this.#after(slot, table[i - 1]));
      const written = Math.max(0, Math.min(count, from - i * count));
      if (written > 0) this.copyRows(this.layers, [{ from: block * count, to: own * count, count: written }]);
      this.#give(block);
      table[i] = own;
    }
  }

  #after(slot: number, block: number | undefined): number {
    return block === undefined ? slot * this.#region : block + 1;
  }

  /** The wished block or one behind it; else the last one, since regions of decoding slots are the first ones. */
  #take(wished: number): number {
    const near = this.#users.subarray(wished, wished + Math.max(1, this.#region)).indexOf(0);
    const block = near >= 0 ? wished + near : this.#users.lastIndexOf(0);
    if (block < 0) {
      throw new AppError(`all ${this.blocks} blocks of the KV pool are in use; raise runtime.kvPool`, {
        code: "OutOfMemory",
        operation: "writing keys and values",
      });
    }
    this.#users[block] = 1;
    return block;
  }

  /** Copies a slot's rows to its own region where that is free, so that it is read together with its neighbours. */
  #toRegion(slot: number): void {
    const [table, count] = [this.#tables[slot] as number[], this.#blockTokens];
    const first = slot * this.#region;
    const free = table.every((block, i) => this.#users[block] === 1 && this.#users[first + i] === 0);
    if (this.#region === 0 || table.length === 0 || !free) return;
    const copies: RowCopy[] = [];
    for (const [i, block] of table.entries()) {
      const last = copies.at(-1);
      if (last !== undefined && last.from + last.count === block * count) copies.splice(-1, 1, { ...last, count: last.count + count });
      else copies.push({ from: block * count, to: (first + i) * count, count });
      this.#users[first + i] = 1;
    }
    this.copyRows(this.layers, copies);
    for (const block of table) this.#give(block);
    this.#tables[slot] = table.map((_, i) => first + i);
  }

  #give(block: number): void {
    this.#users[block] = (this.#users[block] as number) - 1;
  }

  #drop(slot: number, index: number): void {
    for (const block of (this.#tables[slot] as number[]).splice(index)) this.#give(block);
  }
}
