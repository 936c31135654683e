// The loop of one deployment: observe (links, members, load) -> decide (intent.ts, balance.ts) -> carry out (rollout.ts) ->
// report. At most one plan is made or carried out at a time. Shell: every decision is in the pure files it calls.
import { AppError } from "../../crds/common.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { Identity, RebalanceView, World } from "../deployment/ports.ts";
import { policies } from "../planner/index.ts";
import { Attempts, type StepEnd, type Tried, type Why } from "./intents/attempts.ts";
import { type Intent, nextIntent } from "./intents/intent.ts";
import { podsOf, Steps } from "./intents/steps.ts";
import { Drains } from "./links/drains.ts";
import { Intake } from "./links/intake.ts";
import { Links } from "./links/links.ts";
import { Balance, type BalanceFacts } from "./links/load-picture.ts";
import {
  agreedModel,
  everybodyDescribed,
  lostAfterMs,
  majorityDigest,
  memberKey,
  membersOf,
  rankSpecs,
  ranksOf,
  rankViews,
  speedRanks,
} from "./links/members.ts";
import type { LoopPorts, Observed } from "./loop-ports.ts";
import type { Description } from "./ports.ts";
import { Boots } from "./rollout/boots.ts";
import { Carrier } from "./rollout/placement.ts";
import { PlacementStatusWriter, placementStatus } from "./status/placement-status.ts";
import { changeKey, rebalanceView } from "./status/view.ts";

const tickMs = 200;
/** Least time between two looks: what happens meanwhile is seen in one. */
const pokeMs = 100;
/** The operator's certificate is asked for anew this often: pods have new ones soon after the CA has changed. */
const identityMs = 60_000;

export interface LoadView {
  /** Undefined until a worker was described. */
  readonly balance: Balance | undefined;
  /** Of the load messages; undefined where no NATS server is named. */
  readonly ageMs: number | undefined;
}

