// The steps of one deployment that take time: recover what holds, and make a plan for a first start, a repair, a drain, new
// ranks, missing copies or balance and have it carried out. One runs at a time (loop.ts sees to it); each says how it ended.
import { AppError } from "../../../crds/common.ts";
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import type { Decision } from "../../planner/decide.ts";
import { schedulable } from "../../planner/index.ts";
import { planIncremental } from "../../planner/policies/incremental.ts";
import { type PlanInput, type PlanOutput, unlimited } from "../../planner/policy.ts";
import { bytesByRank } from "../../planner/problem.ts";
import { firstPlan, orphans, repairPlan } from "../../planner/repair.ts";
import { assertPlan } from "../../planner/validate.ts";
import type { Drains } from "../links/drains.ts";
import type { Links } from "../links/links.ts";
import type { BalanceFacts } from "../links/load-picture.ts";
import { agreedModel, memberKey, type RankView, speedRanks } from "../links/members.ts";
import type { LoopPorts, Observed } from "../loop-ports.ts";
import type { StoredPlacement } from "../ports.ts";
import type { Carrier } from "../rollout/placement.ts";
import { fromSpec } from "../rollout/plan-object.ts";
import { HoldNews } from "../status/decision-events.ts";
import { type PlanReport, recommendedMax } from "../status/placement-status.ts";
import type { StepEnd } from "./attempts.ts";
import type { Intent } from "./intent.ts";
import { Protection } from "./protect.ts";
import { recover } from "./recover.ts";

/** A new leader waits this long for workers that the stored plan names before it judges what they hold. */
const recoverWaitMs = 6_000;
/** Connected workers that do not say what they have committed are asked this often; then their layers only go forward. */
const snapshotTriesMax = 4;

const done: StepEnd = { end: "done" };
const settled: StepEnd = { end: "settled" };
/** A plan that holds as it was wanted need not be made again for the same members. */
const onceOnly = (end: StepEnd): StepEnd => (end.end === "done" ? settled : end);

export interface StepParts {
  readonly ports: LoopPorts;
  readonly seen: Observed;
  readonly links: Links;
  readonly drains: Drains;
  readonly carrier: Carrier;
  readonly facts: () => BalanceFacts;
}

export class Steps {
  /** Moves of the plan that mode Recommend holds back. */
  recommended: readonly string[] = [];
  private readonly protection = new Protection();
  private readonly news = new HoldNews();
  private readonly parts: StepParts;
  private snapshotTries = 0;
  private planning: AbortController | undefined;

  constructor(parts: StepParts) {
    this.parts = parts;
  }

  private get committed(): PlacementPlan | undefined {
    return this.parts.carrier.committed;
  }

  /** What a new leader finds, or what holds when the stored plan is not ours. `awayMs`: for how long a rank has not been usable. */
  async recover(awayMs: (rank: number) => number): Promise<StepEnd> {
    const { ports, seen, carrier } = this.parts;
    const { ref, uid } = seen.world;
    carrier.stored = await ports.store.read(ref);
    this.takeUpSpeeds();
    const connected = seen.views.filter((view) => view.usable);
    const missing = this.namedRanks().filter((rank) => !connected.some((view) => view.rank === rank));
    if (connected.length === 0 || missing.some((rank) => awayMs(rank) < recoverWaitMs))
      return { end: "wait", why: { reason: "WaitingForRanks", message: `${connected.length} workers are connected` } };
    const { snapshots, silent } = await this.askAll(connected);
    if (silent.length > 0 && ++this.snapshotTries < snapshotTriesMax) {
      const message = `ranks ${silent.join(", ")} are connected and do not say what they have committed`;
      return { end: "wait", why: { reason: "MembershipUnknown", message } };
    }
    this.snapshotTries = 0;
    const plan = this.readable(snapshots.length === 0 && silent.length === 0);
    const ours = snapshots.filter((snapshot) => snapshot.deploymentUid === uid);
    const found = recover(plan, ours, seen.shape?.layers ?? 0, silent.length > 0);
    carrier.recovered = true;
    ports.log.info({ deployment: ref.name, recovery: found.kind, epoch: plan?.epoch ?? 0 }, "placement recovered");
    return this.takeUp(found);
  }

