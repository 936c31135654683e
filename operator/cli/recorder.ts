// Load messages of all ranks to a trace: counts per window, and where tokens went from layer to layer if workers say so.
// Messages of another deployment or shape, and ones delivered twice, are refused and counted. Knows no time and no network.
import { decodeLoad, type LoadWindow, type Phase, transitionCellsMax } from "../../crds/telemetry.ts";
import type { Trace } from "../planner/traces.ts";

export class Recorder {
  messages = 0;
  refused = 0;
  /** Pairs of experts that followed tokens chose. */
  transitions = 0;
  readonly #uid: string;
  readonly #phase: Phase | undefined;
  #layers = 0;
  #experts = 0;
  #open: Uint32Array | undefined;
  readonly #closed: Uint32Array[] = [];
  #flow: Uint32Array | undefined;
  /** Highest seq by rank and boot: NATS may deliver twice around a reconnect. */
  readonly #seen = new Map<string, number>();

  /** `phase`: only that one is recorded; undefined = both, added up. */
  constructor(deploymentUid: string, phase: Phase | undefined) {
    this.#uid = deploymentUid;
    this.#phase = phase;
  }

  get windows(): number {
    return this.#closed.length;
  }

  receive(bytes: Uint8Array): void {
    let load: LoadWindow;
    try {
      load = decodeLoad(bytes);
    } catch {
      this.refused++;
      return;
    }
    if (!this.#accept(load)) {
      this.refused++;
      return;
    }
    this.messages++;
    if (this.#phase !== undefined && load.phase !== this.#phase) return;
    this.#open ??= new Uint32Array(this.#layers * this.#experts);
    for (let i = 0; i < load.routed.length; i++) this.#open[i] = (this.#open[i] as number) + (load.routed[i] as number);
    this.#follow(load);
  }

  #follow({ transitions }: LoadWindow): void {
    const size = (this.#layers - 1) * this.#experts * this.#experts;
    if (!transitions || size > transitionCellsMax) return;
    this.#flow ??= new Uint32Array(size);
    for (const [n, cell] of transitions.cells.entries()) {
      const count = transitions.counts[n] as number;
      this.#flow[cell] = (this.#flow[cell] as number) + count;
      this.transitions += count;
    }
  }

  #accept(load: LoadWindow): boolean {
    if (load.deploymentUID !== this.#uid) return false;
    if (this.#layers === 0) {
      this.#layers = load.layers;
      this.#experts = load.experts;
    }
    if (load.layers !== this.#layers || load.experts !== this.#experts) return false;
    const key = `${load.rank}/${load.bootId}`;
    if (load.seq <= (this.#seen.get(key) ?? -1)) return false;
    this.#seen.set(key, load.seq);
    return true;
  }

  /** Ends the window; its selections. One without any message is not kept: missing is not zero. */
  close(): number {
    if (!this.#open) return 0;
    const rows = this.#open.reduce((a, b) => a + b, 0);
    this.#closed.push(this.#open);
    this.#open = undefined;
    return rows;
  }

  trace(name: string): Trace {
    const cells = this.#layers * this.#experts;
    const counts = new Uint32Array(this.#closed.length * cells);
    this.#closed.forEach((window, t) => {
      counts.set(window, t * cells);
    });
    const sizes = { name, windows: this.#closed.length, layers: this.#layers, experts: this.#experts };
    return { ...sizes, counts, ...(this.#flow ? { transitions: this.#flow } : {}) };
  }
}
