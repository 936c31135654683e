// The loop of one deployment: observe (links, members, load) -> decide (intent.ts, balance.ts) -> carry out (rollout.ts) ->
// report. At most one plan is made or carried out at a time. Shell: every decision is in the pure files it calls.
import { AppError } from "../../crds/common.ts";
import type { LayerPlan, PlacementPlan } from "../../crds/plan.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { LoadWindow } from "../../crds/telemetry.ts";
import type { Identity, RebalanceView, World } from "../deployment/ports.ts";
import { predictedWorst } from "../planner/decide.ts";
import { planIncremental } from "../planner/policies/incremental.ts";
import { type ModelShape, type PlanInput, unlimited } from "../planner/policy.ts";
import { firstPlan, repairPlan } from "../planner/repair.ts";
import { Balance, type BalanceFacts } from "./balance.ts";
import { Drains } from "./drains.ts";
import { type Intent, nextIntent } from "./intent.ts";
import { Links } from "./links.ts";
import type { LoopPorts } from "./loop-ports.ts";
import { lostAfterMs, membersOf, type RankView, rankSpecs, ranksOf, rankViews } from "./members.ts";
import { fromSpec } from "./plan-object.ts";
import type { StoredPlacement } from "./ports.ts";
import { recover } from "./recover.ts";
import { Rollout, type RolloutPlan, type RolloutResult } from "./rollout.ts";
import type { Subscription } from "./telemetry.ts";
import { rebalanceView } from "./view.ts";

const tickMs = 200;
/** After a failed step (store away, planner failed). */
const retryMs = 2_000;
/** A new leader waits this long for workers that the stored plan names before it judges what they hold. */
const recoverWaitMs = 6_000;

export class DeploymentLoop {
  private readonly ports: LoopPorts;
  private world: World;
  private readonly links: Links;
  private readonly drains = new Drains();
  private identity: Identity | undefined;
  private telemetry: { readonly key: string; readonly subscription: Subscription } | undefined;
  private stored: StoredPlacement | undefined;
  private committed: PlacementPlan | undefined;
  private recovered = false;
  private balance: Balance | undefined;
  private shape: ModelShape | undefined;
  private rollout: { readonly kind: string; readonly run: Rollout } | undefined;
  private waiting: { reason: string; message: string } | undefined;
  private lastRebalance: NonNullable<RebalanceView["placement"]>["lastRebalance"];
  private views: RankView[] = [];
  private readonly usableAt = new Map<number, number>();
  private readonly boots = new Map<number, string>();
  private readonly startedAt: number;
  private describedAt: number | undefined;
  private repairTried = "";
  private fillTried = "";
  private drainTried = "";
  private working = false;
  private notBefore = 0;
  private stopped = false;
  private stopTimer: () => void = () => {};
  private current: RebalanceView | undefined;
  private currentText = "";

  constructor(ports: LoopPorts, world: World) {
    this.ports = ports;
    this.world = world;
    this.startedAt = ports.clock.now();
    this.links = new Links(ports.openLink, () => this.poke());
    this.schedule(0);
  }

  update(world: World): void {
    this.world = world;
    this.poke();
  }

  view(): RebalanceView | undefined {
    return this.current;
  }

  private poked = false;
  private poke(): void {
    if (this.poked || this.stopped) return;
    this.poked = true;
    this.schedule(0);
  }

  private schedule(ms: number): void {
    this.stopTimer();
    this.stopTimer = this.ports.clock.after(ms, () => {
      this.poked = false;
      if (this.stopped) return;
      try {
        this.tick();
      } catch (caught) {
        this.ports.log.error({ err: caught, deployment: this.world.ref.name }, "rebalance tick failed");
      }
      this.schedule(tickMs);
    });
  }

  private tick(): void {
    const now = this.ports.clock.now();
    if (!this.identity) {
      this.act(now, () => this.begin());
      return this.report(now);
    }
    this.links.sync(this.world, this.identity, now);
    this.observe(now);
    this.followRollout();
    const planned = new Set(ranksOf(this.committed));
    this.drains.step(
      this.views,
      this.world.leaving,
      planned,
      parseDuration(this.world.spec.elasticity.drain, "spec.elasticity.drain"),
      now,
    );
    this.listen();
    if (!this.working && now >= this.notBefore) this.decide(now);
    this.report(now);
  }

