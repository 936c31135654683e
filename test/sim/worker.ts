// A worker without a model: the production epoch machine, a memory of expert bytes (as their content), fetches with
// latency from peers or the store, and the Link the operator would hold to it. Faults are switched on from outside.
import { AppError } from "../../crds/common.ts";
import type { LayerPlacement, PlacementPlan } from "../../crds/plan.ts";
import type { Description, HostedLayer, Link, LinkTarget, Membership, PodStatus, PrepareEvent } from "../../operator/rebalance/ports.ts";
import { PlanState } from "../../runtime/engine/core/plan-state.ts";
import type { VirtualClock } from "./clock.ts";

export interface SimShape {
  readonly layers: number;
  readonly experts: number;
  readonly bytes: number;
  readonly budgetBytes: number;
}

export interface SimNetwork {
  readonly clock: VirtualClock;
  readonly random: () => number;
  readonly shape: SimShape;
  readonly deploymentUid: string;
  worker(rank: number): SimWorker | undefined;
  /** May a message pass between these two now? -2 = operator. */
  connected(a: number, b: number): boolean;
  /** Flips the bytes of one transfer. */
  corrupts(): boolean;
  /** Slows the fetches of a rank down. */
  fetchFactor(rank: number): number;
  /** Is this call delivered twice? */
  duplicates(): boolean;
  /** Told before a worker frees an expert and when it commits: the oracle looks on. */
  onFree(worker: SimWorker, layer: number, expert: number): void;
  onInstall(worker: SimWorker): void;
  onCommit(worker: SimWorker, plan: PlacementPlan, layers: readonly number[]): void;
}

export const content = (layer: number, expert: number): string => `bytes ${layer}/${expert}`;
export const digest = "sha256:model";
const fetchMs = 20;
const callMs = 3;
const retryMs = 200;

export class SimWorker {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  bootId: string;
  alive = true;
  stalled = false;
  /** Loading a plan that was adopted whole: it serves what it has. */
  private adoptions = 0;
  get adopting(): boolean {
    return this.adoptions > 0;
  }
  state: PlanState;
  /** layer * experts + expert -> content held */
  memory = new Map<number, string>();
  membership: Membership | undefined;
  draining = false;
  fetchedBytes = 0;
  peakBytes = 0;
  private readonly net: SimNetwork;
  private boots = 0;

  constructor(net: SimNetwork, rank: number, podUid: string) {
    this.net = net;
    this.rank = rank;
    this.podUid = podUid;
    this.podName = `sim-${rank}-${podUid}`;
    this.bootId = `${podUid}-boot0`;
    this.state = this.freshState();
  }

  private freshState(): PlanState {
    const { layers, experts } = this.net.shape;
    return new PlanState({ deploymentUid: this.net.deploymentUid, rank: this.rank, layers, experts, modelDigest: digest });
  }

  /** The process dies; the kubelet starts it again in the same pod after `ms`. */
  crash(restartMs: number | undefined): void {
    this.alive = false;
    this.memory = new Map();
    this.state = this.freshState();
    if (restartMs === undefined) return;
    this.net.clock.after(restartMs, () => {
      this.boots++;
      this.bootId = `${this.podUid}-boot${this.boots}`;
      this.alive = true;
    });
  }

  key(layer: number, expert: number): number {
    return layer * this.net.shape.experts + expert;
  }

  get ready(): boolean {
    return this.state.complete;
  }

  get hostedBytes(): number {
    return this.memory.size * this.net.shape.bytes;
  }

  hosted(): HostedLayer[] {
    return Array.from({ length: this.net.shape.layers }, (_, layer) => ({
      layer,
      epoch: this.state.current(layer)?.epoch ?? 0,
      experts: Array.from({ length: this.net.shape.experts }, (_, e) => e).filter((e) => this.memory.has(this.key(layer, e))),
    }));
  }

  status(): PodStatus {
    return {
      epoch: this.state.epoch,
      planHash: this.state.planHash,
      ready: this.ready,
      notReadyReason: this.ready ? "" : "NoPlan",
      hostedBytes: this.hostedBytes,
      queuedTokens: 0,
      activeRequests: 0,
      draining: this.draining,
      membershipVersion: this.membership?.version ?? 0,
    };
  }

  describe(): Description {
    const { layers, experts, bytes, budgetBytes } = this.net.shape;
    const sizes = new Float64Array(layers * experts).fill(bytes);
    return {
      rank: this.rank,
      podUid: this.podUid,
      bootId: this.bootId,
      podName: this.podName,
      modelDigest: digest,
      architecture: "sim",
      layers,
      experts,
      topK: 2,
      codec: "f32",
      storedBytes: sizes,
      residentBytes: sizes,
      budgetBytes,
      denseBytes: 1,
      kvBytes: 1,
      device: "simulated",
      speed: 1,
    };
  }

