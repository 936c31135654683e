// Carries out one plan: it takes an epoch by writing the ExpertPlacement, performs the actions of protocol.ts and feeds back
// the answers.
import { AppError } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { backoffMs } from "../backoff.ts";
import type { Links } from "../links/links.ts";
import { type LoadState, transferLimit } from "../load/load-state.ts";
import type { LoopPorts } from "../loop-ports.ts";
import { planMembers } from "../members.ts";
import type { Observed, Why } from "../observed.ts";
import type { Link, PlanMember } from "../ports.ts";
import type { Placement } from "./placement.ts";
import { nextPlan } from "./plan-object.ts";
import { endText, type Figures, type Foreseen, lastRebalance, planReport, settledReason } from "./plan-report.ts";
import type { PlanReport, PlanResult, Proposal } from "./proposal.ts";
import { PlanRun } from "./protocol.ts";
import { type Action, type Event, layerPhases, type Outcome } from "./protocol-types.ts";
import { type Staged, stage } from "./staging.ts";

const tickMs = 250;
const longestPauseMs = 4_000;

export interface RolloutParts {
  readonly ports: Pick<LoopPorts, "clock" | "log" | "event" | "onRollout" | "protocolRules" | "tracing">;
  readonly trace: string;
  readonly placement: Placement;
  readonly links: Pick<Links, "all" | "planBegins">;
  readonly load: () => LoadState | undefined;
  readonly onProgress: () => void;
}

type Span = ReturnType<LoopPorts["tracing"]["start"]>;
type Of<T extends Action["type"]> = Extract<Action, { type: T }>;

export class Rollout {
  readonly #parts: RolloutParts;
  readonly #proposal: Proposal;
  readonly #staged: Staged;
  readonly #foreseen: Foreseen;
  readonly #members: ReadonlyMap<number, PlanMember>;
  readonly #bytesPerSecond: number;
  readonly #startedAt: number;
  readonly #span: Span;
  #seen: Observed;
  #run: PlanRun | undefined;
  readonly #queue: Event[] = [];
  #feeding = false;
  #stopped = false;
  #resolve: (outcome: Outcome) => void = () => {};
  readonly #failures = new Map<number, number>();

