// Watches a simulated cluster from outside and says which promise was broken when. It knows the promises, not the code:
// bytes before commit, no copy freed while a live source routes to it, frames of n and n-1 only, no first commit past the
// deadline, epochs that only grow.
import type { PlacementPlan } from "../../crds/plan.ts";
import { defaultLimits } from "../../operator/rebalance/protocol-types.ts";
import type { SimCluster } from "./cluster.ts";
import type { SimNetwork, SimWorker } from "./worker.ts";

/** Transfers add to the base deadline; in these small models that is nothing, but calls and retries take a moment. */
const deadlineSlackMs = 2_000;
/** Only of a source that the operator has reached for this long is it certain that every plan waited for it. */
const steadyMs = 12_000;

export class Oracle {
  readonly faults: string[] = [];
  private readonly sim: SimCluster;
  private readonly net: SimNetwork;
  private readonly writtenAt = new Map<number, number>();
  private readonly firstCommit = new Map<string, number>();
  /** Layer epochs that a host has committed, newest last, by "boot/layer". */
  private readonly history = new Map<string, number[]>();
  /** Since when the operator has reached a process without a break, by boot. */
  private readonly upSince = new Map<string, number>();
  private highest = 0;

  constructor(sim: SimCluster, net: SimNetwork) {
    this.sim = sim;
    this.net = net;
  }

  private report(text: string): void {
    if (this.faults.length < 20) this.faults.push(`${this.sim.clock.now()}: ${text}`);
  }

  onWrite(epoch: number): void {
    if (epoch <= this.highest) this.report(`epoch ${epoch} was written after ${this.highest}`);
    this.highest = Math.max(this.highest, epoch);
    this.writtenAt.set(epoch, this.sim.clock.now());
  }

  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void {
    const now = this.sim.clock.now();
    for (const layer of layers) {
      const key = `${plan.epoch}/${layer}`;
      if (!this.firstCommit.has(key)) {
        this.firstCommit.set(key, now);
        const written = this.writtenAt.get(plan.epoch);
        // A resumed plan has a new deadline; its old one is no promise any more.
        if (written !== undefined && !this.sim.resumed && now - written > defaultLimits.prepareMs + deadlineSlackMs) {
          this.report(`layer ${layer} of epoch ${plan.epoch} was first committed ${now - written} ms after it was written`);
        }
      }
      for (const expert of worker.state.planned(layer)) {
        if (!worker.memory.has(worker.key(layer, expert)) && !worker.adopting)
          this.report(`rank ${worker.rank} committed ${layer}/${expert} without its bytes`);
      }
    }
  }

  /** No live source may still send rows for this expert here. */
  onFree(worker: SimWorker, layer: number, expert: number): void {
    for (const source of this.sim.pods.values()) {
      if (!source.alive || source === worker || this.unreachable(source)) continue;
      const mine = worker.state.current(layer);
      const theirs = source.state.current(layer);
      // A copy loaded for a preparation that failed may go: only what a newer commit gave up is promised to older sources.
      if (!mine || !theirs || theirs.epoch >= mine.epoch) continue;
      const hosts = theirs.hosts[expert];
      if (hosts?.includes(worker.rank) && !mine.hosts[expert]?.includes(worker.rank)) {
        this.report(`rank ${worker.rank} freed ${layer}/${expert} while rank ${source.rank} still routes to it`);
      }
    }
  }

  /** A source that was away a moment ago may have been declared lost: its old routes are answered NOT_HOSTED. */
  private unreachable(source: SimWorker): boolean {
    return this.sim.clock.now() - (this.upSince.get(source.bootId) ?? Number.POSITIVE_INFINITY) < steadyMs;
  }

  /** One frame of every layer from every source to every host: what is served must be of the newest two epochs there. */
  frames(): void {
    const now = this.sim.clock.now();
    for (const worker of this.sim.pods.values()) {
      const reached = worker.alive && !worker.stalled && this.net.connected(-2, worker.rank) && this.sim.loop !== undefined;
      if (!reached) this.upSince.delete(worker.bootId);
      else if (!this.upSince.has(worker.bootId)) this.upSince.set(worker.bootId, now);
    }
    for (const source of this.sim.pods.values()) {
      for (let layer = 0; layer < this.sim.shape.layers; layer++) this.send(source, layer);
    }
  }

  /** Called whenever a host has taken a placement. */
  onInstall(worker: SimWorker): void {
    for (let layer = 0; layer < this.sim.shape.layers; layer++) {
      const epoch = worker.state.current(layer)?.epoch;
      if (epoch === undefined) continue;
      const key = `${worker.bootId}/${layer}`;
      const known = this.history.get(key) ?? [];
      if (known.at(-1) !== epoch) this.history.set(key, [...known, epoch].slice(-4));
    }
  }

  private send(source: SimWorker, layer: number): void {
    const placement = source.state.current(layer);
    if (!source.alive || !placement) return;
    for (const rank of new Set(placement.hosts.flat())) {
      const host = this.net.worker(rank);
      if (!host || host === source || host.stalled || !this.net.connected(source.rank, rank)) continue;
      if (!host.state.serves(layer, placement.epoch)) continue;
      const known = this.history.get(`${host.bootId}/${layer}`) ?? [];
      const oldest = known.length >= 2 ? (known.at(-2) as number) : (known[0] ?? 0);
      if (placement.epoch < oldest)
        this.report(`rank ${rank} served a frame of layer ${layer} at epoch ${placement.epoch}, it runs ${known.join(", ")}`);
    }
  }
}