  /** What the leader before has learnt of the ranks' speeds: without it plans would go back and forth at every change of leader. */
  private takeUpSpeeds(): void {
    const { seen, carrier } = this.parts;
    const known = new Map((carrier.stored?.status.ranks ?? []).map(({ bootId, speedPercent }) => [bootId, speedPercent]));
    for (const { bootId, hardware } of speedRanks(seen.views)) seen.balance?.speeds.seed(hardware, (known.get(bootId) ?? 0) / 100);
  }

  /** Ranks that may know what is committed. */
  private namedRanks(): number[] {
    const { seen, carrier } = this.parts;
    const named = carrier.stored?.spec.ranks ?? [];
    return named.length > 0 ? named.map(({ rank }) => rank) : Array.from({ length: seen.world.desiredRanks }, (_, rank) => rank);
  }

  private async askAll(connected: readonly RankView[]): Promise<{ snapshots: PlacementPlan[]; silent: number[] }> {
    const silent: number[] = [];
    const answers = await Promise.all(
      connected.map((view) =>
        view.link?.snapshot().catch(() => {
          silent.push(view.rank);
          return undefined;
        }),
      ),
    );
    return { snapshots: answers.flatMap((answer) => answer ?? []), silent };
  }

  private async takeUp(found: ReturnType<typeof recover>): Promise<StepEnd> {
    const { carrier, links, facts } = this.parts;
    if (found.kind === "nothing") {
      carrier.committed = undefined;
      return done;
    }
    if (found.kind === "resume") {
      carrier.committed = found.parent;
      if (found.parent) links.pushPlan(found.parent);
      const { plan, committed, parent } = found;
      const reason = carrier.stored?.spec.reason ?? "resumed by a new leader";
      return carrier.run({ kind: "resume", layers: plan.layers, reason, parent, resume: { plan, committed } }, facts());
    }
    carrier.committed = found.committed;
    carrier.lastReport = { ...reportIn(carrier.stored), phase: "Committed", committedEpoch: found.committed.epoch };
    links.pushPlan(found.committed);
    if (found.kind === "settled") return done;
    const reason = "written again from what workers hold";
    return carrier.run({ kind: "rewrite", layers: found.committed.layers, reason, parent: found.committed }, facts());
  }

  /** The stored plan if it is of this deployment and model and says something; else what workers report decides. */
  private readable(unserved: boolean): PlacementPlan | undefined {
    const { ports, seen, carrier } = this.parts;
    const { stored } = carrier;
    if (!stored || stored.spec.deploymentUID !== seen.world.uid) return undefined;
    const deployment = seen.world.ref.name;
    try {
      const plan = fromSpec(stored.spec);
      const model = agreedModel(seen.views, podsOf(stored));
      const other = model !== undefined && model.digest !== plan.modelDigest;
      if (!other && !(unserved && this.overfull(plan))) return plan;
      ports.log.info({ deployment, epoch: plan.epoch }, "the stored plan is of another model or memory: a first plan is made");
    } catch (caught) {
      ports.log.warn({ err: caught, deployment }, "the stored plan cannot be read: it is made again from what workers hold");
    }
    return undefined;
  }

  /** Made for smaller experts, or for more memory, than there is. */
  private overfull(plan: PlacementPlan): boolean {
    const { shape, views } = this.parts.seen;
    const bytes = shape ? bytesByRank(shape, plan.layers) : new Map<number, number>();
    return views.some((view) => view.usable && (bytes.get(view.rank) ?? 0) > (view.link?.description?.budgetBytes ?? 0));
  }

  async first(facts: BalanceFacts): Promise<StepEnd> {
    const { balance } = this.parts.seen;
    if (!balance) return done;
    const input = { ...balance.input(facts, { even: true }), current: undefined, budget: unlimited };
    const reason = `first plan: ${facts.expected.length} ranks, homes dealt round-robin`;
    const layers = this.making("first", () => firstPlan(input));
    return this.parts.carrier.run({ kind: "first", layers, reason, parent: undefined }, facts);
  }

