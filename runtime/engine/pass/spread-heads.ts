// Spreads the heads of a long prompt's attention over ranks: this one has the first group and keeps all keys and values, so what another
// rank declines is computed here (../DECISIONS.md 16).
import type { BufferAllocator, Compiled, Inputs, KvCall, Outputs } from "../../compute/backend.ts";
import { reusedBuffers } from "../../compute/output-buffers.ts";
import { attentionOf, columnsOf, type HeadGroup, headGroups, putColumns, type SplitBlock, takeColumns } from "../../kernels/head-groups.ts";
import type { Tensor } from "../../kernels/segment.ts";
import type { Step } from "../schedule/step-plan.ts";
import type { StepScheduler } from "./frame-scheduler.ts";

interface HeadsAsk {
  readonly layer: number;
  readonly session: number;
  readonly past: number;
  readonly tokens: number;
  readonly kvHeads: number;
}
/** Undefined where the rank cannot be asked; resolves with undefined where it declines or is gone. */
export type AskHeads = (rank: number, ask: HeadsAsk, rows: Float32Array, outWidth: number) => Promise<Float32Array | undefined> | undefined;

/** Runs a program in its turn. */
export type RunProgram = (program: Compiled, inputs: Inputs, kv?: KvCall, allocate?: BufferAllocator) => Promise<Outputs>;

export interface SpreadHeadsOptions {
  readonly blocks: readonly Compiled[];
  readonly splits: readonly SplitBlock[];
  /** Tokens of a prompt from which heads are spread. */
  readonly from: number;
  /** Ranks that can be asked, the next one first. */
  readonly others: () => readonly number[];
  readonly ask: AskHeads;
  readonly scheduler: Pick<StepScheduler, "waitFor">;
}

interface Divided {
  readonly before: Compiled;
  readonly behind: Compiled;
  /** Programs by the number of groups, then by group. */
  readonly groups: Map<number, readonly Compiled[]>;
}

interface Prompt {
  readonly id: string;
  readonly session: number;
  readonly groups: readonly HeadGroup[];
  /** The rank of each group but the first; undefined where it declined. */
  readonly ranks: (number | undefined)[];
  length: number;
}

/** Passes rows of one step's prompt through a layer's block. */
export type PassHeads = (layer: number, x: Tensor, call: { kv: KvCall; run: RunProgram; allocate: BufferAllocator }) => Promise<Outputs>;

export class SpreadHeads {
  readonly #options: SpreadHeadsOptions;
  readonly #layers: (Divided | undefined)[] = [];
  readonly #allocate = reusedBuffers();
  #prompt: Prompt | undefined;
  #sessions = 0;

  constructor(options: SpreadHeadsOptions) {
    this.#options = options;
  }

  /** Undefined where the step's heads stay here. It begins with a prompt's first tokens, and goes on with those that follow. */
  of({ groups }: Pick<Step, "groups">, lengthOf: (id: string) => number): PassHeads | undefined {
    const [group, more] = groups;
    const [id] = group?.ids ?? [];
    if (group === undefined || id === undefined || more !== undefined || group.phase !== "prefill" || group.batch > 1) return undefined;
    const past = group.past[0] as number;
    const goesOn = this.#prompt?.id === id && this.#prompt.length === past && past > 0;
    if (!goesOn) this.#prompt = past === 0 && lengthOf(id) >= this.#options.from ? this.#begin(id) : undefined;
    const prompt = this.#prompt;
    if (prompt === undefined || prompt.ranks.every((rank) => rank === undefined)) return undefined;
    prompt.length = past + group.tokens;
    return (layer, x, call) => this.#pass(prompt, layer, x, call);
  }

  #begin(id: string): Prompt | undefined {
    const { others, splits } = this.#options;
    const asked = others();
    const groups = headGroups((splits[0] as SplitBlock).attention, asked.length + 1);
    this.#sessions += 1;
    return { id, session: this.#sessions, groups, ranks: groups.slice(1).map((_, i) => asked[i]), length: 0 };
  }

  async #pass(prompt: Prompt, layer: number, x: Tensor, { kv, run, allocate }: Parameters<PassHeads>[2]): Promise<Outputs> {
    const { attention } = this.#options.splits[layer] as SplitBlock;
    const { before, behind, programs } = this.#programs(prompt, layer);
    const { heads, kvHeads, headDim, valueDim } = attention;
    const outputs = await run(before, { x }, undefined, this.#allocate);
    const [q, k, v] = [attention.q, attention.k, attention.v].map((name) => outputs[name] as Tensor) as [Tensor, Tensor, Tensor];
    const rows = q.data.length / (heads * headDim);
    const part = (of: Tensor, width: number, columns: { from: number; to: number }, into?: Float32Array) =>
      takeColumns(of.data as Float32Array, width, columns, into);
    const past = kv.groups[0]?.past[0] as number;
    const asked = prompt.ranks.map((rank, i) => {
      const group = prompt.groups[i + 1] as HeadGroup;
      const of = columnsOf(attention, group);
      if (rank === undefined) return undefined;
      const widths = [of.q, of.k, of.v].map(({ from, to }) => rows * (to - from)) as [number, number, number];
      const body = new Float32Array(widths[0] + widths[1] + widths[2]);
      part(q, heads * headDim, of.q, body);
      part(k, kvHeads * headDim, of.k, body.subarray(widths[0]));
      part(v, kvHeads * valueDim, of.v, body.subarray(widths[0] + widths[1]));
      const ask = { layer, session: prompt.session, past, tokens: rows, kvHeads: group.kvHeads };
      return this.#options.ask(rank, ask, body, of.out.to - of.out.from);
    });
    const all: Tensor = { shape: [rows, heads * valueDim], data: this.#allocate("all", rows * heads * valueDim) };
    const put = (i: number, out: Float32Array) =>
      putColumns(all.data as Float32Array, heads * valueDim, columnsOf(attention, prompt.groups[i] as HeadGroup).out, out);
    const attend = async (i: number): Promise<void> => {
      const { from, to } = columnsOf(attention, prompt.groups[i] as HeadGroup).q;
      const own = { shape: [rows, to - from], data: part(q, heads * headDim, { from, to }) };
      const { out } = await run(programs[i] as Compiled, { q: own, k, v }, kv, this.#allocate);
      put(i, (out as Tensor).data as Float32Array);
    };
    await attend(0);
    for (const [i, answered] of asked.entries()) {
      if (answered) await this.#options.scheduler.waitFor(answered);
      const out = await answered;
      if (out) put(i + 1, out);
      else {
        prompt.ranks[i] = undefined;
        await attend(i + 1);
      }
    }
    return run(behind, { x, [attention.out]: all }, undefined, allocate);
  }

  #programs({ groups }: Prompt, layer: number): Pick<Divided, "before" | "behind"> & { readonly programs: readonly Compiled[] } {
    const { blocks, splits } = this.#options;
    const [block, split] = [blocks[layer], splits[layer] as SplitBlock];
    const part = (segment: SplitBlock["before"]): Compiled => block?.part?.(segment) as Compiled;
    const known = this.#layers[layer] ?? { before: part(split.before), behind: part(split.behind), groups: new Map() };
    this.#layers[layer] = known;
    const programs = known.groups.get(groups.length) ?? groups.map((group) => part(attentionOf(split.attention, group, true)));
    known.groups.set(groups.length, programs);
    return { ...known, programs };
  }
}
