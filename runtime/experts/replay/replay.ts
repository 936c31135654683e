// Replays a trace of experts over a fast memory and a disk behind it: which experts are there when their layer begins, and how long tokens
// wait for the others.
import { expertsIn } from "../../placement/grid.ts";
import type { EvictionKind } from "../cache/eviction.ts";
import { layerBehind, type Predictor, type PredictorKind, predict } from "../prefetch/predictor.ts";
import { Disk } from "./disk.ts";
import { FastMemory } from "./fast-memory.ts";
import { choiceOf, type ExpertTrace, stepsOf, type TracedStep } from "./trace.ts";

/** future: what the trace says, the bound of all predictors; undefined: nothing is fetched ahead. */
export type Foresight = PredictorKind | "future" | undefined;

export interface ReplayOptions {
  readonly trace: ExpertTrace;
  readonly foresight: Foresight;
  readonly eviction: EvictionKind;
  /** The part of all experts' bytes that fits. */
  readonly share: number;
  readonly bytesPerSecond: number;
  /** Milliseconds of a layer whose experts are there. */
  readonly layerMs: number;
  /** Texts that are computed together. */
  readonly batch: number;
  /** Layers ahead that are predicted, and experts of each for a row, as a multiple of top-k. */
  readonly lookahead: number;
  readonly perTopK: number;
}

/** Means over steps of one token for each text, after the first eighth of all steps. */
export interface Replayed {
  readonly steps: number;
  /** The part of needed experts that were there. */
  readonly hitRate: number;
  /** Milliseconds that a step waits for experts. */
  readonly stallMs: number;
  readonly bytes: number;
  /** Fetched ahead before, and left unused. */
  readonly wastedBytes: number;
}

const warmPart = 1 / 8;

/** Distinct experts of each layer, ascending, for each step. */
export function needsOf(trace: ExpertTrace, steps: readonly TracedStep[]): number[][][] {
  const { grid } = trace;
  return steps.map((step) =>
    Array.from({ length: grid.layers }, (_, layer) => {
      const experts = expertsIn(grid, layer);
      return experts === 0 ? [] : [...new Set(choiceOf(trace, step, layer).ids)].filter((id) => id < experts).sort((a, b) => a - b);
    }),
  );
}

/** What the trace says of later layers, at one step after another. */
const future = (needs: readonly number[][][], at: () => number, experts: number): Predictor => ({
  observe() {},
  scores: (_choice, layer) => {
    const scores = new Float64Array(experts);
    for (const expert of needs[at()]?.[layer] ?? []) scores[expert] = 1;
    return scores;
  },
});

class Replay {
  readonly #options: ReplayOptions;
  readonly #steps: readonly TracedStep[];
  readonly #needs: readonly number[][][];
  readonly #memory: FastMemory;
  readonly #disk: Disk;
  readonly #predictor: Predictor | undefined;
  #at = 0;

  constructor(options: ReplayOptions) {
    const { trace, foresight, share, bytesPerSecond } = options;
    const { grid, expertBytes } = trace;
    this.#options = options;
    this.#steps = stepsOf(trace.texts, options.batch);
    this.#needs = needsOf(trace, this.#steps);
    const bytesOf = (unit: number) => expertBytes[Math.floor(unit / grid.experts)] as number;
    const uses = Int32Array.from(this.#needs.flatMap((step) => step.flatMap((_, layer) => this.#units(step, layer))));
    const all = expertBytes.reduce((sum, bytes, layer) => sum + bytes * expertsIn(grid, layer), 0);
    const cells = [...Array(grid.experts).keys()].flatMap((expert) =>
      expertBytes.flatMap((_, layer) => (expert < expertsIn(grid, layer) ? layer * grid.experts + expert : [])),
    );
    const eviction = options.eviction.create({ grid, uses });
    const memory = new FastMemory({ capacityBytes: share * all, bytesOf, eviction, units: cells });
    this.#memory = memory;
    this.#disk = new Disk({
      msOf: (unit) => (1000 * bytesOf(unit)) / bytesPerSecond,
      admit: (unit, ahead) => memory.admit(unit, ahead),
      arrived: (unit, ahead) => memory.arrived(unit, ahead),
    });
    this.#predictor = foresight === "future" ? future(this.#needs, () => this.#at, grid.experts) : foresight?.create({ grid });
  }

  run(): Replayed {
    const warmUntil = Math.floor(this.#steps.length * warmPart);
    const total = { steps: 0, needed: 0, hits: 0, stallMs: 0, bytes: 0, wastedBytes: 0 };
    for (const [at, step] of this.#steps.entries()) {
      this.#at = at;
      const before = { bytes: this.#memory.fetchedBytes, wasted: this.#memory.wastedBytes };
      const passed = Array.from({ length: this.#options.trace.grid.layers }, (_, layer) => this.#pass(step, layer));
      if (at < warmUntil || step.prompt) continue;
      total.steps += 1;
      total.bytes += this.#memory.fetchedBytes - before.bytes;
      total.wastedBytes += this.#memory.wastedBytes - before.wasted;
      for (const { needed, missing, stallMs } of passed) {
        total.needed += needed;
        total.hits += needed - missing;
        total.stallMs += stallMs;
      }
    }
    const perStep = (value: number) => value / Math.max(1, total.steps);
    return {
      steps: total.steps,
      hitRate: total.hits / Math.max(1, total.needed),
      stallMs: perStep(total.stallMs),
      bytes: perStep(total.bytes),
      wastedBytes: perStep(total.wastedBytes),
    };
  }

  #units(step: readonly number[][], layer: number): number[] {
    return (step[layer] as number[]).map((expert) => layer * this.#options.trace.grid.experts + expert);
  }

  /** Half of a layer's time passes before its experts are known. */
  #pass(step: TracedStep, layer: number) {
    const { layerMs } = this.#options;
    this.#disk.pass(layerMs / 2);
    const units = this.#units(this.#needs[this.#at] as number[][], layer);
    const missing = this.#memory.need(units);
    const stallMs = this.#disk.demand(missing);
    if (this.#predictor !== undefined && units.length > 0) this.#fetchAhead(this.#predictor, step, layer);
    this.#disk.pass(layerMs / 2);
    this.#memory.passed();
    return { needed: units.length, missing: missing.length, stallMs };
  }

  #fetchAhead(predictor: Predictor, step: TracedStep, layer: number): void {
    const { trace, foresight, lookahead, perTopK } = this.#options;
    const { grid, topK } = trace;
    const choice = choiceOf(trace, step, layer);
    predictor.observe(choice);
    const layers: number[] = [];
    for (let to = layerBehind(grid, layer); to >= 0 && layers.length < lookahead; to = layerBehind(grid, to)) layers.push(to);
    const whole = typeof foresight === "object" && foresight.whole === true;
    const most = whole ? grid.experts : Math.ceil(perTopK * topK * step.tokens.length);
    const units = predict(predictor, choice, layers, most).map(({ layer: to, expert }) => to * grid.experts + expert);
    this.#memory.guess(units);
    this.#disk.ahead(units.filter((unit) => !this.#memory.has(unit)));
  }
}

export const replay = (options: ReplayOptions): Replayed => new Replay(options).run();
