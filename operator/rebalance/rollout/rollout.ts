// One plan from decision to done: write ExpertPlacement (the epoch is ours only then), push it, report on it, and when
// some layers had to stay with their parent, write what really holds. Shell around protocol.ts.
import { AppError } from "../../../crds/common.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import { slowestTransferMs } from "../../../runtime/placement/backoff.ts";
import type { Fetched } from "../../../runtime/placement/cost.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import { scheduleLayers } from "../../../runtime/placement/schedule.ts";
import type { Ref } from "../../kube/kube.ts";
import { layerBytes } from "../../planner/index.ts";
import type { ModelShape } from "../../planner/policy.ts";
import { bytesByRank } from "../../planner/problem.ts";
import type { Clock, Link, PlacementStore, PlanMember, StoredPlacement } from "../ports.ts";
import { type PlanReport, percent } from "../status/placement-status.ts";
import { committedMix, nextPlan, toSpec } from "./plan-object.ts";
import { PlanRun } from "./protocol.ts";
import { defaultLimits, type LayerTask, type Outcome, type RunLimits } from "./protocol-types.ts";
import { Push } from "./push.ts";

/** Time for a plan's transfers beyond the base, at this rate. */
const slowestBytesPerSecond = 5e6;

export interface RolloutPorts {
  readonly ref: Ref;
  readonly ownerUid: string;
  readonly store: PlacementStore;
  readonly clock: Clock;
  readonly link: (rank: number) => Link | undefined;
  /** That each receiver may take; 0 = unlimited. */
  readonly bytesPerSecond: number;
  readonly onFetched: (rank: number, fetched: readonly Fetched[]) => void;
  readonly onProgress: () => void;
}

export interface RolloutPlan {
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  readonly members: ReadonlyMap<number, PlanMember>;
  readonly shape: ModelShape;
  readonly predicted?: { readonly before: number; readonly after: number; readonly bound: number };
  /** All layers at once: nothing is served yet. */
  readonly allAtOnce: boolean;
}

export interface RolloutResult {
  readonly outcome: Outcome;
  /** What is committed now. */
  readonly committed: PlacementPlan | undefined;
  readonly stored: StoredPlacement | undefined;
  readonly moves: number;
  readonly bytes: number;
  readonly durationMs: number;
  readonly report: PlanReport;
}

export class Rollout {
  readonly plan: PlacementPlan;
  readonly moves: number;
  readonly startedAt: number;
  private readonly ports: RolloutPorts;
  private readonly wanted: RolloutPlan;
  private readonly parent: PlacementPlan | undefined;
  private readonly tasks: readonly LayerTask[];
  private readonly bytes: number;
  /** Stored bytes of the rank that receives most. */
  private readonly mostBytes: number;
  private run: PlanRun | undefined;
  private push: Push | undefined;
  private stopped = false;
  private readonly resumed: boolean;

  /** `resume`: the plan is stored already and these layers are known to be committed somewhere. */
  constructor(
    ports: RolloutPorts,
    parent: PlacementPlan | undefined,
    wanted: RolloutPlan,
    world: { epoch: number; deploymentUid: string; modelDigest: string },
    resume?: { plan: PlacementPlan; committed: ReadonlySet<number> },
  ) {
    this.ports = ports;
    this.wanted = wanted;
    this.parent = parent;
    this.startedAt = ports.clock.now();
    this.resumed = resume !== undefined;
    const target = resume?.plan.layers ?? wanted.layers;
    const diff = diffPlans(parent?.layers, target, (l, e) => wanted.shape.storedBytes[l * wanted.shape.experts + e] ?? 0);
    const changed = new Set(diff.layers);
    this.plan = resume?.plan ?? nextPlan(parent, target, changed, world);
    for (const layer of resume?.committed ?? []) changed.add(layer);
    this.moves = diff.moves.length;
    this.bytes = diff.moves.reduce((total, move) => total + move.bytes, 0);
    this.mostBytes = mostOf(diff.moves);
    this.tasks = this.tasksOf(changed, resume?.committed ?? new Set());
  }

  /** In the order in which memory allows them; what fits in no order comes last and the protocol gives it up. */
  private tasksOf(changed: ReadonlySet<number>, committed: ReadonlySet<number>): LayerTask[] {
    const { shape, members } = this.wanted;
    const changes = layerBytes(shape, this.parent?.layers, this.plan.layers).map((change) => ({
      layer: change.layer,
      incoming: new Map(change.incoming),
      outgoing: new Map(change.outgoing),
    }));
    for (const layer of changed) {
      if (!changes.some((change) => change.layer === layer)) changes.push({ layer, incoming: new Map(), outgoing: new Map() });
    }
    // A layer committed before may still hold its parent's copies, which no plan names any more.
    for (const change of changes) if (committed.has(change.layer)) this.addLeftovers(change);
    if (this.resumed) for (const change of changes) this.takeArrived(change);
    const budget = new Map([...members].map(([rank, member]) => [rank, member.budgetBytes]));
    const { order, stuck } = scheduleLayers(changes, this.used(), budget);
    return [...order, ...stuck].flatMap((layer) => {
      const placement = this.plan.layers[layer];
      const change = changes.find((candidate) => candidate.layer === layer);
      return placement && change
        ? [{ placement, incoming: change.incoming, outgoing: change.outgoing, committedBefore: committed.has(layer) }]
        : [];
    });
  }