  constructor(parts: RolloutParts, proposal: Proposal, seen: Observed) {
    const { parent } = proposal;
    this.#parts = parts;
    this.#proposal = proposal;
    this.#seen = seen;
    this.#members = planMembers(seen.views, seen.ranks);
    this.#bytesPerSecond = proposal.limited && parent ? transferLimit(seen.spec) : 0;
    this.#startedAt = parts.ports.clock.now();
    const described = seen.views.find((view) => view.usable)?.report?.description;
    this.#staged = stage(proposal, {
      members: this.#members,
      shape: seen.shape ?? { layers: 0, experts: 0, residentBytes: new Float64Array(0), storedBytes: new Float64Array(0) },
      epoch: parts.placement.nextEpoch,
      deploymentUid: seen.world.uid,
      modelDigest: described?.modelDigest ?? parent?.modelDigest ?? "",
      bytesPerSecond: this.#bytesPerSecond,
    });
    const { kind, reason, predicted } = proposal;
    const { plan, moves, bytes } = this.#staged;
    this.#foreseen = { kind, reason, predicted, moves, bytes };
    const attributes = { "enodia.epoch": plan.epoch, "enodia.moves": moves, "enodia.bytes": bytes };
    this.#span = parts.ports.tracing.start("operator.rollout", { parent: parts.trace, attributes });
  }

  /** Carries the plan out. Returns the reason when layers kept the parent's placement; throws what the store throws. */
  async run(): Promise<Why | undefined> {
    const { ports, placement, links } = this.#parts;
    const { kind, reason, resume } = this.#proposal;
    const { spec } = this.#staged;
    const { world } = this.#seen;
    this.#announce();
    if (!resume) this.#abortLeftovers();
    links.planBegins(this.#members);
    ports.onRollout(world.ref, { startedMs: this.#startedAt, deadlineMs: this.#deadline }, undefined);
    let result: PlanResult | undefined;
    try {
      if (spec) await placement.write(spec, { members: this.#members, reason });
      if (this.#stopped) throw stoppedError();
      const outcome = await this.#push();
      const figures = this.#figures();
      const why = await this.#end(outcome);
      result = { ...figures, outcome: outcome.result };
      this.#span.set({ "enodia.outcome": outcome.result });
      return why;
    } catch (caught) {
      this.#span.fail(caught);
      // It is unknown how far the plan got, so the placement is read anew.
      placement.doubt();
      if (this.#run) this.#parts.load()?.restart(ports.clock.now());
      throw caught;
    } finally {
      this.#span.end();
      if (!this.#stopped) ports.onRollout(world.ref, undefined, { kind, result });
    }
  }

  #announce(): void {
    const { announced, reason } = this.#proposal;
    const { plan, moves } = this.#staged;
    if (!announced || moves === 0) return;
    this.#parts.ports.event(this.#seen.world, "Normal", "RebalanceStarted", `epoch ${plan.epoch}, ${moves} moves: ${reason}`);
  }

  /**
   * Aborts the preparations of the two epochs before (a plan and its settlement): prepared expert replicas may leave no
   * memory for this plan's. Nobody waits for the answers.
   */
  #abortLeftovers(): void {
    const { epoch } = this.#staged.plan;
    for (const view of this.#seen.views) {
      if (!view.usable) continue;
      for (const old of [epoch - 2, epoch - 1]) if (old > 0) void view.link?.abort(old, []).catch(() => {});
    }
  }

  async #end(outcome: Outcome): Promise<Why | undefined> {
    const { ports, placement, links } = this.#parts;
    const { world } = this.#seen;
    if (outcome.result === "superseded") {
      placement.ended(undefined, this.report(), undefined);
      placement.doubt();
      this.#parts.load()?.restart(ports.clock.now());
      ports.log.warn({ deployment: world.ref.name, epoch: outcome.epoch }, "another leader has a newer plan");
      return undefined;
    }
    const { moves, bytes, durationMs } = this.#figures();
    const partly = outcome.aborted.length > 0;
    const held = this.#mix(this.#run?.committedLayers() ?? []);
    const committed = partly && held ? await this.#settle(held, outcome) : held;
    const now = ports.clock.now();
    const figures: Figures = { outcome, epoch: committed?.epoch ?? 0, moves, bytes, durationMs };
    const last = this.#proposal.announced && moves > 0 ? lastRebalance(this.#foreseen, figures, now) : undefined;
    placement.ended(committed, this.#finalReport(figures, committed?.layers.length ?? 0), last);
    if (committed) for (const link of links.all()) link.pushPlan(committed);
    const { input } = this.#proposal;
    const load = this.#parts.load();
    if (input && committed) load?.committed(input, committed.layers, now, world.spec.rebalancing.trigger);
    else load?.restart(now);
    const why = endText(this.#foreseen, figures);
    ports.event(world, partly ? "Warning" : "Normal", why.reason, why.message);
    return partly ? why : undefined;
  }

  /**
   * Writes the placement that holds after the plan, under a new epoch: a rank that committed a layer returns to the parent's placement
   * only by a newer epoch.
   */
  async #settle(held: PlacementPlan, outcome: Exclude<Outcome, { result: "superseded" }>): Promise<PlacementPlan> {
    const given = new Set(outcome.aborted.map(({ layer }) => layer));
    const { plan, spec } = nextPlan(held, held.layers, given, { ...held, epoch: this.#staged.plan.epoch + 1 });
    await this.#parts.placement.write(spec, { members: this.#members, reason: settledReason(outcome) });
    return plan;
  }

  #push(): Promise<Outcome> {
    const { tasks, plan, budget, used, limits } = this.#staged;
    const members = new Map([...this.#members].map(([rank, member]) => [rank, member.bootId]));
    const now = this.#parts.ports.clock.now();
    this.#run = new PlanRun({ epoch: plan.epoch, tasks, members, budget, used, now, limits, rules: this.#parts.ports.protocolRules });
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.#queue.unshift({ type: "start" });
      this.#drainQueue();
      this.#tick();
    });
  }

  follow(seen: Observed): void {
    this.#seen = seen;
  }

  /** Reports a started or restarted process to the protocol, which brings it to the current phase. */
  joined(rank: number, bootId: string): void {
    this.#feed({ type: "joined", rank, bootId });
  }

  lost(rank: number): void {
    this.#feed({ type: "lost", rank });
  }

  #tick(): void {
    const { clock } = this.#parts.ports;
    clock.after(tickMs, () => {
      if (this.#stopped || this.#run?.outcome) return;
      this.#feed({ type: "tick", now: clock.now() });
      this.#tick();
    });
  }

  /** Events during the write of the plan wait in the queue, since links report them once. */
  #feed(event: Event): void {
    if (this.#stopped || this.#run?.outcome) return;
    this.#queue.push(event);
    this.#drainQueue();
  }

  #drainQueue(): void {
    const run = this.#run;
    if (!run || this.#feeding) return;
    this.#feeding = true;
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      for (const action of run.on(next)) void this.#perform(action, run);
    }
    this.#feeding = false;
    if (run.outcome) this.#resolve(run.outcome);
    this.#parts.onProgress();
  }

  async #perform(action: Action, run: PlanRun): Promise<void> {
    const of = { parent: this.#span.traceparent, role: "client" } as const;
    const attributes = { "enodia.rank": action.rank, "enodia.layers": action.layers.length };
    const span = this.#parts.ports.tracing.start(`operator.${action.type}`, { ...of, attributes });
    await this.#call(action, run, span).finally(() => span.end());
  }

  async #call(action: Action, run: PlanRun, span: Span): Promise<void> {
    const link = this.#linkOf(action.rank);
    // The link knows which process answers now. Without a link the failure belongs to the process that the protocol knows:
    // it would ignore another bootId and never retry.
    const bootId = link?.description?.bootId ?? run.bootOf(action.rank) ?? "";
    switch (action.type) {
      case "prepare":
        return this.#prepare(action, link, bootId, span);
      case "commit":
        return this.#commit(action, link, bootId, span);
      case "release":
        return this.#release(action, link, bootId, span);
      case "abort":
        await link?.abort(run.epoch, action.layers).catch(() => {});
        return;
    }
  }

  async #prepare({ rank, layers, deadline }: Of<"prepare">, link: Link | undefined, bootId: string, span: Span): Promise<void> {
    const open = new Set(layers);
    const failed = (layer: number, message: string): void => this.#later({ type: "failed", rank, bootId, layer, message });
    try {
      if (!link) throw new AppError(`rank ${rank} is not connected`, { code: "Unavailable", retry: "backoff" });
      await link.prepare(this.#part(layers), deadline, this.#limitOf(rank), (event) => {
        if (event.type === "progress") return;
        if (!open.delete(event.layer)) return; // a second answer
        if (event.type === "failed") return failed(event.layer, event.message);
        this.#failures.delete(rank);
        this.#parts.load()?.rates.add(this.#seen.ranks, rank, event.fetched, this.#parts.ports.clock.now());
        this.#feed({ type: "ready", rank, bootId, layer: event.layer, bytes: event.bytes });
      });
      for (const layer of open) failed(layer, "the stream ended without an answer for the layer");
    } catch (caught) {
      span.fail(caught);
      for (const layer of open) failed(layer, AppError.from(caught).message);
    }
  }

  /** Feeds a failure after a growing pause, since the protocol answers it with a retry. */
  #later(event: Extract<Event, { type: "failed" }>): void {
    const failures = (this.#failures.get(event.rank) ?? 0) + 1;
    this.#failures.set(event.rank, failures);
    this.#parts.ports.clock.after(backoffMs(failures, tickMs, longestPauseMs), () => this.#feed(event));
  }

  async #commit({ rank, layers }: Of<"commit">, link: Link | undefined, bootId: string, span: Span): Promise<void> {
    const { epoch } = this.#staged.plan;
    try {
      if (!link) return this.#feed({ type: "unanswered", rank, call: "commit" });
      const reply = await link.commit(this.#part(layers));
      const committed = reply.committed.filter((layer) => layers.includes(layer));
      if (reply.refused !== "" && reply.epoch > epoch)
        this.#feed({ type: "refused", rank, bootId, epoch: reply.epoch, message: reply.refused });
      else this.#feed({ type: "committed", rank, bootId, layers: committed, asked: layers });
    } catch (caught) {
      const error = AppError.from(caught);
      span.fail(error);
      // A worker answers StalePlan when it has seen a newer epoch, so another leader is at work.
      if (error.code === "StalePlan") this.#feed({ type: "refused", rank, bootId, epoch: epoch + 1, message: error.message });
      else this.#feed({ type: "unanswered", rank, call: "commit" });
    }
  }

  async #release({ rank, layers, drainOnly }: Of<"release">, link: Link | undefined, bootId: string, span: Span): Promise<void> {
    const call = drainOnly ? "drain" : "release";
    try {
      if (!link) return this.#feed({ type: "unanswered", rank, call });
      const reply = await link.release(this.#staged.plan.epoch, layers, drainOnly);
      const released = reply.released.filter((layer) => layers.includes(layer));
      this.#feed({ type: "released", rank, bootId, layers: released, asked: layers, drainOnly });
    } catch (caught) {
      span.fail(caught);
      this.#feed({ type: "unanswered", rank, call });
    }
  }

  #linkOf(rank: number): Link | undefined {
    return this.#seen.views.find((view) => view.rank === rank && view.usable)?.link;
  }

  /** The rank's limit in bytes per second. A process that started meanwhile has none, since it is empty and the plan waits for it. */
  #limitOf(rank: number): number {
    const known = this.#members.get(rank)?.bootId;
    return known === this.#linkOf(rank)?.description?.bootId ? this.#bytesPerSecond : 0;
  }

  #part(layers: readonly number[]): PlacementPlan {
    const { plan } = this.#staged;
    return { ...plan, layers: plan.layers.filter(({ layer }) => layers.includes(layer)) };
  }

  #mix(layers: readonly number[]): PlacementPlan | undefined {
    const { plan, tasks } = this.#staged;
    const { parent } = this.#proposal;
    if (tasks.length === 0) return plan;
    if (!parent) return layers.length === plan.layers.length ? plan : undefined;
    if (layers.length === 0) return parent;
    return { ...plan, layers: plan.layers.map((layer, l) => (layers.includes(layer.layer) ? layer : (parent.layers[l] ?? layer))) };
  }

  /**
   * The plan for a process that starts meanwhile. Layers in progress keep the parent's placement, since a source may still route to it;
   * before the epoch is taken all do.
   */
  forJoiners(): PlacementPlan | undefined {
    return this.#run ? this.#mix(this.#run.freeLayers()) : this.#proposal.parent;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** What the rollout is and how far it is; no layer has a phase before the epoch is taken. */
  get progress() {
    const { plan, moves } = this.#staged;
    const run = this.#run;
    const phases = run && new Map(layerPhases.flatMap((phase) => run.inPhase(phase).map((layer) => [layer, phase] as const)));
    return { kind: this.#proposal.kind, moves, phase: this.phase, plan, phases };
  }

  get phase(): "Preparing" | "Committing" | "Releasing" {
    return this.#run?.phase ?? "Preparing";
  }

  get #deadline(): number {
    return this.#run?.deadline ?? this.#startedAt + this.#staged.limits.prepareMs;
  }

  #figures(): { readonly moves: number; readonly bytes: number; readonly durationMs: number } {
    const durationMs = this.#parts.ports.clock.now() - this.#startedAt;
    return { moves: this.#staged.moves, bytes: this.#run?.receivedBytes ?? 0, durationMs };
  }

  report(): PlanReport {
    return planReport(this.#foreseen, {
      phase: this.phase,
      committedEpoch: this.#proposal.parent?.epoch ?? 0,
      layersCommitted: this.#run?.committedLayers().length ?? 0,
      ...(this.#run ? { deadline: new Date(this.#run.deadline).toISOString() } : {}),
    });
  }

  #finalReport({ outcome, epoch }: Figures, layersCommitted: number): PlanReport {
    const settled = outcome.result !== "superseded" && outcome.aborted.length > 0 && layersCommitted > 0;
    return planReport(this.#foreseen, {
      phase: outcome.result === "aborted" ? "Aborted" : "Committed",
      committedEpoch: epoch,
      layersCommitted,
      measured: this.#figures(),
      ...(settled ? { reason: settledReason(outcome) } : {}),
    });
  }
}

export function stoppedError(): AppError {
  return new AppError("the rebalance plane of this deployment was closed", { code: "Stopped", operation: "carrying out a plan" });
}
