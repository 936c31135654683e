// An oracle that watches a simulated cluster from outside and says which promise was broken when. It knows the promises, not the
// code: bytes before commit, declared bytes within the budget and in every row of a token, no expert replica freed while a live source routes
// to it, no frame to a host that lacks its expert, frames of n and n-1 only, no expert without an expert replica or a source, no first commit
// past the deadline, epochs that only grow, and no step of a source that never ends.
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import { expertsIn } from "../../runtime/placement/grid.ts";
import type { SimCluster } from "./cluster.ts";
import { SimModel } from "./model.ts";
import { AnsweredRows, SentRows, type Taps } from "./wire.ts";
import type { SimWorker, Watch } from "./worker.ts";

/** A layer must have been committed for the first time within this, or it keeps its parent. */
const prepareMs = 60_000;
/** Transfers add to the base deadline; in these small models that is nothing, but calls and retries take a moment. */
const deadlineSlackMs = 2_000;
/** A source must have been reached for this long before it is certain that every plan waited for it. */
const steadyMs = 12_000;
const faultsMax = 20;
/** A layer of a step waits so long for experts that nobody has, and then the step fails. */
const layerMaxMs = 32_000;

export class Oracle implements Watch {
  readonly faults: string[] = [];
  /** Steps of sources that ended, and how the last of them that failed did. */
  readonly steps = { done: 0, failed: 0, lastFailure: "" };
  readonly #sim: SimCluster;
  readonly #model: SimModel;
  /** The time since when a process's step is under way, by boot id. */
  readonly #stepping = new Map<string, number>();
  /** Frames that have arrived and are not answered, by call and number, with the oldest epoch that their host served then. */
  readonly #frames = new Map<string, { readonly frame: SentRows["frame"]; readonly oldest: number }>();
  readonly #writtenAt = new Map<number, number>();
  readonly #firstCommit = new Map<string, number>();
  /** Layer epochs that a host has committed, newest last, by "boot/layer". */
  readonly #history = new Map<string, number[]>();
  /** Epoch that a host last took as a whole, by "boot/layer": it was not there when the plan waited for all to drain. */
  readonly #adopted = new Map<string, number>();
  /** The time since when the operator has reached a process without a break, by boot id. */
  readonly #upSince = new Map<string, number>();
  #highest = 0;

  constructor(sim: SimCluster) {
    this.#sim = sim;
    this.#model = new SimModel(sim.shape);
  }

