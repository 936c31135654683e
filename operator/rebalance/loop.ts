// The loop of one deployment: observe (links, members, load) -> decide (intent.ts, balance.ts) -> carry out (rollout.ts) ->
// report. At most one plan is made or carried out at a time. Shell: every decision is in the pure files it calls.
import { AppError } from "../../crds/common.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { LoadWindow } from "../../crds/telemetry.ts";
import type { Identity, RebalanceView, World } from "../deployment/ports.ts";
import { policies } from "../planner/index.ts";
import { Balance, type BalanceFacts } from "./balance.ts";
import { Drains } from "./drains.ts";
import { type Intent, nextIntent } from "./intent.ts";
import { Links } from "./links.ts";
import type { LoopPorts } from "./loop-ports.ts";
import { everybodyDescribed, lostAfterMs, membersOf, rankSpecs, ranksOf, rankViews } from "./members.ts";
import { PlacementStatusWriter, placementStatus } from "./placement-status.ts";
import { type Observed, Steps } from "./steps.ts";
import type { Subscription } from "./telemetry.ts";
import { rebalanceView } from "./view.ts";

const tickMs = 200;
/** After a failed step (store away, planner failed). */
const retryMs = 2_000;

export class DeploymentLoop {
  private readonly ports: LoopPorts;
  private readonly links: Links;
  private readonly seen: Observed;
  private readonly steps: Steps;
  private readonly drains = new Drains();
  private readonly status: PlacementStatusWriter;
  private identity: Identity | undefined;
  private telemetry: { readonly key: string; readonly subscription: Subscription } | undefined;
  private readonly usableAt = new Map<number, number>();
  private readonly startedAt: number;
  private describedAt: number | undefined;
  private introduced = false;
  private working = false;
  private stopped = false;
  private stopTimer: () => void = () => {};
  private current: RebalanceView | undefined;
  private currentText = "";

  constructor(ports: LoopPorts, world: World) {
    this.ports = ports;
    this.seen = { world, views: [], shape: undefined, balance: undefined };
    this.startedAt = ports.clock.now();
    this.status = new PlacementStatusWriter(ports.store, ports.clock);
    this.links = new Links(ports.openLink, () => this.poke());
    this.steps = new Steps({
      ports,
      seen: this.seen,
      links: this.links,
      drains: this.drains,
      facts: () => this.facts(),
      poke: () => this.poke(),
    });
    this.schedule(0);
  }

