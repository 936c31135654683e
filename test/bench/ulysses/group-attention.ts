// The attention of a group of heads on a backend, with keys and values of its own.

import type { KvType } from "../../../crds/names.ts";
import type { Backend, Compiled, KvCache } from "../../../runtime/compute/backend.ts";
import { attentionOf, type HeadGroup, type Heads } from "../../../runtime/kernels/head-groups.ts";
import { plainRope } from "../../../runtime/kernels/rope.ts";

/** Rows of a prompt that go on together, as [n, width] of the group. */
export type Piece = Readonly<Record<"q" | "k" | "v", Float32Array>>;

interface AttentionSpec {
  readonly shape: Heads;
  readonly group: HeadGroup;
  readonly context: number;
  readonly type?: KvType;
}

export class GroupAttention {
  readonly #program: Compiled;
  readonly #cache: KvCache;
  readonly #widths: Readonly<Record<"q" | "k" | "v", number>>;

  constructor(program: Compiled, cache: KvCache, widths: Readonly<Record<"q" | "k" | "v", number>>) {
    this.#program = program;
    this.#cache = cache;
    this.#widths = widths;
  }

  static async open(backend: Backend, { shape, group, context, type = "f32" }: AttentionSpec): Promise<GroupAttention> {
    const { headDim, valueDim } = shape;
    const { heads, kvHeads } = group;
    const named = { op: "attention", q: "q", k: "k", v: "v", out: "out" } as const;
    const op = { ...named, layer: 0, ...shape, rope: plainRope(headDim, 1e4), scale: headDim ** -0.5, window: 0 };
    const program = await backend.compile(attentionOf(op, group), {});
    const cache = await backend.createKv({ layers: 1, slots: 1, heads, kvHeads, headDim, valueDim, context, type });
    return new GroupAttention(program, cache, { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * valueDim });
  }

  /** Rows at `past` and behind; valid until the next call. */
  async run(past: number, piece: Piece): Promise<Float32Array> {
    const tokens = piece.q.length / this.#widths.q;
    const tensor = (name: "q" | "k" | "v") => ({ shape: [tokens, this.#widths[name]], data: piece[name] });
    const groups = [{ firstSlot: 0, batch: 1, tokens, past: Int32Array.of(past) }];
    const { out } = await this.#program.run({ q: tensor("q"), k: tensor("k"), v: tensor("v") }, { cache: this.#cache, groups });
    return out?.data as Float32Array;
  }

  /** Of random values as such pieces have. */
  piece(tokens: number, seed: number): Piece {
    const values = (width: number, salt: number) =>
      Float32Array.from(
        { length: tokens * width },
        (_, i) => ((Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(seed + salt, 0x85ebca6b)) >> 8) / 2 ** 22,
      );
    const { q, k, v } = this.#widths;
    return { q: values(q, 1), k: values(k, 2), v: values(v, 3) };
  }

  /** Keys and values before `length`, all the same. */
  fill(length: number): void {
    this.#cache.writeRows(0, 0, new Uint8Array(new Float32Array((length * this.#cache.positionBytes) / 4).fill(0.01).buffer));
  }

  async close(): Promise<void> {
    await this.#program.dispose();
    await this.#cache.dispose();
  }
}