  async adopt(plan: PlacementPlan): Promise<void> {
    const boot = this.bootId;
    this.adoptions++;
    try {
      await this.takeOver(plan, boot);
    } finally {
      this.adoptions--;
    }
  }

  private async takeOver(plan: PlacementPlan, boot: string): Promise<void> {
    const changed = this.state.adopt(plan);
    this.net.onInstall(this);
    for (const layer of changed) {
      const placement = this.state.current(layer);
      if (placement) await this.loadInTheEnd(placement, boot);
      if (!this.same(boot)) return;
      this.state.drained(layer);
      this.state.release(placement?.epoch ?? 0, [layer]);
      this.free(layer);
    }
  }

  private same(boot: string): boolean {
    return this.alive && this.bootId === boot;
  }

  /** A committed placement is loaded however often it takes, unless a newer one replaces it. */
  private async loadInTheEnd(placement: LayerPlacement, boot: string): Promise<void> {
    while (this.same(boot) && this.state.current(placement.layer) === placement) {
      try {
        await this.load(placement, boot);
        return;
      } catch {
        await this.net.clock.sleep(retryMs);
      }
    }
  }

  /** Fetches what the placement gives this rank; bytes are verified before they count. */
  private async load(placement: LayerPlacement, boot: string, deadline = Number.POSITIVE_INFINITY): Promise<number> {
    let bytes = 0;
    for (const [expert, hosts] of placement.hosts.entries()) {
      if (!hosts.includes(this.rank) || this.memory.has(this.key(placement.layer, expert))) continue;
      await this.transfer(deadline, boot);
      if (this.net.clock.now() > deadline) throw new AppError("past the deadline", { code: "DeadlineExceeded" });
      if (!this.same(boot)) throw new AppError("the process died", { code: "Unavailable" });
      const got = this.fetch(placement.layer, expert);
      if (got !== content(placement.layer, expert))
        throw new AppError(`expert ${placement.layer}/${expert}: wrong hash`, { code: "HashMismatch" });
      this.memory.set(this.key(placement.layer, expert), got);
      this.peakBytes = Math.max(this.peakBytes, this.hostedBytes);
      bytes += this.net.shape.bytes;
    }
    this.fetchedBytes += bytes;
    return bytes;
  }

  /** Takes its time, which may change under way, and ends at the deadline at the latest. */
  private async transfer(deadline: number, boot: string): Promise<void> {
    let left = fetchMs * (0.5 + this.net.random());
    while (left > 0 && this.same(boot) && this.net.clock.now() <= deadline) {
      const factor = this.net.fetchFactor(this.rank);
      const slice = Math.min(left * factor, 500);
      await this.net.clock.sleep(slice);
      left -= slice / factor;
      if (left < 1e-6) return;
    }
  }

  private fetch(layer: number, expert: number): string {
    const flipped = this.net.corrupts();
    for (const rank of this.state.current(layer)?.hosts[expert] ?? []) {
      const peer = this.net.worker(rank);
      if (rank === this.rank || !peer?.alive || !this.net.connected(this.rank, rank)) continue;
      const held = peer.memory.get(this.key(layer, expert));
      if (held !== undefined) return flipped ? `${held}?` : held;
    }
    return flipped ? "?" : content(layer, expert);
  }

  private free(layer: number): void {
    const wanted = this.state.wanted(layer);
    for (let e = 0; e < this.net.shape.experts; e++) {
      if (wanted.has(e) || !this.memory.has(this.key(layer, e))) continue;
      this.net.onFree(this, layer, e);
      this.memory.delete(this.key(layer, e));
    }
  }

  async prepare(plan: PlacementPlan, deadline: number, onEvent: (event: PrepareEvent) => void): Promise<void> {
    const boot = this.bootId;
    const { start, done } = this.state.prepare(plan);
    for (const layer of done) onEvent({ type: "ready", layer, bytes: 0 });
    for (const layer of start) {
      try {
        const bytes = await this.load(layer, boot, deadline);
        if (this.net.clock.now() > deadline) throw new AppError("past the deadline", { code: "DeadlineExceeded" });
        if (!this.state.ready(layer.layer, layer.epoch)) throw new AppError("aborted meanwhile", { code: "Aborted" });
        onEvent({ type: "ready", layer: layer.layer, bytes });
      } catch (caught) {
        if (!this.same(boot)) throw caught;
        this.state.failed(layer.layer, layer.epoch);
        this.free(layer.layer);
        onEvent({ type: "failed", layer: layer.layer, message: AppError.from(caught).message });
      }
    }
  }

