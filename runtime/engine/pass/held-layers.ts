// Passes layers whose rows stay in a device's memory: what leaves it are ids, gates and the rows that travel, and what comes back are the
// sums of other ranks (../../compute/DECISIONS.md 11).
import type { Phase } from "../../../crds/telemetry.ts";
import type { Chosen, HeldRows } from "../../compute/backend.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import { kindOf } from "../schedule/step-plan.ts";
import { sumPairs } from "./combine.ts";
import { localKey, type PhaseGroup, routePairs, sendPairs } from "./routed-pairs.ts";
import { type Part, type Passed, phaseOf, type StepTools, stepMs } from "./step-tools.ts";

/** Rows of a step: own experts multiply all its pairs on each rank, in one piece that others' frames wait for (compute/DECISIONS.md 11). */
const heldRowsMax = 256;

interface Begun {
  readonly sentAt: number;
  /** The sums of other ranks, [n, hidden]. */
  readonly remote: Promise<Float32Array> | undefined;
}

/** Pairs of a layer. */
interface Some extends Chosen {
  readonly layer: number;
  readonly topK: number;
  readonly groups: readonly PhaseGroup[];
}

export class HeldLayers {
  readonly #tools: StepTools;
  readonly #part: Part;
  #held: HeldRows | undefined;
  #passed = false;
  /** What other ranks add to the rows behind the layer before. */
  #sums: Float32Array | undefined;

  constructor(tools: StepTools, part: Part) {
    this.#tools = tools;
    this.#part = part;
  }

  /** False for a layer whose rows cannot stay, or are passed in pieces. `first`: the rows of the first layer that is passed so. */
  async pass(layer: number, first: () => Float32Array | Promise<Float32Array>): Promise<boolean> {
    const { experts, scheduler, times } = this.#tools;
    const { mutex, tokens, decodes } = this.#part;
    if (!this.#takes(layer)) return false;
    const given = this.#passed ? { ...(this.#sums && { sums: this.#sums }) } : { x: await first() };
    const begun = await mutex.run(() => experts.lock.run(async () => (this.#takes(layer) ? this.#begin(layer, given) : undefined)));
    if (begun?.remote) await scheduler.waitFor(begun.remote);
    if (begun === undefined) return false;
    this.#sums = await begun.remote;
    times.add({ rows: tokens.length, decodes }, "experts", stepMs(this.#tools) - begun.sentAt);
    return true;
  }

  /** The rows behind the layers that were passed, else `x`. */
  async read(x: Passed["x"]): Promise<Passed["x"]> {
    if (!this.#passed) return x;
    const rows = await this.#part.mutex.run(() => this.#tools.experts.lock.run(async () => (this.#held as HeldRows).read()));
    for (const [i, sum] of this.#sums?.entries() ?? []) rows[i] = (rows[i] as number) + sum;
    this.free();
    return rows;
  }

  free(): void {
    this.#held?.free();
    this.#held = undefined;
    this.#passed = false;
  }

  #takes(layer: number): boolean {
    const { program, ranges, scheduler } = this.#tools;
    const { tokens, decodes } = this.#part;
    const rows = tokens.length;
    if (rows > heldRowsMax || !ranges?.range.holds?.(layer, rows) || scheduler.pieceRows(kindOf(rows, decodes), rows) < rows) return false;
    this.#held ??= ranges.range.hold?.(rows, program.hidden);
    return this.#held !== undefined;
  }

  #begin(layer: number, given: Parameters<HeldRows["choose"]>[2]): Begun | undefined {
    const { program, scheduler, times } = this.#tools;
    const { attended, decodes, first, kv, tokens } = this.#part;
    const { topK, experts } = program.layers[layer] as MoeLayer;
    const held = this.#held as HeldRows;
    const startedAt = performance.now();
    const chosen = held.choose(layer, kv, given);
    if (chosen === undefined) return undefined;
    const ms = performance.now() - startedAt;
    this.#passed = true;
    times.add({ rows: tokens.length, decodes }, "dense", ms);
    if (decodes < tokens.length) scheduler.took(tokens.length, ms);
    attended(layer);
    scheduler.reached(undefined); // the experts of held rows take no frames of others along
    const sentAt = stepMs(this.#tools);
    const groups = routePairs(this.#tools, { layer, first, decodes, topK, experts, ids: chosen.ids });
    const [local, others] = [groups.filter(({ key }) => key === localKey), groups.filter(({ key }) => key !== localKey)];
    // Frames to others are sent before local work.
    const remote = others.length > 0 ? this.#send(held, { layer, topK, ...chosen, groups: others }) : undefined;
    this.#tools.prefetch?.chose({ layer, topK, ids: chosen.ids, first, decodes });
    if (local.length > 0) this.#add(held, { layer, topK, ...chosen, groups: local });
    return { sentAt, remote };
  }

  #send(held: HeldRows, { layer, topK, ids, gates, groups }: Some): Promise<Float32Array> {
    const { hidden } = this.#tools.program;
    const rowOf = (pair: number): number => Math.floor(pair / topK);
    // Pairs ascend.
    const from = rowOf(Math.min(...groups.map(({ pairs }) => pairs[0] as number)));
    const to = rowOf(Math.max(...groups.map(({ pairs }) => pairs.at(-1) as number)));
    const pairRows = Uint32Array.from(ids, (_, pair) => rowOf(pair) - from);
    const all = { rows: held.inputs(from, to + 1 - from), pairRows, pairExperts: Uint32Array.from(ids) };
    const sent = sendPairs(this.#tools, groups, { layer, gates, all }).sort((a, b) => a.key - b.key);
    const summed = Promise.all(sent.map(({ answered }) => answered)).then((answers) => {
      const sums = new Float32Array(this.#part.tokens.length * hidden);
      for (const [i, answer] of answers.entries()) {
        const { frame, pairs } = sent[i] as (typeof sent)[number];
        const weighed = { pairRows: frame.pairRows, gates: Float32Array.from(pairs, (pair) => gates[pair] as number) };
        const own = answer instanceof Float32Array ? sumPairs(answer, weighed, frame.rows.length / hidden, hidden) : answer.sums;
        const rows = [...new Set(pairs.map(rowOf))];
        for (const [at, row] of rows.entries())
          for (let j = 0; j < hidden; j++) sums[row * hidden + j] = (sums[row * hidden + j] as number) + (own[at * hidden + j] as number);
      }
      return sums;
    });
    summed.catch(() => {}); // awaited only after the local part
    return summed;
  }

  #add(held: HeldRows, { layer, topK, ids, gates, groups }: Some): void {
    const { counter } = this.#tools;
    const startedAt = performance.now();
    const pairs = groups.flatMap((group) => group.pairs);
    const own = new Int32Array(ids.length).fill(-1);
    for (const pair of pairs) own[pair] = ids[pair] as number;
    held.add(layer, { ids: own, gates });
    // All pairs are computed, own ones count.
    const seconds = ((performance.now() - startedAt) / 1000) * (pairs.length / ids.length);
    const phases = pairs.map((pair) => phaseOf(Math.floor(pair / topK), this.#part.decodes));
    for (const [i, pair] of pairs.entries()) counter.served(phases[i] as Phase, [layer, ids[pair] as number], 1);
    const decoded = phases.filter((phase) => phase === "decode").length;
    const experts = new Set(pairs.map((pair) => ids[pair] as number));
    counter.ran(layer, experts);
    counter.computed(2 * decoded > pairs.length ? "decode" : "prefill", experts.size, pairs.length, seconds);
  }
}