  #workerOf(rank: number): SimWorker | undefined {
    const worker = this.#sim.ofRank(rank);
    return worker?.alive ? worker : undefined;
  }

  #report(text: string): void {
    if (this.faults.length < faultsMax) this.faults.push(`${this.#sim.clock.now()}: ${text}`);
  }

  onWrite(epoch: number): void {
    if (epoch <= this.#highest) this.#report(`epoch ${epoch} was written after ${this.#highest}`);
    this.#highest = Math.max(this.#highest, epoch);
    this.#writtenAt.set(epoch, this.#sim.clock.now());
  }

  /** `layers` are those whose placement is new to the worker. */
  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void {
    for (const layer of layers) {
      this.#checkDeadline(plan.epoch, layer);
      for (const expert of worker.state.planned(layer)) {
        if (!worker.memory.has(worker.key(layer, expert)) && !worker.gaveWay(layer, expert))
          this.#report(`rank ${worker.rank} committed ${layer}/${expert} without its bytes`);
      }
    }
    this.#onInstall(worker, layers);
  }

  #checkDeadline(epoch: number, layer: number): void {
    const key = `${epoch}/${layer}`;
    if (this.#firstCommit.has(key)) return;
    const now = this.#sim.clock.now();
    this.#firstCommit.set(key, now);
    const written = this.#writtenAt.get(epoch);
    // A resumed plan has a new deadline; its old one is no promise any more.
    if (written !== undefined && !this.#sim.resumed && now - written > prepareMs + deadlineSlackMs)
      this.#report(`layer ${layer} of epoch ${epoch} was first committed ${now - written} ms after it was written`);
  }

  onAdopt(worker: SimWorker, layers: readonly number[]): void {
    for (const layer of layers) this.#adopted.set(`${worker.bootId}/${layer}`, worker.state.current(layer)?.epoch ?? 0);
    this.#onInstall(worker, layers);
  }

  /** A worker has committed or adopted placements: sources and hosts go by them at once. */
  #onInstall(worker: SimWorker, layers: readonly number[]): void {
    for (const layer of layers) {
      const epoch = worker.state.current(layer)?.epoch ?? 0;
      const key = `${worker.bootId}/${layer}`;
      const known = this.#history.get(key) ?? [];
      if (epoch <= (known.at(-1) ?? 0)) this.#report(`rank ${worker.rank} went from epoch ${known.at(-1)} of layer ${layer} to ${epoch}`);
      this.#history.set(key, [...known, epoch].slice(-4));
      this.#look(layer);
    }
  }

  onStep(worker: SimWorker, event: "begun" | "done" | "failed" | "wrong", detail: string): void {
    if (event === "wrong") this.#report(`rank ${worker.rank} made a token from wrong bytes: ${detail}`);
    else if (event === "begun") this.#stepping.set(worker.bootId, this.#sim.clock.now());
    else {
      this.#stepping.delete(worker.bootId);
      this.steps[event]++;
    }
    if (event === "failed") this.steps.lastFailure = `rank ${worker.rank}: ${detail}`;
  }

  /** Frames and their answers as they arrive. */
  onMessage(message: unknown, { id, from, to }: Parameters<Taps["arriving"]>[1]): unknown {
    if (message instanceof SentRows) this.#arrived(id, to.id, message);
    if (message instanceof AnsweredRows) this.#answered(id, from.id, message);
    return message;
  }

  #arrived(call: number, host: number, { seq, frame }: SentRows): void {
    this.#frames.set(`${call}/${seq}`, { frame, oldest: this.#oldestServed(this.#workerOf(host), frame.layer) });
  }

  #answered(call: number, host: number, { seq, answer }: AnsweredRows): void {
    const key = `${call}/${seq}`;
    const known = this.#frames.get(key);
    this.#frames.delete(key);
    if (!known || !(answer instanceof Uint8Array)) return;
    const { frame, oldest } = known;
    if (frame.epoch < oldest)
      this.#report(`rank ${host} served a frame of layer ${frame.layer} at epoch ${frame.epoch}, the oldest it may is ${oldest}`);
  }

  #oldestServed(host: SimWorker | undefined, layer: number): number {
    const known = this.#history.get(`${host?.bootId}/${layer}`) ?? [];
    return known.at(-2) ?? known[0] ?? 0;
  }

  /** No live source may still send rows for this expert here, or have some under way. */
  onFree(worker: SimWorker, layer: number, expert: number): void {
    const mine = worker.state.current(layer);
    if (this.#sim.shape.oversubscribed) return; // it is loaded again where such a row comes
    if (!mine || mine.hosts[expert]?.includes(worker.rank)) return;
    if (this.#adopted.get(`${worker.bootId}/${layer}`) === mine.epoch) return;
    const ran = this.#history.get(`${worker.bootId}/${layer}`) ?? [];
    for (const source of this.#sim.pods.values()) {
      if (!source.alive || source === worker || this.#unreachable(source)) continue;
      // An expert replica loaded for a preparation that failed, or by a process that came up later, may go: only what a newer commit gave up
      // is promised to older sources.
      for (const placement of routes(source, layer)) {
        const { epoch, hosts } = placement;
        if (epoch < mine.epoch && ran.includes(epoch) && hosts[expert]?.includes(worker.rank))
          this.#report(`rank ${worker.rank} freed ${layer}/${expert} while rank ${source.rank} routes to it at epoch ${epoch}`);
      }
    }
  }

  /** A source that was away a moment ago may have been declared lost: its old routes are answered NOT_HOSTED. */
  #unreachable(source: SimWorker): boolean {
    return this.#sim.clock.now() - (this.#upSince.get(source.bootId) ?? Number.POSITIVE_INFINITY) < steadyMs;
  }

  /** A worker has loaded or freed an expert. */
  onMemory(worker: SimWorker, layer: number, expert: number): void {
    const held = worker.memory.get(worker.key(layer, expert));
    if (held !== undefined && held !== this.#model.fingerprint(layer, expert))
      this.#report(`rank ${worker.rank} took wrong bytes for ${layer}/${expert}`);
    const { budgetBytes } = this.#sim.shape;
    const accounted = worker.residents?.bytes ?? 0;
    if (Math.max(worker.hostedBytes, accounted) > budgetBytes)
      this.#report(`rank ${worker.rank} holds ${worker.hostedBytes} bytes and counts ${accounted}, its budget is ${budgetBytes}`);
    this.#look(layer);
  }

  /** Every second: who can be reached, whose step does not end, and what holds of every layer. */
  every(): void {
    const now = this.#sim.clock.now();
    for (const worker of this.#sim.pods.values()) {
      const reached = worker.alive && !worker.stalled && !this.#sim.troubles.cuts.has(`-2:${worker.rank}`) && this.#sim.loop !== undefined;
      if (!reached) this.#upSince.delete(worker.bootId);
      else if (!this.#upSince.has(worker.bootId)) this.#upSince.set(worker.bootId, now);
      const openMs = now - (worker.alive ? (this.#stepping.get(worker.bootId) ?? now) : now);
      if (openMs > this.#sim.shape.layers * layerMaxMs) this.#report(`a step of rank ${worker.rank} has not ended for ${openMs} ms`);
    }
    for (let layer = 0; layer < this.#sim.shape.layers; layer++) this.#look(layer);
  }

  /** Checks what holds of a layer at every moment. */
  #look(layer: number): void {
    for (const source of this.#sim.pods.values()) {
      if (source.alive) for (const placement of routes(source, layer)) this.#send(source, placement);
    }
    for (let expert = 0; expert < expertsIn(this.#sim.shape, layer); expert++) this.#checkExpertReplicas(layer, expert);
  }

  /** Frames of all of a layer's experts to their hosts: served by the newest two epochs only, and from the declared bytes. */
  #send(source: SimWorker, placement: LayerPlacement): void {
    const { layer, epoch, hosts } = placement;
    for (const rank of new Set(hosts.flat())) {
      const host = rank === source.rank ? source : this.#workerOf(rank);
      if (!host || host.stalled || (host !== source && this.#sim.troubles.cuts.has(pairOf(source.rank, rank)))) continue;
      const lowest = host.state.lowestEpochs()[layer] ?? -1;
      if (lowest < 0 || epoch < lowest) continue; // answered NOT_HOSTED
      const oldest = this.#oldestServed(host, layer);
      if (epoch < oldest) this.#report(`rank ${rank} serves frames of layer ${layer} at epoch ${epoch}, the oldest it may is ${oldest}`);
      for (const [expert, row] of hosts.entries()) if (row.includes(rank)) this.#checkServed(source, host, placement, expert);
    }
  }

  #checkServed(source: SimWorker, host: SimWorker, { layer, epoch }: LayerPlacement, expert: number): void {
    const held = host.memory.get(host.key(layer, expert));
    if (held === this.#model.fingerprint(layer, expert)) return;
    const frame = `a frame for ${layer}/${expert} of rank ${source.rank} at epoch ${epoch}`;
    if (held !== undefined) this.#report(`rank ${host.rank} served ${frame} from wrong bytes`);
    else if (!this.#loading(host, layer, epoch) && !host.gaveWay(layer, expert))
      this.#report(`rank ${host.rank} lacks the expert of ${frame}`);
  }

  /** It came up, or came back, after the plan was written: it takes its part from peers and the store, and says NOT_HOSTED until then. */
  #loading(host: SimWorker, layer: number, epoch: number): boolean {
    const now = this.#sim.clock.now();
    if (host.catchingUp(layer, epoch)) return true;
    // Of two operators one may make a host give up what the other lets a source commit: such a host answers NOT_HOSTED.
    const tookIt = this.#history.get(`${host.bootId}/${layer}`)?.includes(epoch) === true;
    if (now < this.#sim.twoOperatorsUntil && !tookIt) return true;
    return (host.state.current(layer)?.epoch ?? 0) < epoch && host.bootedAt >= (this.#writtenAt.get(epoch) ?? 0);
  }

  /** A live rank has the expert, or all hosts in effect are gone or still load it: peers and the store are their sources. */
  #checkExpertReplicas(layer: number, expert: number): void {
    let newest: LayerPlacement | undefined;
    for (const worker of this.#sim.pods.values()) {
      if (!worker.alive) continue;
      if (worker.memory.get(worker.key(layer, expert)) === this.#model.fingerprint(layer, expert)) return;
      const current = worker.state.current(layer);
      if (current && current.epoch > (newest?.epoch ?? 0)) newest = current;
    }
    for (const rank of newest?.hosts[expert] ?? []) {
      const host = this.#workerOf(rank);
      if (host && host.state.current(layer) === newest && !this.#loading(host, layer, newest?.epoch ?? 0) && !host.gaveWay(layer, expert))
        this.#report(`expert ${layer}/${expert} has no expert replica left, and rank ${rank} does not load it`);
    }
  }
}

const pairOf = (a: number, b: number): string => `${Math.min(a, b)}:${Math.max(a, b)}`;

/** The placements that a source sends by: its committed one, and until it has drained, frames of the parent's are under way. */
function routes({ state }: SimWorker, layer: number): LayerPlacement[] {
  const placements = [state.current(layer), state.phase(layer) === "committed" ? state.previous(layer) : undefined];
  return placements.filter((placement) => placement !== undefined);
}
