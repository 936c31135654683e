// Watches a simulated cluster from outside and says which promise was broken when. It knows the promises, not the code:
// bytes before commit, declared bytes within the budget, no copy freed while a live source routes to it, no frame to a host that
// lacks its expert, frames of n and n-1 only, no expert without a copy or a source, no first commit past the deadline, epochs
// that only grow.
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import type { SimCluster } from "./cluster.ts";
import { content, type SimNetwork } from "./network.ts";
import type { SimWorker } from "./worker.ts";

/** Within which a layer must have been committed for the first time, or it keeps its parent. */
const prepareMs = 60_000;
/** Transfers add to the base deadline; in these small models that is nothing, but calls and retries take a moment. */
const deadlineSlackMs = 2_000;
/** Only of a source that the operator has reached for this long is it certain that every plan waited for it. */
const steadyMs = 12_000;
const faultsMax = 20;

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
    if (this.faults.length < faultsMax) this.faults.push(`${this.sim.clock.now()}: ${text}`);
  }

  onWrite(epoch: number): void {
    if (epoch <= this.highest) this.report(`epoch ${epoch} was written after ${this.highest}`);
    this.highest = Math.max(this.highest, epoch);
    this.writtenAt.set(epoch, this.sim.clock.now());
  }

  /** `layers`: those of which this is news to the worker. */
  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void {
    for (const layer of layers) {
      this.checkDeadline(plan.epoch, layer);
      for (const expert of worker.state.planned(layer)) {
        if (!worker.memory.has(worker.key(layer, expert)))
          this.report(`rank ${worker.rank} committed ${layer}/${expert} without its bytes`);
      }
    }
    this.onInstall(worker, layers);
  }

  private checkDeadline(epoch: number, layer: number): void {
    const key = `${epoch}/${layer}`;
    if (this.firstCommit.has(key)) return;
    const now = this.sim.clock.now();
    this.firstCommit.set(key, now);
    const written = this.writtenAt.get(epoch);
    // A resumed plan has a new deadline; its old one is no promise any more.
    if (written !== undefined && !this.sim.resumed && now - written > prepareMs + deadlineSlackMs)
      this.report(`layer ${layer} of epoch ${epoch} was first committed ${now - written} ms after it was written`);
  }

  /** A worker has committed or adopted placements: sources and hosts go by them at once. */
  onInstall(worker: SimWorker, layers: readonly number[]): void {
    for (const layer of layers) {
      const epoch = worker.state.current(layer)?.epoch ?? 0;
      const key = `${worker.bootId}/${layer}`;
      this.history.set(key, [...(this.history.get(key) ?? []), epoch].slice(-4));
      this.look(layer);
    }
  }

  /** No live source may still send rows for this expert here, or have some under way. */
  onFree(worker: SimWorker, layer: number, expert: number): void {
    const mine = worker.state.current(layer);
    if (!mine || mine.hosts[expert]?.includes(worker.rank)) return;
    for (const source of this.sim.pods.values()) {
      if (!source.alive || source === worker || this.unreachable(source)) continue;
      // A copy loaded for a preparation that failed may go: only what a newer commit gave up is promised to older sources.
      for (const placement of routes(source, layer)) {
        const { epoch, hosts } = placement;
        if (epoch < mine.epoch && hosts[expert]?.includes(worker.rank))
          this.report(`rank ${worker.rank} freed ${layer}/${expert} while rank ${source.rank} routes to it at epoch ${epoch}`);
      }
    }
  }

  /** A source that was away a moment ago may have been declared lost: its old routes are answered NOT_HOSTED. */
  private unreachable(source: SimWorker): boolean {
    return this.sim.clock.now() - (this.upSince.get(source.bootId) ?? Number.POSITIVE_INFINITY) < steadyMs;
  }

  /** A worker has loaded or freed an expert. */
  onMemory(worker: SimWorker, layer: number, expert: number): void {
    const held = worker.memory.get(worker.key(layer, expert));
    if (held !== undefined && held !== content(layer, expert)) this.report(`rank ${worker.rank} took wrong bytes for ${layer}/${expert}`);
    const { budgetBytes } = this.sim.shape;
    const accounted = worker.process.residents.bytes;
    if (Math.max(worker.hostedBytes, accounted) > budgetBytes)
      this.report(`rank ${worker.rank} holds ${worker.hostedBytes} bytes and counts ${accounted}, its budget is ${budgetBytes}`);
    this.look(layer);
  }

  /** Every second: who can be reached, and one frame of every layer from every source to every host. */
  frames(): void {
    const now = this.sim.clock.now();
    for (const worker of this.sim.pods.values()) {
      const reached = worker.alive && !worker.stalled && this.net.connected(-2, worker.rank) && this.sim.loop !== undefined;
      if (!reached) this.upSince.delete(worker.bootId);
      else if (!this.upSince.has(worker.bootId)) this.upSince.set(worker.bootId, now);
    }
    for (let layer = 0; layer < this.sim.shape.layers; layer++) this.look(layer);
  }

  /** What holds of a layer at every moment. */
  private look(layer: number): void {
    for (const source of this.sim.pods.values()) {
      if (source.alive) for (const placement of routes(source, layer)) this.send(source, placement);
    }
    for (let expert = 0; expert < this.sim.shape.experts; expert++) this.checkCopies(layer, expert);
  }

  /** Frames of all of a layer's experts to their hosts: served by the newest two epochs only, and from the declared bytes. */
  private send(source: SimWorker, placement: LayerPlacement): void {
    const { layer, epoch, hosts } = placement;
    for (const rank of new Set(hosts.flat())) {
      const host = rank === source.rank ? source : this.net.worker(rank);
      if (!host || host.stalled || (host !== source && !this.net.connected(source.rank, rank))) continue;
      if (!host.state.serves(layer, epoch)) continue; // answered NOT_HOSTED
      const known = this.history.get(`${host.bootId}/${layer}`) ?? [];
      const oldest = known.at(-2) ?? known[0] ?? 0;
      if (epoch < oldest) this.report(`rank ${rank} served a frame of layer ${layer} at epoch ${epoch}, it runs ${known.join(", ")}`);
      for (const [expert, row] of hosts.entries()) if (row.includes(rank)) this.checkServed(source, host, placement, expert);
    }
  }

  private checkServed(source: SimWorker, host: SimWorker, { layer, epoch }: LayerPlacement, expert: number): void {
    const held = host.memory.get(host.key(layer, expert));
    if (held === content(layer, expert)) return;
    const frame = `a frame for ${layer}/${expert} of rank ${source.rank} at epoch ${epoch}`;
    if (held !== undefined) this.report(`rank ${host.rank} served ${frame} from wrong bytes`);
    else if (!this.loading(host, layer, epoch)) this.report(`rank ${host.rank} lacks the expert of ${frame}`);
  }

  /** It came up, or came back, after the plan was written: it takes its part from peers and the store, and says NOT_HOSTED until then. */
  private loading(host: SimWorker, layer: number, epoch: number): boolean {
    if (host.catchingUp(layer, epoch)) return true;
    return (host.state.current(layer)?.epoch ?? 0) < epoch && host.bootedAt >= (this.writtenAt.get(epoch) ?? 0);
  }

  /** A live rank has the expert, or all hosts in force are gone or still load it: peers and the store are their sources. */
  private checkCopies(layer: number, expert: number): void {
    let newest: LayerPlacement | undefined;
    for (const worker of this.sim.pods.values()) {
      if (!worker.alive) continue;
      if (worker.memory.get(worker.key(layer, expert)) === content(layer, expert)) return;
      const current = worker.state.current(layer);
      if (current && current.epoch > (newest?.epoch ?? 0)) newest = current;
    }
    for (const rank of newest?.hosts[expert] ?? []) {
      const host = this.net.worker(rank);
      if (host && host.state.current(layer) === newest && !this.loading(host, layer, newest?.epoch ?? 0))
        this.report(`expert ${layer}/${expert} has no copy left, and rank ${rank} does not load it`);
    }
  }
}

/** By what a source sends: its committed placement, and until it has drained, frames of the parent's are under way. */
function routes({ state }: SimWorker, layer: number): LayerPlacement[] {
  const placements = [state.current(layer), state.phase(layer) === "committed" ? state.previous(layer) : undefined];
  return placements.filter((placement) => placement !== undefined);
}