  async repair(intent: Extract<Intent, { kind: "repair" | "drain" }>, facts: BalanceFacts): Promise<StepEnd> {
    const { committed } = this;
    const { balance, world } = this.parts.seen;
    if (!balance || !committed) return done;
    const input: PlanInput = { ...balance.input(facts), budget: unlimited };
    const { layers, unhosted, later, changed } = repairPlan(input, committed.layers, { carriedOut: true });
    if (intent.kind === "drain" && unhosted.length > 0) {
      const message = `${unhosted.length} experts would have no host: raise experts.memoryPerRank or keep replicas`;
      for (const rank of intent.ranks) this.parts.drains.blocked.set(rank, message);
      return settled;
    }
    if (intent.kind === "repair" && unhosted.length > 0) {
      const message = `${unhosted.length} experts have no room after the loss of ranks ${intent.lost.join(", ")}: loaded on demand`;
      this.parts.ports.event(world, "Warning", "ExpertsUnhosted", message);
    }
    if (!changed) return settled;
    this.making(intent.kind, () => assertPlan(input, layers, { unhosted: [...unhosted, ...later] }));
    balance.forgetHistory();
    const reason = intent.kind === "drain" ? `ranks ${intent.ranks.join(", ")} leave` : `ranks ${intent.lost.join(", ")} are lost`;
    const end = await this.parts.carrier.run({ kind: intent.kind, layers, reason, parent: committed, input }, facts);
    // What did not fit beside the old copies on their way finds room in the next plan, with the same members.
    return later.length > 0 ? end : onceOnly(end);
  }

  /** New ranks take experts and copies in the order of gain, whatever the trigger says. */
  async fill(facts: BalanceFacts): Promise<StepEnd> {
    const { committed } = this;
    const { balance } = this.parts.seen;
    if (!balance || !committed) return done;
    balance.forgetHistory();
    const input: PlanInput = { ...balance.input(facts, { even: facts.spec.rebalancing.mode === "Off" }), budget: unlimited };
    const { recent: _, noise: __, ...clean } = input;
    const layers = this.making("fill", () => {
      const planned = schedulable(input, planIncremental(clean).layers);
      assertPlan(input, planned, { unhosted: orphans(input, committed.layers) });
      return planned;
    });
    const reason = "new ranks take their part";
    return onceOnly(await this.parts.carrier.run({ kind: "fill", layers, reason, parent: committed, input }, facts));
  }

  /** Experts with fewer copies than spec.experts.minCopies for which there may be room. */
  unprotected(facts: BalanceFacts): number {
    const { balance } = this.parts.seen;
    if (!balance || !this.committed || facts.spec.experts.minCopies <= 1) return 0;
    return this.protection.open(this.committed, this.protectKey(facts), () => balance.input(facts));
  }

  private protectKey(facts: BalanceFacts): string {
    return `${memberKey(this.parts.seen.views)} ${facts.spec.experts.minCopies}`;
  }

  /** Copies on other nodes for experts that have too few, whatever load, trigger and mode say. */
  async protect(facts: BalanceFacts): Promise<StepEnd> {
    const { committed } = this;
    const { balance, world } = this.parts.seen;
    if (!balance || !committed) return done;
    const { minCopies } = facts.spec.experts;
    const input = balance.input(facts, { even: facts.spec.rebalancing.mode === "Off" });
    const { layers, added, missing } = this.protection.plan(input, committed.layers, this.protectKey(facts));
    if (missing > 0) {
      const message = `${missing} experts have fewer than ${minCopies} copies on different nodes and no room for more: raise experts.memoryPerRank or replicas`;
      this.parts.ports.event(world, "Warning", "CopiesMissing", message);
    }
    if (diffPlans(committed.layers, layers, () => 0).moves.length === 0) return done;
    this.making("protect", () => assertPlan(input, layers, { unhosted: orphans(input, committed.layers) }));
    const reason = `${added} copies, so that experts have ${minCopies} on different nodes`;
    return this.parts.carrier.run({ kind: "protect", layers, reason, parent: committed, input }, facts);
  }