  private addLeftovers(change: { readonly layer: number; readonly outgoing: Map<number, number> }): void {
    const { shape, members } = this.wanted;
    for (const [rank, { held }] of members) {
      const planned = this.plan.layers[change.layer]?.hosts ?? [];
      const bytes = (held.get(change.layer)?.experts ?? [])
        .filter((expert) => !planned[expert]?.includes(rank))
        .reduce((sum, expert) => sum + (shape.residentBytes[change.layer * shape.experts + expert] ?? 0), 0);
      if (bytes > 0) change.outgoing.set(rank, bytes);
    }
  }

  /** Copies that had arrived before the plan was resumed are among the bytes in use already (used below): they need no more room. */
  private takeArrived(change: { readonly layer: number; readonly incoming: Map<number, number> }): void {
    const { shape, members } = this.wanted;
    const before = this.parent?.layers[change.layer]?.hosts ?? [];
    const planned = this.plan.layers[change.layer]?.hosts ?? [];
    for (const [rank, { held }] of members) {
      const bytes = (held.get(change.layer)?.experts ?? [])
        .filter((expert) => planned[expert]?.includes(rank) && !before[expert]?.includes(rank))
        .reduce((sum, expert) => sum + (shape.residentBytes[change.layer * shape.experts + expert] ?? 0), 0);
      if (bytes > 0) change.incoming.set(rank, Math.max(0, (change.incoming.get(rank) ?? 0) - bytes));
    }
  }

  /** Bytes per rank before the plan: the parent's; when a plan is resumed, what each rank reports, if that is more. */
  private used(): Map<number, number> {
    const { shape, members } = this.wanted;
    const used = bytesByRank(shape, this.parent?.layers ?? []);
    if (!this.resumed) return used;
    for (const [rank, { held }] of members) {
      let bytes = 0;
      for (const { layer, experts } of held.values())
        for (const expert of experts) bytes += shape.residentBytes[layer * shape.experts + expert] ?? 0;
      used.set(rank, Math.max(used.get(rank) ?? 0, bytes));
    }
    return used;
  }

  /** Writes and pushes; resolves when the plan has ended one way or the other. Throws only what the store throws. */
  async carryOut(stored: StoredPlacement | undefined, alreadyStored: boolean): Promise<RolloutResult> {
    let current = alreadyStored ? stored : await this.write(this.plan, stored);
    if (this.stopped) throw stoppedError();
    const outcome = await this.pushPlan();
    const committed = outcome.result === "superseded" ? this.parent : this.mix();
    const ended = {
      outcome,
      committed,
      moves: this.moves,
      bytes: this.run?.receivedBytes ?? 0,
      durationMs: this.ports.clock.now() - this.startedAt,
    };
    if (outcome.result === "superseded") return { ...ended, stored: current, report: this.report() };
    const phase = outcome.result === "aborted" ? "Aborted" : "Committed";
    if (outcome.aborted.length > 0 && committed) {
      // The object must say what holds: its epoch was used, so what holds gets the next one. So do the layers that were given
      // up: a rank that committed one, its answer lost, takes the parent's placement back only as something newer.
      const given = new Set(outcome.aborted.map(({ layer }) => layer));
      const settled = nextPlan(committed, committed.layers, given, { ...committed, epoch: this.plan.epoch + 1 });
      const reason = `settled after ${outcome.aborted.length} layers kept their parent: ${outcome.aborted[0]?.reason ?? ""}`.slice(0, 1024);
      current = await this.write(settled, current, reason);
      return { ...ended, committed: settled, stored: current, report: this.finalReport(phase, settled, reason) };
    }
    return { ...ended, stored: current, report: this.finalReport(phase, committed) };
  }

  private async write(plan: PlacementPlan, stored: StoredPlacement | undefined, reason = this.wanted.reason): Promise<StoredPlacement> {
    const ranks = [...this.wanted.members]
      .map(([rank, member]) => ({ rank, podName: member.podName, podUID: member.podUid }))
      .sort((a, b) => a.rank - b.rank);
    const { ref, ownerUid, store } = this.ports;
    return store.write(ref, ownerUid, toSpec(plan, { ranks, reason }), stored);
  }

