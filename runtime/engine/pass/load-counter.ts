// Counts rows per (phase, layer, expert): routed at the source, served where computed, and their cost.
import type { Phase } from "../../../crds/telemetry.ts";
import type { ExpertGrid } from "../../placement/grid.ts";
import type { RowOrigin } from "../api.ts";

type Kind = "routed" | "served";

export interface Counts extends Readonly<Record<Kind, Uint32Array>> {
  readonly compute: Compute;
}

/** See crds/telemetry.ts. */
interface Compute {
  runs: number;
  calls: number;
  rows: number;
  micros: number;
  readonly squares: number[];
  readonly times: number[];
}

/** Uses that are kept until they are taken; older ones are left out. */
const usesMax = 16_384;

export class LoadCounter {
  readonly #grid: ExpertGrid;
  readonly #uses: Int32Array | undefined;
  #used = 0;
  /** Runs of experts since start. */
  runs = 0;
  /** Rows computed since start, by the tokens' origin. */
  readonly rowsFor: Record<RowOrigin, number> = { local: 0, remote: 0 };
  #counts: Record<Phase, Counts>;

  constructor(grid: ExpertGrid, keepsUses = false) {
    this.#grid = grid;
    if (keepsUses) this.#uses = new Int32Array(usesMax);
    this.#counts = this.#zero();
  }

  routed(phase: Phase, layer: number, expert: number, rows: number): void {
    this.#add("routed", phase, layer * this.#grid.experts + expert, rows);
  }

  /** `remote`: rows of other ranks' tokens. */
  served(phase: Phase, [layer, expert]: readonly [number, number], rows: number, remote = 0): void {
    this.rowsFor.remote += remote;
    this.rowsFor.local += rows - remote;
    this.#add("served", phase, layer * this.#grid.experts + expert, rows);
  }

  /** Experts of a layer have computed together, each once whatever rows it had. */
  ran(layer: number, experts: Iterable<number>): void {
    for (const expert of experts) {
      this.runs += 1;
      if (this.#uses) this.#uses[this.#used++ % usesMax] = layer * this.#grid.experts + expert;
    }
  }

  /** Experts that computed since the last call, oldest first, as cells; undefined where uses are not kept. */
  takeUses(): Int32Array | undefined {
    if (!this.#uses) return undefined;
    const at = this.#used % usesMax;
    const [old, young] = [this.#used > usesMax ? this.#uses.subarray(at) : this.#uses.subarray(0, 0), this.#uses.subarray(0, at)];
    const uses = Int32Array.from([...old, ...young]);
    this.#used = 0;
    return uses;
  }

  /** Adds one batch. */
  computed(phase: Phase, experts: number, rows: number, seconds: number): void {
    const { compute } = this.#counts[phase];
    const micros = Math.round(seconds * 1e6);
    compute.runs += 1;
    compute.calls += experts;
    compute.rows += rows;
    compute.micros += micros;
    const x = [1, experts, rows];
    const weight = experts + rows;
    let at = 0;
    for (let i = 0; i < x.length; i++) {
      const weighted = (x[i] as number) / weight;
      compute.times[i] = (compute.times[i] as number) + weighted * micros;
      for (let j = i; j < x.length; j++, at++) compute.squares[at] = (compute.squares[at] as number) + weighted * (x[j] as number);
    }
  }

  take(): Record<Phase, Counts> {
    const counts = this.#counts;
    this.#counts = this.#zero();
    return counts;
  }

  #add(kind: Kind, phase: Phase, cell: number, rows: number): void {
    const counts = this.#counts[phase][kind];
    counts[cell] = (counts[cell] ?? 0) + rows;
  }

  #zero(): Record<Phase, Counts> {
    const cells = (): Uint32Array => new Uint32Array(this.#grid.layers * this.#grid.experts);
    const counts = (): Counts => ({ routed: cells(), served: cells(), compute: freshCompute() });
    return { prefill: counts(), decode: counts() };
  }
}

function freshCompute(): Compute {
  return { runs: 0, calls: 0, rows: 0, micros: 0, squares: [0, 0, 0, 0, 0, 0], times: [0, 0, 0] };
}