  async rebalance(facts: BalanceFacts, now: number): Promise<StepEnd> {
    const { committed } = this;
    const { seen, carrier } = this.parts;
    const { balance } = seen;
    if (!balance || !committed) return done;
    const asked = balance.ask(facts, now);
    if (!asked.act) return this.held(asked, now);
    const input = balance.input(facts);
    const members = memberKey(seen.views);
    const output = await this.plan(facts, input);
    // Whatever came between, a plan for other members is of no use.
    if (!output || memberKey(seen.views) !== members) return done;
    const judged = balance.judge(input, output, facts.spec, now);
    if (judged.decision.reason === "Recommended") this.recommend(judged.decision.message, committed, output.layers);
    if (!judged.decision.act) return this.held(judged.decision, now);
    this.news.acted();
    const predicted = { before: judged.before, after: judged.after, bound: judged.bound };
    const reason = `${facts.spec.rebalancing.policy}: ${judged.decision.message}; ${output.reason}`;
    return carrier.run({ kind: "balance", layers: output.layers, reason, predicted, parent: committed, input }, facts);
  }

  /** Undefined: it was abandoned. */
  private async plan(facts: BalanceFacts, input: PlanInput): Promise<PlanOutput | undefined> {
    const { ports } = this.parts;
    const { policy } = facts.spec.rebalancing;
    const started = ports.clock.now();
    const planning = new AbortController();
    this.planning = planning;
    try {
      const output = await ports.planner.plan(policy, input, planning.signal);
      ports.metrics.observe("enodia_planner_duration_seconds", (ports.clock.now() - started) / 1000, { ...this.labels(), policy });
      return planning.signal.aborted ? undefined : output;
    } catch (caught) {
      if (planning.signal.aborted) return undefined;
      throw this.planFailed("balance", caught);
    } finally {
      this.planning = undefined;
    }
  }

  /** A plan for balance is being made: nothing is written yet. */
  get onlyPlanning(): boolean {
    return this.planning !== undefined;
  }

  /** Something stronger than balance has come up. */
  abandonPlanning(): void {
    this.planning?.abort();
  }

  private recommend(message: string, committed: PlacementPlan, layers: readonly LayerPlan[]): void {
    const { moves } = diffPlans(committed.layers, layers, () => 0);
    this.recommended = moves.slice(0, recommendedMax).map(({ layer, expert, rank }) => `${layer}/${expert} -> ${rank}`);
    this.parts.ports.event(this.parts.seen.world, "Normal", "RebalanceRecommended", message);
  }

  private held({ reason, message }: Decision, now: number): StepEnd {
    const { ports, seen } = this.parts;
    ports.metrics.add("enodia_rebalances_total", 1, { ...this.labels(), result: "held", reason });
    // What is recommended has an event of its own, with its moves.
    if (this.news.held(reason, now) && reason !== "Recommended")
      ports.event(seen.world, "Normal", "RebalanceHeld", `${reason}: ${message}`);
    return done;
  }

  /** Runs what makes a plan; what it throws is said as a failure to plan, beside the loop's own handling. */
  private making<T>(kind: Intent["kind"], make: () => T): T {
    try {
      return make();
    } catch (caught) {
      throw this.planFailed(kind, caught);
    }
  }

  private planFailed(kind: Intent["kind"], caught: unknown): AppError {
    const { ports, seen } = this.parts;
    const error = AppError.from(caught);
    const message = `${kind}: ${error.code}: ${error.message}`;
    seen.balance?.failed(message);
    this.news.acted();
    ports.metrics.add("enodia_rebalances_total", 1, { ...this.labels(), result: "failed", reason: error.code });
    ports.event(seen.world, "Warning", "PlanFailed", message);
    return error;
  }

  private labels() {
    const { ref } = this.parts.seen.world;
    return { namespace: ref.namespace, deployment: ref.name };
  }
}

/** Pods that the stored plan was made for. */
export function podsOf(stored: StoredPlacement | undefined): ReadonlySet<string> {
  return new Set((stored?.spec.ranks ?? []).map(({ podUID }) => podUID));
}

/** What a stored status says of the plan, without what is of the moment. */
function reportIn(stored: StoredPlacement | undefined): PlanReport {
  const { layersCommitted, predicted, measured, reason } = stored?.status ?? {};
  return {
    ...(layersCommitted === undefined ? {} : { layersCommitted }),
    ...(predicted ? { predicted } : {}),
    ...(measured ? { measured } : {}),
    ...(reason === undefined ? {} : { reason }),
  };
}
