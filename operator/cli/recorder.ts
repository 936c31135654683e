// Load messages of all ranks become a trace. A window counts only when every rank that serves has reported in it; messages that are
// unsigned, foreign or out of order are counted as refused. Pure.
import type { ExpertPlacementSpec, ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import { decodeLayer } from "../../crds/plan.ts";
import { decodeLoad, type LoadWindow, type Phase, phases } from "../../crds/telemetry.ts";
import type { TelemetryKeys } from "../../crds/telemetry-keys.ts";
import { MessageOrder } from "../../crds/telemetry-order.ts";
import { openLoad } from "../../runtime/net/load-signature.ts";
import { type ExpertGrid, gridOf } from "../../runtime/placement/grid.ts";
import type { Trace } from "../planner/offline/traces.ts";

/** A process that may report; `serves`: a window without it is incomplete. */
export interface Member {
  readonly rank: number;
  readonly bootId: string;
  readonly serves: boolean;
}

/** Ranks that serve; those that join do not route tokens yet. */
export function membersOf(status: ExpertPlacementStatus): Member[] {
  return (status.ranks ?? []).flatMap(({ rank, bootId, state }) =>
    bootId === undefined ? [] : [{ rank, bootId, serves: state === "active" || state === "draining" }],
  );
}

/** The experts of each layer, by the plan. */
export function gridIn({ layers }: Pick<ExpertPlacementSpec, "layers">): ExpertGrid {
  const ordered = layers.toSorted((a, b) => a.layer - b.layer);
  return gridOf(ordered.map(({ layer, hosts, weights }) => decodeLayer(hosts, weights, `spec.layers[${layer}]`).hosts.length));
}

/** A window at its end. */
export interface Closed {
  readonly counted: boolean;
  readonly selections: number;
  /** Ranks that serve and did not report. */
  readonly missing: readonly number[];
  /** Ranks that routed tokens and that nobody knows yet. */
  readonly unknown: readonly number[];
}

/** The report of one process in the open window. */
interface Report {
  readonly rank: number;
  readonly bootId: string;
  readonly routed: Uint32Array;
  readonly heard: Set<Phase>;
  messages: number;
}

export class Recorder {
  /** Messages of kept windows. */
  messages = 0;
  refused = 0;
  dropped = 0;
  /** Pairs of experts that followed tokens chose. */
  readonly #uid: string;
  readonly #phases: readonly Phase[];
  #layers = 0;
  #experts = 0;
  readonly #open = new Map<string, Report>();
  readonly #closed: Uint32Array[] = [];
  readonly #keys: () => TelemetryKeys;
  /** Keyed by rank and boot: NATS may deliver twice around a reconnect. */
  readonly #orders = new Map<string, MessageOrder>();

  /** `phase` undefined: both, added up. `keys`: the current ones. */
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
      return undefined; // what a load message is not is only counted, whatever it is
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

  /** Ends the window. It counts when all members that serve, and no others, have reported. */
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

  /** Its name says how many windows are left out. `grid`: the model's, for the layers that have fewer experts than others. */
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