export class DeploymentLoop {
  private readonly ports: LoopPorts;
  private readonly links: Links;
  private readonly seen: Observed;
  private readonly carrier: Carrier;
  private readonly boots = new Boots();
  private readonly attempts = new Attempts();
  private readonly steps: Steps;
  private readonly drains = new Drains();
  private readonly status: PlacementStatusWriter;
  private identity: { readonly known: Identity; readonly until: number } | undefined;
  private waiting: Why | undefined;
  private readonly intake: Intake;
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
    this.seen = { world, views: [], model: undefined, shape: undefined, balance: undefined };
    this.startedAt = ports.clock.now();
    this.links = new Links(ports.openLink, () => this.poke());
    const { seen, links, boots, drains } = this;
    this.carrier = new Carrier({ ports, seen, links, boots, poke: () => this.poke() });
    this.steps = new Steps({ ports, seen, links, drains, carrier: this.carrier, facts: () => this.facts() });
    this.intake = new Intake({ ports, seen, expected: () => this.facts().expected });
    const { store, clock, log } = ports;
    const onGone = () => {
      this.carrier.recovered = false; // it is made again from what workers hold
    };
    this.status = new PlacementStatusWriter({ store, clock, log, onGone });
    this.schedule(0);
  }

  update(world: World): void {
    this.seen.world = world;
    this.poke();
  }

  view(): RebalanceView | undefined {
    return this.current;
  }

  /** What is known of the load, for gauges. */
  load(): LoadView {
    return { balance: this.seen.balance, ageMs: this.intake.ageMs() };
  }

  private poked = false;
  private lookedAt = Number.NEGATIVE_INFINITY;
  private poke(): void {
    if (this.poked || this.stopped) return;
    this.poked = true;
    this.schedule(Math.max(0, this.lookedAt + pokeMs - this.ports.clock.now()));
  }

  private schedule(ms: number): void {
    this.stopTimer();
    this.stopTimer = this.ports.clock.after(ms, () => {
      this.poked = false;
      if (this.stopped) return;
      this.lookedAt = this.ports.clock.now();
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
    if (!this.identity || now >= this.identity.until) this.act("identity", () => this.identify());
    if (!this.identity) {
      this.report(now);
      return;
    }
    this.links.sync(this.seen.world, this.identity.known, now);
    this.observe(now);
    this.attempts.look(memberKey(this.seen.views));
    const { committed, running } = this.carrier;
    this.boots.follow(this.seen.views, this.usableAt, { running: running?.rollout, committed }, now);
    const planned = new Set(ranksOf(committed));
    this.drains.step(
      this.seen.views,
      this.seen.world.leaving,
      // Until the plan was read every rank may hold the only copy of something.
      (rank) => !this.carrier.recovered || planned.has(rank),
      parseDuration(this.seen.world.spec.elasticity.drain, "spec.elasticity.drain"),
      now,
    );
    this.intake.listen();
    if (!this.working) this.decide(now);
    else if (this.steps.onlyPlanning && this.overtaken(now)) this.steps.abandonPlanning();
    this.report(now);
  }

  /** Runs one asynchronous step, unless it has to wait for its next time; no other starts meanwhile. */
  private act(what: Tried, run: () => Promise<StepEnd>): void {
    const members = memberKey(this.seen.views);
    if (this.working || !this.attempts.mayTry(what, members, this.ports.clock.now())) return;
    this.working = true;
    const ended = (end: StepEnd): void => {
      this.working = false;
      this.attempts.record(what, members, end, this.ports.clock.now());
      if (end.end === "failed" || end.end === "wait") this.waiting = end.why;
    };
    run().then(ended, (caught) => {
      const error = AppError.from(caught);
      ended({ end: "failed", why: { reason: error.code, message: error.message } });
      if (!this.stopped) this.ports.log.warn({ err: error, deployment: this.seen.world.ref.name, step: what }, "rebalance step failed");
    });
  }

  private async identify(): Promise<StepEnd> {
    const { ref, uid } = this.seen.world;
    this.identity = { known: await this.ports.identity(ref, uid), until: this.ports.clock.now() + identityMs };
    return { end: "done" };
  }

  private observe(now: number): void {
    this.seen.views = rankViews({
      workers: this.seen.world.workers,
      leaving: this.seen.world.leaving,
      link: (uid) => this.links.worker(uid),
      digest:
        this.carrier.committed?.modelDigest ?? majorityDigest(this.seen.world.workers.map(({ uid }) => ({ link: this.links.worker(uid) }))),
      now,
    });
    if (!this.working && this.modelChanged()) {
      this.forgetModel(now);
      return;
    }
    for (const view of this.seen.views) {
      if (!view.usable) continue;
      this.usableAt.set(view.rank, now);
      this.describedAt ??= now;
      const description = view.link?.description;
      if (description && this.seen.model?.digest !== description.modelDigest) this.takeModel(description, now);
    }
    // A new leader first gets to know everybody: a membership of those who answered fastest would cut the others off.
    this.introduced ||= everybodyDescribed(this.seen.views) || now - this.startedAt > lostAfterMs;
    if (!this.introduced) return;
    const { usesTransitions } = policies[this.seen.world.spec.rebalancing.policy];
    this.links.setMembers(membersOf(this.seen.views), usesTransitions);
  }

  private takeModel(description: Description, now: number): void {
    const { modelDigest: digest, codec, layers, experts, residentBytes, storedBytes } = description;
    this.seen.model = { digest, codec };
    this.seen.shape = { layers, experts, residentBytes, storedBytes };
    this.seen.balance = new Balance(this.seen.shape, this.seen.world.uid, now);
  }

  /** While suspended or at zero the model or the codec was changed, and no process of the old one is left. */
  private modelChanged(): boolean {
    const { model, views } = this.seen;
    const agreed = agreedModel(views, podsOf(this.carrier.stored));
    if (!agreed || !model) return false;
    return agreed.digest !== (this.carrier.committed?.modelDigest ?? model.digest) || agreed.codec !== model.codec;
  }

  private forgetModel(now: number): void {
    this.ports.log.info({ deployment: this.seen.world.ref.name, model: this.seen.model }, "the workers run another model");
    this.carrier.forget();
    this.seen.model = undefined;
    this.seen.shape = undefined;
    this.seen.balance = undefined;
    this.usableAt.clear();
    this.describedAt = undefined;
    this.observe(now);
  }

  /** Ranks without a usable process for longer than the grace; at start everyone gets the grace. */
  private goneRanks(now: number): Set<number> {
    const gone = new Set<number>();
    for (const rank of ranksOf(this.carrier.committed))
      if (now - (this.usableAt.get(rank) ?? this.startedAt + lostAfterMs) > lostAfterMs) gone.add(rank);
    return gone;
  }

  private facts(): BalanceFacts {
    const plan = this.carrier.committed;
    const active = this.seen.views.filter((view) => view.usable && view.leaving === undefined && !view.pod.terminating);
    const specs = rankSpecs(this.seen.views, plan, this.seen.balance?.speeds);
    const usable = this.seen.views.filter((view) => view.usable);
    return {
      spec: this.seen.world.spec,
      synced: plan !== undefined && usable.every((view) => (view.link?.status?.epoch ?? 0) >= plan.epoch),
      planInProgress: this.carrier.running !== undefined,
      busConnected: this.intake.connected,
      expected: active.map((view) => ({
        rank: view.rank,
        bootId: view.link?.description?.bootId ?? "",
        speed: specs.find((spec) => spec.rank === view.rank)?.speed ?? 1,
      })),
      ranks: specs,
      hardware: speedRanks(this.seen.views),
      shape: this.seen.shape ?? { layers: 0, experts: 0, residentBytes: new Float64Array(0), storedBytes: new Float64Array(0) },
      plan,
    };
  }

  private decide(now: number): void {
    const { world } = this.seen;
    if (world.spec.suspend || world.desiredRanks === 0) {
      this.waiting = { reason: "Suspended", message: "no ranks are wanted" };
      return;
    }
    if (!this.carrier.recovered) {
      this.act("recover", () => this.steps.recover((rank) => now - (this.usableAt.get(rank) ?? this.startedAt)));
      return;
    }
    const members = memberKey(this.seen.views);
    if (this.attempts.mayTry("drain", members, now)) this.drains.blocked.clear();
    const facts = this.facts();
    const intent = this.intent(facts, now);
    this.waiting = intent.kind === "wait" ? intent : this.attempts.pauseOf(intent.kind, members, now);
    const closed = this.seen.balance?.closeIfDue(facts, now) ?? false;
    if (!closed && intent.kind === "balance") return;
    this.follow(intent, facts, now);
  }

  private intent(facts: BalanceFacts, now: number): Intent {
    const members = memberKey(this.seen.views);
    return nextIntent({
      views: this.seen.views,
      specs: facts.ranks,
      shape: this.seen.shape,
      plan: this.carrier.committed,
      desiredRanks: this.seen.world.desiredRanks,
      waitedMs: now - (this.describedAt ?? now),
      gone: this.goneRanks(now),
      mayTry: (kind) => this.attempts.mayTry(kind, members, now),
      unprotected: this.steps.unprotected(facts),
    });
  }

  /** While a plan for balance is being made: is anything else wanted by now? */
  private overtaken(now: number): boolean {
    const { spec, desiredRanks } = this.seen.world;
    if (spec.suspend || desiredRanks === 0) return true;
    const { kind } = this.intent(this.facts(), now);
    return kind !== "balance" && kind !== "wait";
  }

  private follow(intent: Intent, facts: BalanceFacts, now: number): void {
    if (intent.kind === "wait") return;
    this.act(intent.kind, () => {
      if (intent.kind === "first") return this.steps.first(facts);
      if (intent.kind === "repair" || intent.kind === "drain") return this.steps.repair(intent, facts);
      if (intent.kind === "fill") return this.steps.fill(facts);
      if (intent.kind === "protect") return this.steps.protect(facts);
      return this.steps.rebalance(facts, now);
    });
  }

  private report(now: number): void {
    const facts = this.facts();
    const { running } = this.carrier;
    const staleAfterMs = parseDuration(this.seen.world.spec.telemetry.staleAfter, "spec.telemetry.staleAfter");
    const view = rebalanceView({
      name: this.seen.world.ref.name,
      views: this.seen.views,
      shape: this.seen.shape,
      plan: this.carrier.committed,
      ranks: facts.ranks,
      drains: this.drains.view(this.seen.world.leaving),
      rollout: running ? { kind: running.kind, phase: running.rollout.phase, moves: running.rollout.moves } : undefined,
      decision: this.seen.balance?.decision,
      measured: this.seen.balance?.measured,
      bound: this.seen.balance?.bound,
      waiting: this.waiting,
      telemetry: this.intake.facts(now, staleAfterMs),
      lastRebalance: this.carrier.lastRebalance,
    });
    const status = placementStatus({
      report: running?.rollout.report() ?? this.carrier.lastReport,
      running: running !== undefined,
      views: this.seen.views,
      speeds: facts.ranks,
      measured: this.seen.balance?.measured,
      bound: this.seen.balance?.bound,
      phases: this.seen.balance?.phases ?? [],
      decision: this.seen.balance?.decision,
      outlook: this.seen.balance?.outlook,
      recommended: this.steps.recommended,
    });
    if (status) this.status.offer(this.seen.world.ref, status);
    this.current = view;
    const text = changeKey(view);
    if (text === this.currentText) return;
    this.currentText = text;
    this.ports.onChange(this.seen.world.ref);
  }

  close(): void {
    this.stopped = true;
    this.stopTimer();
    this.carrier.stop();
    this.steps.abandonPlanning();
    this.intake.close();
    this.links.close();
  }
}
