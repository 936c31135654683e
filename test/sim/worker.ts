// A worker without a model: the pod that starts processes (process.ts: the production worker plane), and the Link the operator
// would hold to it. Made up besides: Control's wire, and the worker's answers beyond the plan. Faults are switched on from outside.
import { AppError } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { Description, HostedLayer, Link, LinkTarget, Membership, PodStatus, PrepareEvent } from "../../operator/rebalance/ports.ts";
import type { PlanState } from "../../runtime/engine/core/plan-state.ts";
import { digest, keyOf, type SimNetwork } from "./network.ts";
import { SimProcess } from "./process.ts";

const callMs = 3;

export class SimWorker {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  bootId: string;
  bootedAt: number;
  alive = true;
  stalled = false;
  process: SimProcess;
  membership: Membership | undefined;
  draining = false;
  activeRequests = 0;
  private readonly net: SimNetwork;
  private boots = 0;
  /** Placements ("layer/epoch") of plans that were adopted whole, as long as not all of their experts have been loaded. */
  private adopted = new Set<string>();

  constructor(net: SimNetwork, rank: number, podUid: string) {
    this.net = net;
    this.rank = rank;
    this.podUid = podUid;
    this.podName = `sim-${rank}-${podUid}`;
    this.bootId = `${podUid}-boot0`;
    this.bootedAt = net.clock.now();
    this.process = this.start();
  }

  private start(): SimProcess {
    const { net, rank, podUid, bootId } = this;
    return new SimProcess({
      ...{ net, rank, podUid, bootId },
      onFree: (layer, expert) => net.onFree(this, layer, expert),
      onMemory: (layer, expert) => {
        if (this.holdsPlanned(layer)) this.adopted.delete(this.placementKey(layer));
        net.onMemory(this, layer, expert);
      },
    });
  }

  private holdsPlanned(layer: number): boolean {
    return this.state.planned(layer).every((expert) => this.memory.has(this.key(layer, expert)));
  }
  private placementKey(layer: number, epoch = this.state.current(layer)?.epoch): string {
    return `${layer}/${epoch}`;
  }

  /** The process dies; the kubelet starts it again in the same pod after `ms`. */
  crash(restartMs: number | undefined): void {
    this.alive = false;
    this.process.kill();
    this.adopted = new Set();
    this.process = this.start();
    if (restartMs === undefined) return;
    this.net.clock.after(restartMs, () => {
      this.bootId = `${this.podUid}-boot${++this.boots}`;
      this.bootedAt = this.net.clock.now();
      this.alive = true;
    });
  }

  get state(): PlanState {
    return this.process.state;
  }
  get memory(): Map<number, string> {
    return this.process.memory;
  }
  get ready(): boolean {
    return this.process.keeper.notReady() === undefined;
  }
  get hostedBytes(): number {
    return this.memory.size * this.net.shape.bytes;
  }

  key(layer: number, expert: number): number {
    return keyOf(this.net.shape, layer, expert);
  }

  /** It learnt of this placement, or of the one before it, by a push after the others, and has not held all of it yet. */
  catchingUp(layer: number, epoch: number): boolean {
    return this.adopted.has(this.placementKey(layer, epoch)) || this.adopted.has(this.placementKey(layer));
  }

  hosted(): HostedLayer[] {
    return Array.from({ length: this.net.shape.layers }, (_, layer) => ({
      layer,
      epoch: this.state.current(layer)?.epoch ?? 0,
      experts: Array.from({ length: this.net.shape.experts }, (_, e) => e).filter((e) => this.memory.has(this.key(layer, e))),
    }));
  }

  status(): PodStatus {
    const { state, ready } = this;
    return {
      epoch: state.epoch,
      planHash: state.planHash,
      ready,
      notReadyReason: this.process.keeper.notReady() ?? "",
      hostedBytes: this.hostedBytes,
      queuedTokens: 0,
      activeRequests: this.activeRequests,
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
    const before = this.epochs();
    const adopting = this.process.keeper.adopt(plan);
    const changed = this.changedSince(before);
    for (const layer of changed) if (!this.holdsPlanned(layer)) this.adopted.add(this.placementKey(layer));
    this.net.onAdopt(this, changed);
    await adopting;
  }

  prepare(plan: PlacementPlan, deadline: number, rate: number, onEvent: (event: PrepareEvent) => void): Promise<void> {
    return this.process.keeper.prepare(plan, deadline, rate, (outcome) => {
      const { layer } = outcome;
      if (outcome.type === "ready") onEvent({ type: "ready", layer, bytes: outcome.bytes, fetched: outcome.fetched });
      else onEvent({ type: "failed", layer, message: outcome.error.message });
    });
  }

  async commit(plan: PlacementPlan) {
    const before = this.epochs();
    const committing = this.process.keeper.commit(plan);
    const changed = this.changedSince(before);
    this.net.onCommit(this, plan, changed);
    try {
      return { ...(await committing), epoch: this.state.epoch };
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "StalePlan") return { committed: [], refused: error.message, epoch: this.state.epoch };
      throw error;
    }
  }

  async abort(epoch: number, layers: readonly number[]): Promise<void> {
    await this.process.keeper.abort(epoch, layers);
  }

  release(epoch: number, layers: readonly number[], drainOnly: boolean) {
    return this.process.keeper.release(epoch, layers, drainOnly);
  }

  private epochs(): (number | undefined)[] {
    return Array.from({ length: this.net.shape.layers }, (_, layer) => this.state.current(layer)?.epoch);
  }
  private changedSince(before: readonly (number | undefined)[]): number[] {
    return [...before.keys()].filter((layer) => this.state.current(layer)?.epoch !== before[layer]);
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

  renew(): void {}

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
  prepare(plan: PlacementPlan, deadline: number, rate: number, onEvent: (event: PrepareEvent) => void): Promise<void> {
    return this.call((worker) => {
      const boot = worker.bootId;
      return worker.prepare(plan, deadline, rate, (event) => {
        if (this.reach() === worker && worker.bootId === boot) onEvent(event);
      });
    });
  }
  commit(plan: PlacementPlan) {
    return this.call((worker) => worker.commit(plan), true);
  }
  abort(epoch: number, layers: readonly number[]) {
    return this.call((worker) => worker.abort(epoch, layers), true);
  }
  release(epoch: number, layers: readonly number[], drainOnly: boolean) {
    return this.call((worker) => worker.release(epoch, layers, drainOnly), true);
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