  update(world: World): void {
    this.seen.world = world;
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
        this.ports.log.error({ err: caught, deployment: this.seen.world.ref.name }, "rebalance tick failed");
      }
      this.schedule(tickMs);
    });
  }

  private tick(): void {
    const now = this.ports.clock.now();
    if (!this.identity) {
      this.act(now, () => this.begin());
      this.report(now);
      return;
    }
    this.links.sync(this.seen.world, this.identity, now);
    this.observe(now);
    this.followRollout();
    const planned = new Set(ranksOf(this.steps.committed));
    this.drains.step(
      this.seen.views,
      this.seen.world.leaving,
      // Until the plan was read every rank may hold the only copy of something.
      (rank) => !this.steps.recovered || planned.has(rank),
      parseDuration(this.seen.world.spec.elasticity.drain, "spec.elasticity.drain"),
      now,
    );
    this.listen();
    if (!this.working && now >= this.steps.notBefore) this.decide(now);
    this.report(now);
  }

  /** Runs one asynchronous step; no other starts meanwhile. A failure is logged and tried again later. */
  private act(now: number, run: () => Promise<void>): void {
    if (this.working || now < this.steps.notBefore) return;
    this.working = true;
    run().then(
      () => {
        this.working = false;
      },
      (caught) => {
        const error = AppError.from(caught);
        this.working = false;
        this.steps.notBefore = this.ports.clock.now() + retryMs;
        this.steps.waiting = { reason: error.code, message: error.message };
        this.ports.log.warn({ err: error, deployment: this.seen.world.ref.name }, "rebalance step failed");
        // Another writer was faster, or the object is gone: read it again before anything else.
        if (error.code === "Conflict" || error.code === "NotFound" || error.code === "AlreadyExists") this.steps.recovered = false;
      },
    );
  }

  private async begin(): Promise<void> {
    const { ref, uid } = this.seen.world;
    this.identity = await this.ports.identity(ref, uid);
  }

  private observe(now: number): void {
    const digest = this.steps.committed?.modelDigest ?? this.majorityDigest();
    this.seen.views = rankViews({
      workers: this.seen.world.workers,
      leaving: this.seen.world.leaving,
      link: (uid) => this.links.worker(uid),
      digest,
      now,
    });
    for (const view of this.seen.views) {
      if (!view.usable) continue;
      this.usableAt.set(view.rank, now);
      this.describedAt ??= now;
      const description = view.link?.description;
      if (!this.seen.shape && description) {
        this.seen.shape = {
          layers: description.layers,
          experts: description.experts,
          residentBytes: description.residentBytes,
          storedBytes: description.storedBytes,
        };
        this.seen.balance = new Balance(this.seen.shape, this.seen.world.uid, now);
      }
    }
    // A new leader first gets to know everybody: a membership of those who answered fastest would cut the others off.
    this.introduced ||= everybodyDescribed(this.seen.views) || now - this.startedAt > lostAfterMs;
    if (!this.introduced) return;
    const { usesTransitions } = policies[this.seen.world.spec.rebalancing.policy];
    this.links.setMembers(membersOf(this.seen.views), usesTransitions);
  }

  private majorityDigest(): string | undefined {
    const count = new Map<string, number>();
    for (const pod of this.seen.world.workers) {
      const digest = this.links.worker(pod.uid)?.description?.modelDigest;
      if (digest) count.set(digest, (count.get(digest) ?? 0) + 1);
    }
    return [...count].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))[0]?.[0];
  }

  /** Ranks without a usable process for longer than the grace; at start everyone gets the grace. */
  private goneRanks(now: number): Set<number> {
    const gone = new Set<number>();
    for (const rank of ranksOf(this.steps.committed))
      if (now - (this.usableAt.get(rank) ?? this.startedAt + lostAfterMs) > lostAfterMs) gone.add(rank);
    return gone;
  }

  /** Tells the running plan who came and who is lost, and new boots what is committed at this moment. */
  private followRollout(): void {
    const now = this.ports.clock.now();
    for (const view of this.seen.views) {
      const boot = view.link?.description?.bootId;
      if (!view.usable || boot === undefined || this.steps.boots.get(view.rank) === boot) continue;
      this.steps.boots.set(view.rank, boot);
      const mix = this.steps.rollout ? this.steps.rollout.run.forJoiners() : this.steps.committed;
      if (mix) view.link?.pushPlan(mix);
      this.steps.rollout?.run.joined(view.rank, boot);
    }
    for (const rank of this.steps.boots.keys()) {
      const view = this.seen.views.find((v) => v.rank === rank && v.usable);
      if (view || now - (this.usableAt.get(rank) ?? 0) <= lostAfterMs) continue;
      this.steps.boots.delete(rank);
      this.steps.rollout?.run.lost(rank);
    }
  }

  private listen(): void {
    const { ref, spec } = this.seen.world;
    const url = this.ports.natsUrl(spec);
    const key = JSON.stringify([url, spec.telemetry.nats]);
    if (this.telemetry?.key === key) return;
    this.telemetry?.subscription.close();
    this.telemetry = undefined;
    if (!url) return;
    const { credentialsSecretRef, subjectPrefix } = spec.telemetry.nats;
    const secret = credentialsSecretRef && { namespace: ref.namespace, name: credentialsSecretRef.name };
    const subscription = this.ports.telemetry.subscribe(ref, subjectPrefix, { url, secret }, (window) => this.receive(window));
    this.telemetry = { key, subscription };
  }

  private receive(window: LoadWindow): void {
    const { ref } = this.seen.world;
    const accepted = this.seen.balance?.accept(window, this.facts().expected, this.ports.clock.now()) ?? {
      ok: false as const,
      reason: "unknown_deployment" as const,
    };
    if (accepted.ok) this.ports.metrics.add("enodia_telemetry_samples_total", 1, { namespace: ref.namespace, deployment: ref.name });
    else this.ports.metrics.add("enodia_telemetry_dropped_total", 1, { reason: accepted.reason });
  }

  private facts(): BalanceFacts {
    const plan = this.steps.committed;
    const active = this.seen.views.filter((view) => view.usable && view.leaving === undefined && !view.pod.terminating);
    const specs = rankSpecs(this.seen.views, plan);
    const usable = this.seen.views.filter((view) => view.usable);
    return {
      spec: this.seen.world.spec,
      synced: plan !== undefined && usable.every((view) => (view.link?.status?.epoch ?? 0) >= plan.epoch),
      planInProgress: this.steps.rollout !== undefined,
      busConnected: this.telemetry?.subscription.status.connected ?? false,
      expected: active.map((view) => ({
        rank: view.rank,
        bootId: view.link?.description?.bootId ?? "",
        speed: specs.find((spec) => spec.rank === view.rank)?.speed ?? 1,
      })),
      ranks: specs,
      shape: this.seen.shape ?? { layers: 0, experts: 0, residentBytes: new Float64Array(0), storedBytes: new Float64Array(0) },
      plan,
    };
  }

  private decide(now: number): void {
    if (this.seen.world.spec.suspend || this.seen.world.desiredRanks === 0) {
      this.steps.waiting = { reason: "Suspended", message: "no ranks are wanted" };
      return;
    }
    if (!this.steps.recovered) {
      this.act(now, () => this.steps.recover(this.startedAt));
      return;
    }
    const facts = this.facts();
    const intent = nextIntent({
      views: this.seen.views,
      specs: facts.ranks,
      shape: this.seen.shape,
      plan: this.steps.committed,
      desiredRanks: this.seen.world.desiredRanks,
      waitedMs: now - (this.describedAt ?? now),
      gone: this.goneRanks(now),
      blocked: new Set(this.drains.blocked.keys()),
      repairTried: this.steps.repairTried === this.steps.memberKey(),
      fillTried: this.steps.fillTried === this.steps.memberKey(),
      unprotected: this.steps.unprotected(facts),
    });
    this.steps.waiting = intent.kind === "wait" ? intent : undefined;
    if (this.steps.drainTried !== this.steps.memberKey()) this.drains.blocked.clear();
    if (this.seen.balance?.closeIfDue(facts, now)) this.ports.onWindow(this.seen.world.ref, this.seen.balance, facts);
    else if (intent.kind === "balance") return;
    this.follow(intent, facts, now);
  }

  private follow(intent: Intent, facts: BalanceFacts, now: number): void {
    if (intent.kind === "wait") return;
    this.act(now, () => {
      if (intent.kind === "first") return this.steps.first(facts);
      if (intent.kind === "repair" || intent.kind === "drain") return this.steps.repair(intent, facts);
      if (intent.kind === "fill") return this.steps.fill(facts);
      if (intent.kind === "protect") return this.steps.protect(facts);
      return this.steps.rebalance(facts, now);
    });
  }

  private report(now: number): void {
    const facts = this.facts();
    const staleAfterMs = parseDuration(this.seen.world.spec.telemetry.staleAfter, "spec.telemetry.staleAfter");
    const view = rebalanceView({
      name: this.seen.world.ref.name,
      views: this.seen.views,
      shape: this.seen.shape,
      plan: this.steps.committed,
      ranks: facts.ranks,
      drains: this.drains.view(this.seen.world.leaving),
      rollout: this.steps.rollout
        ? { kind: this.steps.rollout.kind, phase: this.steps.rollout.run.phase, moves: this.steps.rollout.run.moves }
        : undefined,
      decision: this.seen.balance?.decision,
      measured: this.seen.balance?.measured,
      bound: this.seen.balance?.bound,
      waiting: this.steps.waiting,
      telemetry: {
        bus: this.ports.natsUrl(this.seen.world.spec)
          ? (this.telemetry?.subscription.status ?? { connected: false, reason: "Connecting" })
          : undefined,
        ageMs: this.seen.balance?.book.ageMs(facts.expected, now) ?? Number.POSITIVE_INFINITY,
        staleAfterMs,
        reporting: this.seen.balance?.book.reporting(facts.expected, now, staleAfterMs) ?? 0,
        expected: facts.expected.length,
        lastSampleMs: this.seen.balance?.book.lastSampleMs() ?? 0,
      },
      lastRebalance: this.steps.lastRebalance,
    });
    const status = placementStatus({
      report: this.steps.rollout?.run.report() ?? this.steps.lastReport,
      running: this.steps.rollout !== undefined,
      views: this.seen.views,
      measured: this.seen.balance?.measured,
      bound: this.seen.balance?.bound,
      phases: this.seen.balance?.phases ?? [],
      decision: this.seen.balance?.decision,
      recommended: this.steps.recommended,
    });
    if (status) this.status.offer(this.seen.world.ref, status);
    this.current = view;
    // Times alone are no news to the deployment plane.
    const text = JSON.stringify({
      ...view,
      telemetry: { ...view.telemetry, lastSampleTime: undefined },
      telemetryFresh: view.telemetryFresh.reason,
    });
    if (text === this.currentText) return;
    this.currentText = text;
    this.ports.onChange(this.seen.world.ref);
  }

  close(): void {
    this.stopped = true;
    this.stopTimer();
    this.steps.rollout?.run.stop();
    this.telemetry?.subscription.close();
    this.links.close();
  }
}