  /** Runs one asynchronous step; no other starts meanwhile. A failure is logged and tried again later. */
  private act(now: number, run: () => Promise<void>): void {
    if (this.working || now < this.notBefore) return;
    this.working = true;
    run().then(
      () => {
        this.working = false;
      },
      (caught) => {
        const error = AppError.from(caught);
        this.working = false;
        this.notBefore = this.ports.clock.now() + retryMs;
        this.waiting = { reason: error.code, message: error.message };
        this.ports.log.warn({ err: error, deployment: this.world.ref.name }, "rebalance step failed");
        // Another writer was faster, or the object is gone: read it again before anything else.
        if (error.code === "Conflict" || error.code === "NotFound" || error.code === "AlreadyExists") this.recovered = false;
      },
    );
  }

  private async begin(): Promise<void> {
    const { ref, uid } = this.world;
    this.identity = await this.ports.identity(ref, uid);
  }

  private observe(now: number): void {
    const digest = this.committed?.modelDigest ?? this.majorityDigest();
    this.views = rankViews({
      workers: this.world.workers,
      leaving: this.world.leaving,
      link: (uid) => this.links.worker(uid),
      digest,
      now,
    });
    for (const view of this.views) {
      if (!view.usable) continue;
      this.usableAt.set(view.rank, now);
      this.describedAt ??= now;
      const description = view.link?.description;
      if (!this.shape && description) {
        this.shape = {
          layers: description.layers,
          experts: description.experts,
          residentBytes: description.residentBytes,
          storedBytes: description.storedBytes,
        };
        this.balance = new Balance(this.shape, this.world.uid, now);
      }
    }
    this.links.setMembers(membersOf(this.views));
  }

