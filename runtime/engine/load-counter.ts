// Rows per (phase, layer, expert) since the last reading: routed where they come from, served where they are computed.
import type { Phase } from "../../crds/telemetry.ts";

type Kind = "routed" | "served";

export class LoadCounter {
  readonly #layers: number;
  readonly #experts: number;
  /** Since start; for metrics, while the counts are taken and reset by telemetry. */
  servedTotal = 0;
  #counts: Record<Phase, Record<Kind, Uint32Array>>;

  constructor(layers: number, experts: number) {
    this.#layers = layers;
    this.#experts = experts;
    this.#counts = this.#zero();
  }

  routed(phase: Phase, layer: number, expert: number, rows: number): void {
    this.#add("routed", phase, layer * this.#experts + expert, rows);
  }

  served(phase: Phase, layer: number, expert: number, rows: number): void {
    this.servedTotal += rows;
    this.#add("served", phase, layer * this.#experts + expert, rows);
  }

  take(): Record<Phase, Record<Kind, Uint32Array>> {
    const counts = this.#counts;
    this.#counts = this.#zero();
    return counts;
  }

  #add(kind: Kind, phase: Phase, cell: number, rows: number): void {
    const counts = this.#counts[phase][kind];
    counts[cell] = (counts[cell] ?? 0) + rows;
  }

  #zero(): Record<Phase, Record<Kind, Uint32Array>> {
    const cells = (): Uint32Array => new Uint32Array(this.#layers * this.#experts);
    return { prefill: { routed: cells(), served: cells() }, decode: { routed: cells(), served: cells() } };
  }
}
