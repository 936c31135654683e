// The steps of one deployment that take time: recover what holds, and make and carry out a plan for a first start, a repair,
// a drain, new ranks, missing copies or balance. One runs at a time (loop.ts sees to it); each leaves `committed` and `stored` true.
import type { LayerPlan, PlacementPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import type { RebalanceView, World } from "../deployment/ports.ts";
import { schedulable } from "../planner/index.ts";
import { planIncremental } from "../planner/policies/incremental.ts";
import { type ModelShape, type PlanInput, unlimited } from "../planner/policy.ts";
import { firstPlan, orphans, repairPlan } from "../planner/repair.ts";
import { assertPlan } from "../planner/validate.ts";
import { type Balance, type BalanceFacts, transferLimit } from "./balance.ts";
import type { Drains } from "./drains.ts";
import type { Intent } from "./intent.ts";
import type { Links } from "./links.ts";
import type { LoopPorts } from "./loop-ports.ts";
import { planMembers, type RankView } from "./members.ts";
import { type PlanReport, recommendedMax } from "./placement-status.ts";
import { fromSpec } from "./plan-object.ts";
import type { Link, StoredPlacement } from "./ports.ts";
import { Protection } from "./protection.ts";
import { recover } from "./recover.ts";
import { Rollout, type RolloutPlan, type RolloutResult } from "./rollout.ts";

const pauseMs = 200;
/** After a plan that had to be given up. */
const retryMs = 2_000;
/** A new leader waits this long for workers that the stored plan names before it judges what they hold. */
const recoverWaitMs = 6_000;

/** What the loop observes and the steps read. */
export interface Observed {
  world: World;
  views: readonly RankView[];
  shape: ModelShape | undefined;
  balance: Balance | undefined;
}

/** Moves for balance and for more safety are limited: the others are waited for. */
const limitedKinds: readonly string[] = ["balance", "protect", "resume"];
const limited = (kind: string, parent: PlacementPlan | undefined): boolean => limitedKinds.includes(kind) && parent !== undefined;

export class Steps {
  readonly seen: Observed;
  stored: StoredPlacement | undefined;
  committed: PlacementPlan | undefined;
  recovered = false;
  rollout: { readonly kind: string; readonly run: Rollout } | undefined;
  waiting: { reason: string; message: string } | undefined;
  lastRebalance: NonNullable<RebalanceView["placement"]>["lastRebalance"];
  /** What the last plan said of itself when it ended. */
  lastReport: PlanReport | undefined;
  /** Moves of the plan that mode Recommend holds back. */
  recommended: readonly string[] = [];
  /** Boots that were told what is committed. */
  readonly boots = new Map<number, string>();
  repairTried = "";
  fillTried = "";
  drainTried = "";
  private readonly protection = new Protection();
  notBefore = 0;
  private readonly ports: LoopPorts;
  private readonly links: Links;
  private readonly drains: Drains;
  private readonly facts: () => BalanceFacts;
  private readonly poke: () => void;

  constructor(options: { ports: LoopPorts; seen: Observed; links: Links; drains: Drains; facts: () => BalanceFacts; poke: () => void }) {
    this.ports = options.ports;
    this.seen = options.seen;
    this.links = options.links;
    this.drains = options.drains;
    this.facts = options.facts;
    this.poke = options.poke;
  }

  memberKey(): string {
    return this.seen.views
      .map((view) => `${view.rank}:${view.link?.description?.bootId ?? "-"}:${view.usable ? 1 : 0}:${view.leaving?.reason ?? ""}`)
      .join(",");
  }

  /** What a new leader finds, or what holds when the stored plan is not ours. */
  async recover(startedAt: number): Promise<void> {
    const { ref } = this.seen.world;
    this.stored = await this.ports.store.read(ref);
    const plan = this.readable(ref.name);
    const named = this.stored?.spec.ranks ?? [];
    const connected = this.seen.views.filter((view) => view.usable);
    const all =
      named.length > 0
        ? named.every(({ rank }) => connected.some((view) => view.rank === rank))
        : connected.length >= this.seen.world.desiredRanks;
    if (connected.length === 0 || (!all && this.ports.clock.now() - startedAt < recoverWaitMs)) {
      this.waiting = { reason: "WaitingForRanks", message: `${connected.length} workers are connected` };
      this.notBefore = this.ports.clock.now() + pauseMs;
      return;
    }
    const snapshots = await Promise.all(connected.map((view) => view.link?.snapshot().catch(() => undefined)));
    const found = recover(
      plan,
      snapshots.flatMap((snapshot) => (snapshot && snapshot.deploymentUid === this.seen.world.uid ? [snapshot] : [])),
      this.seen.shape?.layers ?? 0,
    );
    this.recovered = true;
    this.ports.log.info({ deployment: ref.name, recovery: found.kind, epoch: plan?.epoch ?? 0 }, "placement recovered");
    if (found.kind === "settled" || found.kind === "rewrite") {
      this.committed = found.committed;
      this.lastReport = { ...reportIn(this.stored), phase: "Committed", committedEpoch: found.committed.epoch };
      this.links.pushPlan(found.committed);
      if (found.kind === "rewrite")
        await this.run(
          "rewrite",
          this.facts(),
          { layers: found.committed.layers, reason: "written again from what workers hold" },
          found.committed,
        );
    } else if (found.kind === "resume") {
      this.committed = found.parent;
      if (found.parent) this.links.pushPlan(found.parent);
      const stored = this.stored;
      await this.run(
        "resume",
        this.facts(),
        { layers: found.plan.layers, reason: stored?.spec.reason ?? "resumed by a new leader" },
        found.parent,
        { plan: found.plan, committed: found.committed },
      );
    }
  }

  /** The stored plan if it is of this deployment and says something; else what workers report decides. */
  private readable(name: string): PlacementPlan | undefined {
    if (!this.stored || this.stored.spec.deploymentUID !== this.seen.world.uid) return undefined;
    try {
      return fromSpec(this.stored.spec);
    } catch (caught) {
      this.ports.log.warn({ err: caught, deployment: name }, "the stored plan cannot be read: it is made again from what workers hold");
      return undefined;
    }
  }

  async first(facts: BalanceFacts): Promise<void> {
    if (!this.seen.balance) return;
    const input = { ...this.seen.balance.input(facts, { even: true }), current: undefined, budget: unlimited };
    await this.run(
      "first",
      facts,
      { layers: firstPlan(input), reason: `first plan: ${facts.expected.length} ranks, homes dealt round-robin` },
      undefined,
    );
  }

  async repair(intent: Extract<Intent, { kind: "repair" | "drain" }>, facts: BalanceFacts): Promise<void> {
    if (!this.seen.balance || !this.committed) return;
    const key = this.memberKey();
    const input: PlanInput = { ...this.seen.balance.input(facts), budget: unlimited };
    const { layers, unhosted, changed } = repairPlan(input, this.committed.layers);
    if (intent.kind === "drain") {
      this.drainTried = key;
      if (unhosted.length > 0) {
        const message = `${unhosted.length} experts would have no host: raise experts.memoryPerRank or keep replicas`;
        for (const rank of intent.ranks) this.drains.blocked.set(rank, message);
        return;
      }
    } else {
      if (unhosted.length > 0)
        this.ports.event(
          this.seen.world,
          "Warning",
          "ExpertsUnhosted",
          `${unhosted.length} experts have no room after the loss of ranks ${intent.lost.join(", ")}: loaded on demand`,
        );
      this.repairTried = key;
    }
    if (!changed) return;
    assertPlan(input, layers, { unhosted });
    this.seen.balance.forgetHistory();
    const reason = intent.kind === "drain" ? `ranks ${intent.ranks.join(", ")} leave` : `ranks ${intent.lost.join(", ")} are lost`;
    await this.run(intent.kind, facts, { layers, reason }, this.committed, undefined, input);
  }

  /** New ranks take experts and copies in the order of gain, whatever the trigger says. */
  async fill(facts: BalanceFacts): Promise<void> {
    if (!this.seen.balance || !this.committed) return;
    this.fillTried = this.memberKey();
    this.seen.balance.forgetHistory();
    const input: PlanInput = { ...this.seen.balance.input(facts, { even: facts.spec.rebalancing.mode === "Off" }), budget: unlimited };
    const { recent: _, noise: __, ...clean } = input;
    const layers = schedulable(input, planIncremental(clean).layers);
    assertPlan(input, layers, { unhosted: orphans(input, this.committed.layers) });
    await this.run("fill", facts, { layers, reason: "new ranks take their part" }, this.committed, undefined, input);
  }

  /** Experts with fewer copies than spec.experts.minCopies for which there may be room. */
  unprotected(facts: BalanceFacts): number {
    const { balance } = this.seen;
    if (!balance || !this.committed || facts.spec.experts.minCopies <= 1) return 0;
    return this.protection.open(this.committed, this.protectKey(facts), () => balance.input(facts));
  }

  private protectKey(facts: BalanceFacts): string {
    return `${this.memberKey()} ${facts.spec.experts.minCopies}`;
  }

  /** Copies on other nodes for experts that have too few, whatever load, trigger and mode say. */
  async protect(facts: BalanceFacts): Promise<void> {
    if (!this.seen.balance || !this.committed) return;
    const { minCopies } = facts.spec.experts;
    const input = this.seen.balance.input(facts, { even: facts.spec.rebalancing.mode === "Off" });
    const { layers, added, missing } = this.protection.plan(input, this.committed.layers, this.protectKey(facts));
    if (missing > 0) {
      const message = `${missing} experts have fewer than ${minCopies} copies on different nodes and no room for more: raise experts.memoryPerRank or replicas`;
      this.ports.event(this.seen.world, "Warning", "CopiesMissing", message);
    }
    if (diffPlans(this.committed.layers, layers, () => 0).moves.length === 0) return;
    assertPlan(input, layers, { unhosted: orphans(input, this.committed.layers) });
    const reason = `${added} copies, so that experts have ${minCopies} on different nodes`;
    await this.run("protect", facts, { layers, reason }, this.committed, undefined, input);
  }

  async rebalance(facts: BalanceFacts, now: number): Promise<void> {
    const { committed } = this;
    const { balance } = this.seen;
    if (!balance || !committed) return;
    const asked = balance.ask(facts, now);
    if (!asked.act) return this.held(asked.reason);
    const input = balance.input(facts);
    const { policy } = facts.spec.rebalancing;
    const started = this.ports.clock.now();
    const output = await this.ports.planner.plan(policy, input);
    this.ports.metrics.observe("enodia_planner_duration_seconds", (this.ports.clock.now() - started) / 1000, { ...this.labels(), policy });
    const judged = balance.judge(input, output, facts.spec);
    if (judged.decision.reason === "Recommended") this.recommend(judged.decision.message, committed, output.layers);
    if (!judged.decision.act) return this.held(judged.decision.reason);
    const predicted = { before: judged.before, after: judged.after, bound: judged.bound };
    await this.run(
      "balance",
      facts,
      { layers: output.layers, reason: `${policy}: ${judged.decision.message}; ${output.reason}`, predicted },
      committed,
      undefined,
      input,
    );
  }

  private recommend(message: string, committed: PlacementPlan, layers: readonly LayerPlan[]): void {
    const { moves } = diffPlans(committed.layers, layers, () => 0);
    this.recommended = moves.slice(0, recommendedMax).map(({ layer, expert, rank }) => `${layer}/${expert} -> ${rank}`);
    this.ports.event(this.seen.world, "Normal", "RebalanceRecommended", message);
  }

  private held(reason: string): void {
    this.ports.metrics.add("enodia_rebalances_total", 1, { ...this.labels(), result: "held", reason });
  }

  labels() {
    return { namespace: this.seen.world.ref.namespace, deployment: this.seen.world.ref.name };
  }

  private async run(
    kind: string,
    facts: BalanceFacts,
    plan: { layers: readonly LayerPlan[]; reason: string; predicted?: NonNullable<RolloutPlan["predicted"]> },
    parent: PlacementPlan | undefined,
    resume?: { plan: PlacementPlan; committed: ReadonlySet<number> },
    input?: PlanInput,
  ): Promise<void> {
    const { ref, uid } = this.seen.world;
    const members = planMembers(this.seen.views);
    for (const [rank, { bootId }] of members) this.boots.set(rank, bootId);
    const epoch = Math.max(this.stored?.spec.epoch ?? 0, this.committed?.epoch ?? 0) + 1;
    const modelDigest = this.seen.views.find((view) => view.usable)?.link?.description?.modelDigest ?? parent?.modelDigest ?? "";
    const rollout = new Rollout(
      {
        ref,
        ownerUid: uid,
        store: this.ports.store,
        clock: this.ports.clock,
        link: (rank) => this.linkOf(rank),
        bytesPerSecond: limited(kind, parent) ? transferLimit(facts.spec) : 0,
        onProgress: this.poke,
      },
      parent,
      {
        layers: plan.layers,
        reason: plan.reason,
        members,
        shape: facts.shape,
        allAtOnce: parent === undefined,
        ...(plan.predicted ? { predicted: plan.predicted } : {}),
      },
      { epoch, deploymentUid: uid, modelDigest },
      resume,
    );
    if (kind !== "rewrite" && kind !== "first" && rollout.moves > 0)
      this.ports.event(
        this.seen.world,
        "Normal",
        "RebalanceStarted",
        `epoch ${rollout.plan.epoch}, ${rollout.moves} moves: ${plan.reason}`,
      );
    if (!resume) this.abortLeftovers(epoch);
    this.rollout = { kind, run: rollout };
    this.ports.onRollout(ref, true, undefined);
    try {
      const result = await rollout.carryOut(this.stored, resume !== undefined);
      this.finish(kind, result, plan, input);
    } catch (caught) {
      // Written or not, pushed or not: what holds is found out anew.
      this.recovered = false;
      throw caught;
    } finally {
      this.rollout = undefined;
      this.ports.onRollout(ref, false, undefined);
    }
  }

  /**
   * An Abort that did not arrive leaves prepared copies on a worker, beside which the next plan's may not fit. Preparations of
   * the two epochs before (a plan, and what settled it) are void by now; nobody waits for the answers.
   */
  private abortLeftovers(epoch: number): void {
    for (const view of this.seen.views) {
      if (!view.usable) continue;
      for (const old of [epoch - 2, epoch - 1]) if (old > 0) void view.link?.abort(old, []).catch(() => {});
    }
  }

  linkOf(rank: number): Link | undefined {
    return this.seen.views.find((view) => view.rank === rank && view.usable)?.link;
  }

  private finish(
    kind: string,
    result: RolloutResult,
    plan: { reason: string; predicted?: NonNullable<RolloutPlan["predicted"]> },
    input: PlanInput | undefined,
  ): void {
    const { outcome } = result;
    const now = this.ports.clock.now();
    this.stored = result.stored;
    this.lastReport = result.report;
    if (outcome.result === "superseded") {
      this.recovered = false;
      this.ports.log.warn({ deployment: this.seen.world.ref.name, epoch: outcome.epoch }, "another leader has a newer plan");
      return;
    }
    if (result.committed) {
      this.committed = result.committed;
      this.links.pushPlan(result.committed);
    }
    if (input && result.committed)
      this.seen.balance?.committed(input, result.committed.layers, now, this.seen.world.spec.rebalancing.trigger.imbalancePercent);
    else this.seen.balance?.restart(now);
    const failed = outcome.aborted.map(({ layer, reason }) => `layer ${layer}: ${reason}`);
    if (outcome.result === "aborted") this.notBefore = now + retryMs;
    if (kind !== "first" && kind !== "rewrite" && result.moves > 0) {
      this.lastRebalance = {
        time: new Date(now).toISOString(),
        result: outcome.result === "aborted" ? "Aborted" : failed.length > 0 ? "PartlyCommitted" : "Committed",
        moves: result.moves,
        bytes: result.bytes,
        durationMs: Math.round(result.durationMs),
        ...(plan.predicted
          ? {
              imbalanceBeforePercent: Math.round(plan.predicted.before * 100),
              imbalanceAfterPercent: Math.round(plan.predicted.after * 100),
            }
          : {}),
      };
    }
    const type = failed.length > 0 ? "Warning" : "Normal";
    const text =
      failed.length > 0
        ? `${failed.length} layers kept their parent: ${failed[0]}`
        : `${result.moves} moves, ${result.bytes} bytes in ${Math.round(result.durationMs)} ms`;
    this.ports.event(
      this.seen.world,
      type,
      outcome.result === "aborted" ? "RebalanceAborted" : "PlacementCommitted",
      `${kind}, epoch ${result.committed?.epoch ?? 0}: ${text}`,
    );
    this.ports.onRollout(this.seen.world.ref, false, { kind, result });
  }
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
