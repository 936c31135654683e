// Builds a trace from the load messages of all ranks. A window counts only when every serving rank has reported in it; invalid messages are
// counted. Pure.
import type { ExpertPlacementSpec, ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import { decodeLayer } from "../../crds/plan.ts";
import { decodeLoad, type LoadWindow, type Phase, phases } from "../../crds/telemetry.ts";
import type { TelemetryKeys } from "../../crds/telemetry-keys.ts";
import { MessageOrder } from "../../crds/telemetry-order.ts";
import { openLoad } from "../../runtime/net/load-signature.ts";
import { type ExpertGrid, gridOf } from "../../runtime/placement/grid.ts";
import type { Trace } from "../planner/offline/traces.ts";

/** A window is incomplete without every process that `serves`. */
export interface Member {
  readonly rank: number;
  readonly bootId: string;
  readonly serves: boolean;
}

/** Ranks that join do not route tokens yet. */
export function membersOf(status: ExpertPlacementStatus): Member[] {
  return (status.ranks ?? []).flatMap(({ rank, bootId, state }) =>
    bootId === undefined ? [] : [{ rank, bootId, serves: state === "active" || state === "draining" }],
  );
}

export function gridIn({ layers }: Pick<ExpertPlacementSpec, "layers">): ExpertGrid {
  const ordered = layers.toSorted((a, b) => a.layer - b.layer);
  return gridOf(ordered.map(({ layer, hosts, weights }) => decodeLayer(hosts, weights, `spec.layers[${layer}]`).hosts.length));
}

export interface Closed {
  readonly counted: boolean;
  readonly selections: number;
  /** Serving ranks that did not report. */
  readonly missing: readonly number[];
  /** Ranks that routed tokens and are not members. */
  readonly unknown: readonly number[];
}

interface Report {
  readonly rank: number;
  readonly bootId: string;
  readonly routed: Uint32Array;
  readonly heard: Set<Phase>;
  messages: number;
}

export class Recorder {
  messages = 0;
  refused = 0;
  dropped = 0;
  readonly #uid: string;
  readonly #phases: readonly Phase[];
  #layers = 0;
  #experts = 0;
  readonly #open = new Map<string, Report>();
  readonly #closed: Uint32Array[] = [];
  readonly #keys: () => TelemetryKeys;
  /** Keys are rank and boot: NATS may deliver twice around a reconnect. */
  readonly #orders = new Map<string, MessageOrder>();

  /** `phase` undefined: the sum of both. `keys`: the current ones. */
  constructor(deploymentUid: string, phase: Phase | undefined, keys: () => TelemetryKeys) {
    this.#uid = deploymentUid;
    this.#keys = keys;
    this.#phases = phase === undefined ? phases : [phase];
  }

  get windows(): number {
    return this.#closed.length;
  }

  receive(bytes: Uint8Array): void {
    const load = this.#genuine(bytes);
    if (load === undefined || !this.#accept(load)) {
      this.refused++;
      return;
    }
    const report = this.#reportOf(load);
    report.messages++;
    if (!this.#phases.includes(load.phase)) return;
    report.heard.add(load.phase);
    for (let i = 0; i < load.routed.length; i++) report.routed[i] = (report.routed[i] as number) + (load.routed[i] as number);
  }

  #genuine(bytes: Uint8Array): LoadWindow | undefined {
    const opened = openLoad(bytes, this.#keys());
    if (!opened.ok) return undefined;
    try {
      return decodeLoad(opened.body);
    } catch {
      return undefined; // anything that is no load message is only counted
    }
  }

  #reportOf({ rank, bootId }: LoadWindow): Report {
    const key = `${rank}/${bootId}`;
    const known = this.#open.get(key);
    if (known) return known;
    const routed = new Uint32Array(this.#layers * this.#experts);
    const report: Report = { rank, bootId, routed, heard: new Set(), messages: 0 };
    this.#open.set(key, report);
    return report;
  }

  #accept(load: LoadWindow): boolean {
    if (load.deploymentUID !== this.#uid) return false;
    if (this.#layers === 0) {
      this.#layers = load.layers;
      this.#experts = load.experts;
    }
    if (load.layers !== this.#layers || load.experts !== this.#experts) return false;
    const key = `${load.rank}/${load.bootId}`;
    const order = this.#orders.get(key) ?? new MessageOrder();
    this.#orders.set(key, order);
    return order.take(load) === undefined;
  }

  /** Ends the window. It counts when exactly the serving members have reported. */
  close(members: readonly Member[]): Closed {
    const reports = [...this.#open.values()];
    this.#open.clear();
    const own = (report: Report) => members.some(({ rank, bootId }) => rank === report.rank && bootId === report.bootId);
    const reported = reports.filter(own);
    const heard = new Set(reported.filter((report) => report.heard.size === this.#phases.length).map(({ rank }) => rank));
    const missing = members.filter(({ rank, serves }) => serves && !heard.has(rank)).map(({ rank }) => rank);
    const ranks = new Set(members.map(({ rank }) => rank));
    const unknown = reports.filter(({ rank, routed }) => !ranks.has(rank) && routed.some((count) => count > 0)).map(({ rank }) => rank);
    this.refused += reports.filter((report) => !own(report)).reduce((sum, { messages }) => sum + messages, 0);
    const counted = members.some(({ serves }) => serves) && missing.length === 0 && unknown.length === 0;
    const selections = counted ? this.#keep(reported) : 0;
    if (!counted) this.dropped++;
    return { counted, selections, missing, unknown };
  }

  #keep(reports: readonly Report[]): number {
    const total = new Uint32Array(this.#layers * this.#experts);
    for (const { routed, messages } of reports) {
      for (let i = 0; i < total.length; i++) total[i] = (total[i] as number) + (routed[i] as number);
      this.messages += messages;
    }
    this.#closed.push(total);
    return total.reduce((a, b) => a + b, 0);
  }

  /** The name includes the number of incomplete windows. `grid`: for models whose layers differ in experts. */
  trace(name: string, grid?: ExpertGrid): Trace {
    const cells = this.#layers * this.#experts;
    const counts = new Uint32Array(this.#closed.length * cells);
    this.#closed.forEach((window, t) => {
      counts.set(window, t * cells);
    });
    const all = this.#closed.length + this.dropped;
    const whole = this.dropped === 0 ? name : `${name} (${this.dropped} of ${all} windows left out: not every rank reported)`;
    const known = grid?.layers === this.#layers && grid.experts === this.#experts ? grid : { layers: this.#layers, experts: this.#experts };
    const sizes = { name: whole, windows: this.#closed.length, ...known };
    return { ...sizes, counts };
  }
}