  commit(plan: PlacementPlan) {
    const reply = this.state.commit(plan);
    this.net.onCommit(this, plan, reply.committed);
    this.net.onInstall(this);
    const boot = this.bootId;
    // Frames of the parent epoch are answered a little later.
    this.net.clock.after(10 + this.net.random() * 60, () => {
      if (this.same(boot)) for (const layer of reply.committed) this.state.drained(layer);
    });
    return { ...reply, epoch: this.state.epoch };
  }

  abort(epoch: number, layers: readonly number[]): void {
    for (const layer of this.state.abort(epoch, layers)) this.free(layer);
  }

  release(epoch: number, layers: readonly number[]) {
    const reply = this.state.release(epoch, layers);
    for (const layer of reply.released) this.free(layer);
    return reply;
  }
}

const unavailable = (rank: number): AppError => new AppError(`rank ${rank} does not answer`, { code: "Unavailable", retry: "backoff" });
const statusMs = 200;

/** The operator's link to a simulated worker: latency, cuts and reboots as a gRPC session shows them. */
export class SimLink implements Link {
  description: Description | undefined;
  status: PodStatus | undefined;
  hosted: ReadonlyMap<number, HostedLayer> = new Map();
  downSince: number | undefined;
  lastError = "";
  readonly address: string;
  private readonly net: SimNetwork;
  private readonly find: () => SimWorker | undefined;
  private readonly target: LinkTarget;
  private membership: Membership | undefined;
  private plan: PlacementPlan | undefined;
  private closed = false;

  constructor(net: SimNetwork, target: LinkTarget, find: () => SimWorker | undefined) {
    this.net = net;
    this.target = target;
    this.find = find;
    this.address = target.address;
    this.downSince = net.clock.now();
    this.beat();
  }

  private reach(): SimWorker | undefined {
    const worker = this.find();
    return worker?.alive && !worker.stalled && this.net.connected(-2, worker.rank) && !this.closed ? worker : undefined;
  }

  private beat(): void {
    if (this.closed) return;
    const worker = this.reach();
    if (!worker) {
      this.downSince ??= this.net.clock.now();
    } else {
      const boot = this.description?.bootId !== worker.bootId;
      const back = this.downSince !== undefined;
      this.description = boot ? worker.describe() : this.description;
      this.downSince = undefined;
      this.status = worker.status();
      this.hosted = new Map(worker.hosted().map((layer) => [layer.layer, layer]));
      if (boot || back) {
        if (this.membership) worker.membership = this.membership;
        if (this.plan) void worker.adopt(this.plan).catch(() => {});
      }
    }
    this.target.onChange();
    this.net.clock.after(statusMs, () => this.beat());
  }

  push(membership: Membership): void {
    this.membership = membership;
    const worker = this.reach();
    if (worker) worker.membership = membership;
  }

  pushPlan(plan: PlacementPlan): void {
    this.plan = plan;
    void this.reach()
      ?.adopt(plan)
      .catch(() => {});
  }

  private async call<T>(run: (worker: SimWorker) => T | Promise<T>, twice = false): Promise<T> {
    await this.net.clock.sleep(callMs * (0.5 + this.net.random()));
    const worker = this.reach();
    if (!worker) throw unavailable(this.find()?.rank ?? -1);
    const boot = worker.bootId;
    const result = await run(worker);
    if (twice && this.net.duplicates()) await run(worker);
    await this.net.clock.sleep(callMs * (0.5 + this.net.random()));
    // The answer may be lost although the call was carried out.
    if (this.reach() !== worker || worker.bootId !== boot) throw unavailable(worker.rank);
    return result;
  }

  snapshot() {
    return this.call((worker) => worker.state.snapshot());
  }
  prepare(plan: PlacementPlan, deadline: number, _rate: number, onEvent: (event: PrepareEvent) => void): Promise<void> {
    return this.call((worker) => worker.prepare(plan, deadline, onEvent));
  }
  commit(plan: PlacementPlan) {
    return this.call((worker) => worker.commit(plan), true);
  }
  abort(epoch: number, layers: readonly number[]) {
    return this.call((worker) => worker.abort(epoch, layers), true);
  }
  release(epoch: number, layers: readonly number[]) {
    return this.call((worker) => worker.release(epoch, layers), true);
  }
  drain(cancel: boolean) {
    return this.call((worker) => {
      worker.draining = !cancel;
    });
  }
  close(): void {
    this.closed = true;
  }
}