  private majorityDigest(): string | undefined {
    const count = new Map<string, number>();
    for (const pod of this.world.workers) {
      const digest = this.links.worker(pod.uid)?.description?.modelDigest;
      if (digest) count.set(digest, (count.get(digest) ?? 0) + 1);
    }
    return [...count].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))[0]?.[0];
  }

  /** Ranks without a usable process for longer than the grace; at start everyone gets the grace. */
  private goneRanks(now: number): Set<number> {
    const gone = new Set<number>();
    for (const rank of ranksOf(this.committed))
      if (now - (this.usableAt.get(rank) ?? this.startedAt + lostAfterMs) > lostAfterMs) gone.add(rank);
    return gone;
  }

  /** Tells the running plan who came and who is lost, and new boots what is committed at this moment. */
  private followRollout(): void {
    const now = this.ports.clock.now();
    for (const view of this.views) {
      const boot = view.link?.description?.bootId;
      if (!view.usable || boot === undefined || this.boots.get(view.rank) === boot) continue;
      this.boots.set(view.rank, boot);
      const mix = this.rollout?.run.mix() ?? this.committed;
      if (mix) view.link?.pushPlan(mix);
      this.rollout?.run.joined(view.rank, boot);
    }
    for (const rank of this.boots.keys()) {
      const view = this.views.find((v) => v.rank === rank && v.usable);
      if (view || now - (this.usableAt.get(rank) ?? 0) <= lostAfterMs) continue;
      this.boots.delete(rank);
      this.rollout?.run.lost(rank);
    }
  }

  private listen(): void {
    const { ref, spec } = this.world;
    const url = this.ports.natsUrl(spec);
    const key = JSON.stringify([url, spec.telemetry.nats]);
    if (this.telemetry?.key === key || !url || this.working) return;
    this.act(this.ports.clock.now(), async () => {
      const credentials = await this.ports.natsCredentials(ref, spec);
      this.telemetry?.subscription.close();
      const subscription = this.ports.telemetry.subscribe(ref, spec.telemetry.nats.subjectPrefix, { url, ...credentials }, (window) =>
        this.receive(window),
      );
      this.telemetry = { key, subscription };
    });
  }

  private receive(window: LoadWindow): void {
    const { ref } = this.world;
    const accepted = this.balance?.accept(window, this.facts().expected, this.ports.clock.now()) ?? {
      ok: false as const,
      reason: "unknown_deployment" as const,
    };
    if (accepted.ok) this.ports.metrics.add("enodia_telemetry_samples_total", 1, { namespace: ref.namespace, deployment: ref.name });
    else this.ports.metrics.add("enodia_telemetry_dropped_total", 1, { reason: accepted.reason });
  }

  private facts(): BalanceFacts {
    const plan = this.committed;
    const active = this.views.filter((view) => view.usable && view.leaving === undefined && !view.pod.terminating);
    const specs = rankSpecs(this.views, plan);
    const usable = this.views.filter((view) => view.usable);
    return {
      spec: this.world.spec,
      synced: plan !== undefined && usable.every((view) => (view.link?.status?.epoch ?? 0) >= plan.epoch),
      planInProgress: this.rollout !== undefined,
      busConnected: this.telemetry?.subscription.status.connected ?? false,
      expected: active.map((view) => ({
        rank: view.rank,
        bootId: view.link?.description?.bootId ?? "",
        speed: specs.find((spec) => spec.rank === view.rank)?.speed ?? 1,
      })),
      ranks: specs,
      shape: this.shape ?? { layers: 0, experts: 0, residentBytes: new Float64Array(0), storedBytes: new Float64Array(0) },
      plan,
    };
  }

  private decide(now: number): void {
    if (this.world.spec.suspend || this.world.desiredRanks === 0) {
      this.waiting = { reason: "Suspended", message: "no ranks are wanted" };
      return;
    }
    if (!this.recovered) return this.recover(now);
    const facts = this.facts();
    const intent = nextIntent({
      views: this.views,
      specs: facts.ranks,
      shape: this.shape,
      plan: this.committed,
      desiredRanks: this.world.desiredRanks,
      waitedMs: now - (this.describedAt ?? now),
      gone: this.goneRanks(now),
      blocked: new Set(this.drains.blocked.keys()),
      repairTried: this.repairTried === this.memberKey(),
    });
    this.waiting = intent.kind === "wait" ? intent : undefined;
    if (this.drainTried !== this.memberKey()) this.drains.blocked.clear();
    if (this.balance?.closeIfDue(facts, now)) this.ports.onWindow(this.world.ref, this.balance, facts);
    else if (intent.kind === "balance") return;
    this.follow(intent, facts, now);
  }

  private follow(intent: Intent, facts: BalanceFacts, now: number): void {
    switch (intent.kind) {
      case "wait":
        return;
      case "first":
        return this.act(now, () => this.first(facts));
      case "repair":
      case "drain":
        return this.act(now, () => this.repair(intent, facts));
      case "fill":
        if (this.fillTried === this.memberKey()) return this.act(now, () => this.rebalance(facts, now));
        return this.act(now, () => this.fill(facts));
      case "balance":
        return this.act(now, () => this.rebalance(facts, now));
    }
  }

  private memberKey(): string {
    return this.views
      .map((view) => `${view.rank}:${view.link?.description?.bootId ?? "-"}:${view.usable ? 1 : 0}:${view.leaving?.reason ?? ""}`)
      .join(",");
  }

  private recover(now: number): void {
    this.act(now, async () => {
      const { ref } = this.world;
      this.stored = await this.ports.store.read(ref);
      const plan = this.stored && this.stored.spec.deploymentUID === this.world.uid ? fromSpec(this.stored.spec) : undefined;
      const named = this.stored?.spec.ranks ?? [];
      const connected = this.views.filter((view) => view.usable);
      const all =
        named.length > 0
          ? named.every(({ rank }) => connected.some((view) => view.rank === rank))
          : connected.length >= this.world.desiredRanks;
      if (connected.length === 0 || (!all && this.ports.clock.now() - this.startedAt < recoverWaitMs)) {
        this.waiting = { reason: "WaitingForRanks", message: `${connected.length} workers are connected` };
        this.notBefore = this.ports.clock.now() + tickMs;
        return;
      }
      const snapshots = await Promise.all(connected.map((view) => view.link?.snapshot().catch(() => undefined)));
      const found = recover(
        plan,
        snapshots.flatMap((snapshot) => (snapshot && snapshot.deploymentUid === this.world.uid ? [snapshot] : [])),
        this.shape?.layers ?? 0,
      );
      this.recovered = true;
      this.ports.log.info({ deployment: ref.name, recovery: found.kind, epoch: plan?.epoch ?? 0 }, "placement recovered");
      if (found.kind === "settled" || found.kind === "rewrite") {
        this.committed = found.committed;
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
        const stored = this.stored;
        await this.run(
          "resume",
          this.facts(),
          { layers: found.plan.layers, reason: stored?.spec.reason ?? "resumed by a new leader" },
          found.parent,
          { plan: found.plan, committed: found.committed },
        );
      }
    });
  }

  private async first(facts: BalanceFacts): Promise<void> {
    if (!this.balance) return;
    const input = { ...this.balance.input(facts, { even: true }), current: undefined, budget: unlimited };
    await this.run(
      "first",
      facts,
      { layers: firstPlan(input), reason: `first plan: ${facts.expected.length} ranks, homes dealt round-robin` },
      undefined,
    );
  }

  private async repair(intent: Extract<Intent, { kind: "repair" | "drain" }>, facts: BalanceFacts): Promise<void> {
    if (!this.balance || !this.committed) return;
    const key = this.memberKey();
    const input: PlanInput = { ...this.balance.input(facts), budget: unlimited };
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
          this.world,
          "Warning",
          "ExpertsUnhosted",
          `${unhosted.length} experts have no room after the loss of ranks ${intent.lost.join(", ")}: loaded on demand`,
        );
      this.repairTried = key;
    }
    if (!changed) return;
    this.balance.forgetHistory();
    const reason = intent.kind === "drain" ? `ranks ${intent.ranks.join(", ")} leave` : `ranks ${intent.lost.join(", ")} are lost`;
    await this.run(intent.kind, facts, { layers, reason }, this.committed, undefined, input);
  }

  /** New ranks take experts and copies in the order of gain, whatever the trigger says. */
  private async fill(facts: BalanceFacts): Promise<void> {
    if (!this.balance || !this.committed) return;
    this.fillTried = this.memberKey();
    this.balance.forgetHistory();
    const input: PlanInput = { ...this.balance.input(facts, { even: facts.spec.rebalancing.mode === "Off" }), budget: unlimited };
    const { recent: _, noise: __, ...clean } = input;
    const { layers } = planIncremental(clean);
    await this.run("fill", facts, { layers, reason: "new ranks take their part" }, this.committed, undefined, input);
  }

  private async rebalance(facts: BalanceFacts, now: number): Promise<void> {
    const { balance, committed } = this;
    if (!balance || !committed) return;
    const asked = balance.ask(facts, now);
    if (!asked.act) return this.held(asked.reason);
    const input = balance.input(facts);
    const { policy } = facts.spec.rebalancing;
    const started = this.ports.clock.now();
    const output = await this.ports.planner.plan(policy, input);
    this.ports.metrics.observe("enodia_planner_duration_seconds", (this.ports.clock.now() - started) / 1000, { ...this.labels(), policy });
    const judged = balance.judge(input, output.layers, facts.spec);
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

  private held(reason: string): void {
    this.ports.metrics.add("enodia_rebalances_total", 1, { ...this.labels(), result: "held", reason });
  }

  private labels() {
    return { namespace: this.world.ref.namespace, deployment: this.world.ref.name };
  }

  private async run(
    kind: string,
    facts: BalanceFacts,
    plan: { layers: readonly LayerPlan[]; reason: string; predicted?: NonNullable<RolloutPlan["predicted"]> },
    parent: PlacementPlan | undefined,
    resume?: { plan: PlacementPlan; committed: ReadonlySet<number> },
    input?: PlanInput,
  ): Promise<void> {
    const { ref, uid } = this.world;
    const usable = this.views.filter((view) => view.usable);
    const members = new Map(
      usable.map((view) => [
        view.rank,
        {
          bootId: view.link?.description?.bootId ?? "",
          podName: view.pod.name,
          podUid: view.pod.uid,
          budgetBytes: view.link?.description?.budgetBytes ?? 0,
        },
      ]),
    );
    for (const [rank, { bootId }] of members) this.boots.set(rank, bootId);
    const epoch = Math.max(this.stored?.spec.epoch ?? 0, this.committed?.epoch ?? 0) + 1;
    const modelDigest = usable[0]?.link?.description?.modelDigest ?? parent?.modelDigest ?? "";
    const rollout = new Rollout(
      {
        ref,
        ownerUid: uid,
        store: this.ports.store,
        clock: this.ports.clock,
        link: (rank) => this.linkOf(rank),
        maxBytesPerSecond: () => 0,
        onProgress: () => this.poke(),
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
      this.ports.event(this.world, "Normal", "RebalanceStarted", `epoch ${rollout.plan.epoch}, ${rollout.moves} moves: ${plan.reason}`);
    this.rollout = { kind, run: rollout };
    this.ports.onRollout(ref, true, undefined);
    try {
      const result = await rollout.carryOut(this.stored, resume !== undefined);
      this.finish(kind, result, plan, input);
    } finally {
      this.rollout = undefined;
      this.ports.onRollout(ref, false, undefined);
    }
  }

  private linkOf(rank: number) {
    return this.views.find((view) => view.rank === rank && view.usable)?.link;
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
    if (outcome.result === "superseded") {
      this.recovered = false;
      this.ports.log.warn({ deployment: this.world.ref.name, epoch: outcome.epoch }, "another leader has a newer plan");
      return;
    }
    if (result.committed) {
      this.committed = result.committed;
      this.links.pushPlan(result.committed);
    }
    if (input && result.committed) this.balance?.committed(input, result.committed.layers, now);
    else this.balance?.book.reset(now);
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
      this.world,
      type,
      outcome.result === "aborted" ? "RebalanceAborted" : "PlacementCommitted",
      `${kind}, epoch ${result.committed?.epoch ?? 0}: ${text}`,
    );
    this.ports.onRollout(this.world.ref, false, { kind, result });
  }

  private report(now: number): void {
    const facts = this.facts();
    const staleAfterMs = parseDuration(this.world.spec.telemetry.staleAfter, "spec.telemetry.staleAfter");
    const view = rebalanceView({
      name: this.world.ref.name,
      views: this.views,
      shape: this.shape,
      plan: this.committed,
      drains: this.drains.view(this.world.leaving),
      rollout: this.rollout ? { kind: this.rollout.kind, phase: this.rollout.run.phase, moves: this.rollout.run.moves } : undefined,
      decision: this.balance?.decision,
      measured: this.balance?.measured,
      bound: this.balance?.bound,
      waiting: this.waiting,
      telemetry: {
        bus: this.ports.natsUrl(this.world.spec)
          ? (this.telemetry?.subscription.status ?? { connected: false, reason: "Connecting" })
          : undefined,
        ageMs: this.balance?.book.ageMs(facts.expected, now) ?? Number.POSITIVE_INFINITY,
        staleAfterMs,
        reporting: this.balance?.book.reporting(facts.expected, now, staleAfterMs) ?? 0,
        expected: facts.expected.length,
        lastSampleMs: this.balance?.book.lastSampleMs() ?? 0,
      },
      lastRebalance: this.lastRebalance,
    });
    this.current = view;
    // Times alone are no news to the deployment plane.
    const text = JSON.stringify({
      ...view,
      telemetry: { ...view.telemetry, lastSampleTime: undefined },
      telemetryFresh: view.telemetryFresh.reason,
    });
    if (text === this.currentText) return;
    this.currentText = text;
    this.ports.onChange(this.world.ref);
  }

  get predictedWorst(): number {
    const facts = this.facts();
    return this.balance && this.committed && this.shape ? predictedWorst(this.balance.input(facts), this.committed.layers) : 1;
  }

  close(): void {
    this.stopped = true;
    this.stopTimer();
    this.rollout?.run.stop();
    this.telemetry?.subscription.close();
    this.links.close();
  }
}