  private pushPlan(): Promise<Outcome> {
    const { members } = this.wanted;
    this.run = new PlanRun({
      epoch: this.plan.epoch,
      tasks: this.tasks,
      members: new Map([...members].map(([rank, member]) => [rank, member.bootId])),
      budget: new Map([...members].map(([rank, member]) => [rank, member.budgetBytes])),
      used: this.used(),
      now: this.ports.clock.now(),
      limits: this.limits(),
    });
    this.push = new Push({
      run: this.run,
      plan: this.plan,
      clock: this.ports.clock,
      link: this.ports.link,
      maxBytesPerSecond: (rank) => this.limitOf(rank),
      onFetched: this.ports.onFetched,
      onProgress: this.ports.onProgress,
    });
    return this.push.finished;
  }

  private limits(): RunLimits {
    const transferMs =
      Math.ceil((this.bytes / slowestBytesPerSecond) * 1000) + slowestTransferMs(this.mostBytes, this.ports.bytesPerSecond);
    return {
      ...defaultLimits,
      prepareMs: defaultLimits.prepareMs + transferMs,
      catchUpMs: defaultLimits.catchUpMs + transferMs,
      releaseMs: defaultLimits.releaseMs + transferMs,
      layersInFlight: this.wanted.allAtOnce ? this.plan.layers.length : defaultLimits.layersInFlight,
    };
  }

  /** A boot that came up meanwhile has lost everything, and the plan waits for it: it takes what it can. */
  private limitOf(rank: number): number {
    const known = this.wanted.members.get(rank)?.bootId;
    return known === this.ports.link(rank)?.description?.bootId ? this.ports.bytesPerSecond : 0;
  }

  /** What is committed at this moment. */
  private mix(): PlacementPlan | undefined {
    if (this.tasks.length === 0) return this.plan; // nothing to commit: only the epoch is new
    return committedMix(this.parent, this.plan, new Set(this.run?.committedLayers() ?? []));
  }

  /**
   * What a pod that comes up meanwhile is told: layers still under way keep their parent for it, so that it frees nothing
   * that another source may still route to; the protocol then takes it forward like the others.
   */
  forJoiners(): PlacementPlan | undefined {
    if (this.tasks.length === 0) return this.plan;
    return committedMix(this.parent, this.plan, new Set(this.run?.freeLayers() ?? []));
  }

  joined(rank: number, bootId: string): void {
    this.push?.feed({ type: "joined", rank, bootId });
  }

  lost(rank: number): void {
    this.push?.feed({ type: "lost", rank });
  }

  get members(): ReadonlyMap<number, PlanMember> {
    return this.wanted.members;
  }

  /** Nothing is pushed from here on; a write under way is the last. */
  stop(): void {
    this.stopped = true;
    this.push?.stop();
  }

  /** Unix ms: what is not ready by then is rolled back. */
  get deadline(): number {
    return this.run?.deadline ?? this.startedAt + this.limits().prepareMs;
  }

  get phase(): "Preparing" | "Committing" | "Releasing" {
    return this.run?.phase ?? "Preparing";
  }

  /** What the plan says of itself while it is carried out. */
  report(): PlanReport {
    return this.reportOf(this.phase, this.parent?.epoch ?? 0, {
      layersCommitted: this.run?.committedLayers().length ?? 0,
      ...(this.run ? { deadline: new Date(this.run.deadline).toISOString() } : {}),
    });
  }

  private finalReport(phase: "Committed" | "Aborted", committed: PlacementPlan | undefined, reason?: string): PlanReport {
    const report = this.reportOf(phase, committed?.epoch ?? 0, {
      layersCommitted: committed?.layers.length ?? 0,
      measured: { moves: this.moves, bytes: this.run?.receivedBytes ?? 0, durationMs: this.ports.clock.now() - this.startedAt },
    });
    return reason === undefined ? report : { ...report, reason };
  }

  private reportOf(phase: NonNullable<PlanReport["phase"]>, committedEpoch: number, more: Partial<PlanReport>): PlanReport {
    const { predicted, reason } = this.wanted;
    return {
      phase,
      committedEpoch,
      ...more,
      ...(predicted
        ? {
            predicted: {
              imbalancePercent: percent(predicted.after),
              boundPercent: percent(predicted.bound),
              moves: this.moves,
              bytes: this.bytes,
            },
          }
        : {}),
      reason: reason.slice(0, 1024),
    };
  }
}

export function stoppedError(): AppError {
  return new AppError("the rebalance plane of this deployment was closed", { code: "Stopped", operation: "carrying out a plan" });
}

function mostOf(moves: readonly { readonly rank: number; readonly bytes: number }[]): number {
  const received = new Map<number, number>();
  for (const { rank, bytes } of moves) received.set(rank, (received.get(rank) ?? 0) + bytes);
  return Math.max(0, ...received.values());
}
