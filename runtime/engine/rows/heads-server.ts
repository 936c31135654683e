// Attends with some heads of another rank's prompt, one prompt at a time, for which memory is set apart (../DECISIONS.md 16).
import { AppError } from "../../../crds/common.ts";
import type { Backend, Compiled, ComputeQueue, KvCache, KvSpec } from "../../compute/backend.ts";
import { attentionOf, columnsOf, type Heads, headGroups, type SplitBlock } from "../../kernels/head-groups.ts";
import type { HeadsFrame } from "../../net/heads-codec.ts";
import type { RowsAnswer } from "../../net/rows-codec.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import { floats } from "../pass/step-tools.ts";

/** Milliseconds after a frame in which the prompt is taken to go on. */
const goesOnMs = 5_000;
const busy: RowsAnswer = { type: "busy", afterMs: goesOnMs };

interface Session {
  readonly from: number;
  readonly id: number;
  readonly kvHeads: number;
  /** By layer. */
  readonly lengths: Int32Array;
  usedAt: number;
}

/** Runs work while nothing else computes in that queue. */
export type ExclusiveUse = <T>(work: (queue: ComputeQueue) => Promise<T>) => Promise<T>;

export interface HeadsServerOptions {
  readonly backend: Pick<Backend, "createKv">;
  readonly blocks: readonly Compiled[];
  readonly splits: readonly SplitBlock[];
  /** As the model's own keys and values are kept. */
  readonly kv: Pick<KvSpec, "context" | "type">;
  readonly exclusively: ExclusiveUse;
  readonly now: () => number;
}

export class HeadsServer {
  readonly #options: HeadsServerOptions;
  readonly #caches = new Map<number, KvCache>();
  readonly #programs = new Map<string, Compiled>();
  #session: Session | undefined;

  constructor(options: HeadsServerOptions) {
    this.#options = options;
  }

  /** Declines a prompt while another one goes on, and rows that do not follow those before. */
  async answer(frame: HeadsFrame, body: Uint8Array, from: number): Promise<RowsAnswer> {
    const fault = this.#fault(frame, body.byteLength);
    if (fault !== undefined) return { type: "rejected", reason: fault };
    return this.#options.exclusively(async (queue) => {
      const { layer, past, tokens, kvHeads } = frame;
      const session = this.#sessionOf(frame, from);
      if (session?.lengths[layer] !== past) return busy;
      const cache = await this.#cacheOf(session);
      const rows = viewF32(body);
      const { q, k, v } = this.#widths(kvHeads);
      const input = (width: number, at: number) => ({ shape: [tokens, width], data: rows.subarray(tokens * at, tokens * (at + width)) });
      const groups = [{ firstSlot: 0, batch: 1, tokens, past: Int32Array.of(past) }];
      const inputs = { q: input(q, 0), k: input(k, q), v: input(v, q + k) };
      const outputs = await this.#programOf(layer, kvHeads).run(inputs, { cache, groups }, undefined, queue);
      session.lengths[layer] = past + tokens;
      session.usedAt = this.#options.now();
      return bytesOf(floats(outputs, "out").slice());
    });
  }

  async close(): Promise<void> {
    for (const cache of this.#caches.values()) await cache.dispose();
    this.#caches.clear();
  }

  #fault({ layer, past, tokens, kvHeads }: HeadsFrame, bytes: number): string | undefined {
    const { kv, splits } = this.#options;
    const split = splits[layer];
    if (split === undefined) return `layer: ${layer} of ${splits.length}`;
    if (kvHeads < 1 || kvHeads >= split.attention.kvHeads) return `kv_heads: ${kvHeads} of ${split.attention.kvHeads}`;
    if (tokens < 1 || past + tokens > kv.context) return `tokens: ${tokens} behind ${past}, in a context of ${kv.context}`;
    const { q, k, v } = this.#widths(kvHeads);
    const wanted = 4 * tokens * (q + k + v);
    return bytes === wanted ? undefined : `rows: ${bytes} bytes, not ${wanted}`;
  }

  #sessionOf({ layer, session: id, past, kvHeads }: HeadsFrame, from: number): Session | undefined {
    const { now, splits } = this.#options;
    const known = this.#session;
    const begins = layer === 0 && past === 0;
    if (!begins && known?.from === from && known.id === id && known.kvHeads === kvHeads) return known;
    const goesOn = known !== undefined && known.from !== from && now() - known.usedAt < goesOnMs;
    if (!begins || goesOn) return undefined;
    for (const cache of this.#caches.values()) cache.trimSlot(0, 0);
    this.#session = { from, id, kvHeads, lengths: new Int32Array(splits.length), usedAt: now() };
    return this.#session;
  }

  async #cacheOf({ kvHeads }: Session): Promise<KvCache> {
    const known = this.#caches.get(kvHeads);
    if (known !== undefined) return known;
    const { backend, kv, splits } = this.#options;
    const spec = { ...this.#heads(kvHeads), ...kv, layers: splits.length, slots: 1 };
    const cache = await backend.createKv(spec);
    this.#caches.set(kvHeads, cache);
    return cache;
  }

  #programOf(layer: number, kvHeads: number): Compiled {
    const key = `${layer}.${kvHeads}`;
    const known = this.#programs.get(key);
    if (known !== undefined) return known;
    const { blocks, splits } = this.#options;
    const { heads } = this.#heads(kvHeads);
    const program = blocks[layer]?.part?.(attentionOf((splits[layer] as SplitBlock).attention, { from: 0, heads, kvFrom: 0, kvHeads }));
    if (program === undefined) throw new AppError(`heads: layer ${layer} is not divided here`, { code: "UnsupportedOp" });
    this.#programs.set(key, program);
    return program;
  }

  /** All layers are alike. */
  #heads(kvHeads: number): Heads {
    const { heads, kvHeads: all, headDim, valueDim } = (this.#options.splits[0] as SplitBlock).attention;
    return { heads: (heads / all) * kvHeads, kvHeads, headDim, valueDim };
  }

  #widths(kvHeads: number): Readonly<Record<"q" | "k" | "v", number>> {
    const heads = this.#heads(kvHeads);
    const [group] = headGroups(heads, 1);
    const { q, k, v } = columnsOf(heads, group as NonNullable<typeof group>);
    return { q: q.to, k: k.to, v: v.to };
  }
}
