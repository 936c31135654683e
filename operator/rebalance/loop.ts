// The loop of one deployment: at every tick it observes once, lets at most one intent act (intents/), and reports. A plan passes these
// functions from the decision to the written status; * marks a return to an earlier file:
//    1 new Rollout        rollout/plan-rollout.ts   7   link.prepare          links/session.ts
//    2 stage              rollout/staging.ts        8 * link.commit           links/session.ts
//    3 nextPlan           rollout/plan-object.ts    9 * placement.ended       rollout/placement.ts
//    4 placement.write    rollout/placement.ts     10 * link.pushPlan         links/session.ts
//    5 store.write        rollout/store.ts         11   load.committed        load/load-state.ts
//    6 new PlanRun        rollout/protocol.ts      12   reporter.report       status/placement-status.ts
// If some layers gave up, the plan goes through 3 to 5 once more. links.tell and links.sync push the placement to pods that start.
import { AppError } from "../../crds/common.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { RebalanceView, World } from "../deployment/ports.ts";
import type { Identity } from "../kube/ask-pod.ts";
import { Attempts, type Step, type StepEnd } from "./intents/attempts.ts";
import type { Intent, Made, Tools } from "./intents/intent.ts";
import { Drains } from "./links/drains.ts";
import { Intake } from "./links/intake.ts";
import { Links } from "./links/links.ts";
import { needsOf, type OverQuota, Quota } from "./links/quota.ts";
import type { LoopPorts } from "./loop-ports.ts";
import { leavingOf, membersOf, ranksOf } from "./members.ts";
import { Observer } from "./observe.ts";
import type { Observed, Why } from "./observed.ts";
import { Placement } from "./rollout/placement.ts";
import { Rollout, stoppedError } from "./rollout/plan-rollout.ts";
import { DecisionEvents } from "./status/decision-events.ts";
import { Reporter } from "./status/placement-status.ts";
import { type PlacementView, placementView } from "./status/placement-view.ts";
import type { LoadView } from "./status/rebalance-metrics.ts";

const tickMs = 200;
const idleTickMs = 1_000;
const ticksPerWindow = 10;
const pokeMs = 100;
/** After a late tick the pause grows by this multiple of the tick's own time, since the process is overloaded. */
const lateFactor = 4;
const latePauseMsMax = 2_000;
const identityMs = 60_000;
const identify: Step = { kind: "identity", cost: "look" };

export class DeploymentLoop {
  readonly #ports: LoopPorts;
  readonly #intents: readonly Intent[];
  readonly #quota: Quota;
  readonly #links: Links;
  readonly #placement: Placement;
  readonly #attempts = new Attempts();
  readonly #intake: Intake;
  readonly #observer: Observer;
  readonly #drains = new Drains();
  readonly #decisions: DecisionEvents;
  readonly #reporter: Reporter;
  #world: World;
  #seen: Observed;
  #identity: { readonly known: Identity; readonly until: number } | undefined;
  #waiting: Why | undefined;
  #working = false;
  #making: { readonly intent: Intent; readonly abort: AbortController } | undefined;
  #rollout: Rollout | undefined;
  #stopped = false;
  #poked = false;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #pauseMs = 0;
  #stopTimer: () => void = () => {};

  constructor(ports: LoopPorts, world: World, intents: readonly Intent[]) {
    const { clock, log, store } = ports;
    this.#ports = ports;
    this.#intents = intents;
    this.#world = world;
    this.#quota = new Quota({ now: () => clock.now(), onOver: (...over) => this.#overQuota(...over) });
    const quota = this.#quota;
    this.#links = new Links(
      ports.openLink,
      { onChange: () => this.#poke(), onLoad: (message) => this.#intake.take(message), quota },
      ports.term,
    );
    this.#placement = new Placement({ store, ref: world.ref, ownerUid: world.uid });
    this.#intake = new Intake({ ...ports, quota });
    const sources = { links: this.#links, intake: this.#intake, placement: this.#placement, attempts: this.#attempts };
    this.#observer = new Observer(sources, clock.now());
    this.#decisions = new DecisionEvents(ports);
    const onGone = () => this.#placement.doubt();
    this.#reporter = new Reporter({ store, clock, log, onGone, onChange: (ref) => ports.onChange(ref) });
    this.#seen = this.#observe();
    this.#schedule(0);
  }

  update(world: World): void {
    this.#world = world;
    this.#poke();
  }

  view(): RebalanceView | undefined {
    return this.#reporter.current;
  }

  load(): LoadView {
    return { load: this.#observer.load?.snapshot(), ageMs: this.#intake.ageMs(this.#world) };
  }

  placement(): PlacementView {
    const known = { status: this.#reporter.placement, expected: this.#observer.load?.expected, rollout: this.#rollout?.progress };
    return placementView(this.#seen, known);
  }

  #poke(): void {
    if (this.#poked || this.#stopped) return;
    this.#poked = true;
    this.#schedule(Math.max(0, this.#lookedAt + pokeMs + this.#pauseMs - this.#ports.clock.now()));
  }

  #schedule(ms: number): void {
    this.#stopTimer();
    const due = this.#ports.clock.now() + ms;
    this.#stopTimer = this.#ports.clock.after(ms, () => {
      this.#poked = false;
      if (this.#stopped) return;
      this.#lookedAt = this.#ports.clock.now();
      this.#pauseMs = Math.min(latePauseMsMax, lateFactor * Math.max(0, this.#lookedAt - due));
      try {
        this.tick();
      } catch (caught) {
        this.#ports.log.error({ err: caught, deployment: this.#world.ref.name }, "rebalance tick failed");
      }
      this.#schedule(this.#pauseMs + (this.#working ? tickMs : nextTickMs(this.#seen)));
    });
  }

  tick(): void {
    const now = this.#ports.clock.now();
    if (!this.#identity || now >= this.#identity.until) this.#act(identify, () => this.#identify());
    if (this.#identity) this.#links.sync(this.#world, this.#identity.known, this.#placement.facts.committed, now);
    const seen = this.#observe();
    this.#attempts.look(seen.members);
    this.#seen = seen;
    if (this.#identity) this.#follow(seen);
    this.#report(seen);
  }

  #observe(): Observed {
    // The operator needs its certificate to call pods.
    const world = this.#identity ? this.#world : { ...this.#world, workers: [] };
    const seen = this.#observer.observe(world, this.#ports.clock.now());
    // A step in progress keeps the facts that it rests on.
    if (!seen.otherModel || this.#working) return seen;
    this.#ports.log.info({ deployment: world.ref.name }, "the workers run another model");
    this.#placement.forget();
    this.#observer.forget();
    return this.#observer.observe(world, this.#ports.clock.now());
  }

  async #identify(): Promise<StepEnd> {
    const { ref, uid } = this.#world;
    this.#identity = { known: await this.#ports.identity(ref, uid), until: this.#ports.clock.now() + identityMs };
    return { end: "done" };
  }

  #follow(seen: Observed): void {
    const { world, spec, views, placement, blocked, now } = seen;
    if (seen.introduced) this.#links.setMembers(membersOf(views), { holdMs: world.holdMs ?? 0 });
    this.#tellJoiners(seen);
    const planned = new Set(ranksOf(placement.committed));
    this.#drains.step({
      views,
      leaving: leavingOf(views, world.leaving),
      // Until the plan was read, every rank may hold the only replica of an expert.
      planned: (rank) => !placement.recovered || planned.has(rank),
      blocked,
      drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
      now,
    });
    this.#quota.follow(needsOf(world, seen.shape));
    this.#intake.listen({ world, expected: seen.expected, load: this.#observer.load });
    for (const { rank, link } of views) link?.wantLoad(!this.#intake.hearsOnNats(rank, now, seen.telemetry.staleAfterMs));
    if (!this.#working) this.#decide(seen);
    else if (this.#making && this.#overtaken(seen, this.#making.intent)) this.#making.abort.abort();
  }

  #overQuota(result: OverQuota, first: boolean): void {
    const { namespace, name: deployment } = this.#world.ref;
    this.#ports.metrics.add("enodia_answers_over_quota_total", 1, { namespace, deployment, result });
    if (first) this.#ports.log.warn({ namespace, deployment }, "pods send more than the quota of their deployment; it waits or is dropped");
  }

  #tellJoiners(seen: Observed): void {
    const rollout = this.#rollout;
    rollout?.follow(seen);
    const { joined, lost } = this.#links.tell(seen, rollout ? rollout.forJoiners() : seen.plan);
    for (const { rank, bootId } of joined) rollout?.joined(rank, bootId);
    for (const rank of lost) rollout?.lost(rank);
  }

  #decide(seen: Observed): void {
    if (suspended(seen)) {
      this.#waiting = { reason: "Suspended", message: "no ranks are wanted" };
      return;
    }
    // The load means nothing until the placement is known.
    const { recovered } = seen.placement;
    const closed = recovered && (this.#observer.load?.closeIfDue(seen, seen.now) ?? false);
    const { intent, wait } = chooseIntent(seen, this.#intents, closed);
    if (recovered) this.#waiting = wait ?? (intent && seen.paused.get(intent.kind));
    if (intent) this.#act(intent, () => this.#pursue(intent, seen));
  }

  /** True when an intent is due that comes before the plan in progress. */
  #overtaken(seen: Observed, made: Intent): boolean {
    const before = this.#intents.slice(0, this.#intents.indexOf(made));
    return suspended(seen) || chooseIntent(seen, before, false).intent !== undefined;
  }

  #act(step: Step, run: () => Promise<StepEnd>): void {
    const { members } = this.#seen;
    if (this.#working || !this.#attempts.mayTry(step.kind, members, this.#ports.clock.now())) return;
    this.#working = true;
    const ended = (end: StepEnd): void => {
      this.#working = false;
      this.#attempts.record(step, members, end, this.#ports.clock.now());
      if (end.end === "failed" || end.end === "wait") this.#waiting = end.why;
    };
    run().then(ended, (caught) => {
      const error = AppError.from(caught);
      ended({ end: "failed", why: { reason: error.code, message: error.message } });
      if (!this.#stopped) this.#ports.log.warn({ err: error, deployment: this.#world.ref.name, step: step.kind }, "rebalance step failed");
    });
  }

  async #pursue(intent: Intent, seen: Observed): Promise<StepEnd> {
    const { namespace, name } = seen.world.ref;
    const attributes = { "enodia.namespace": namespace, "enodia.deployment": name };
    const span = this.#ports.tracing.start(`operator.${intent.kind}`, { attributes });
    try {
      const end = await this.#attempt(intent, seen, span.traceparent);
      span.set({ "enodia.end": end.end });
      return end;
    } catch (caught) {
      span.fail(caught);
      throw caught;
    } finally {
      span.end();
    }
  }

  async #attempt(intent: Intent, seen: Observed, trace: string): Promise<StepEnd> {
    const abort = new AbortController();
    this.#making = { intent, abort };
    let made: Made;
    try {
      const making = intent.make(seen, this.#tools(trace, abort.signal));
      made = making instanceof Promise ? await making : making;
    } catch (caught) {
      if (intent.cost === "plan") this.#observer.load?.failed(this.#decisions.failed(intent.kind, caught, seen.world));
      throw caught;
    } finally {
      this.#making = undefined;
    }
    if ("end" in made) return made;
    if (this.#stopped) throw stoppedError();
    const parts = { ports: this.#ports, trace, placement: this.#placement, links: this.#links, load: () => this.#observer.load };
    this.#rollout = new Rollout({ ...parts, onProgress: () => this.#poke() }, made, this.#seen);
    try {
      const why = await this.#rollout.run();
      if (why) return { end: "failed", why };
      return { end: made.once ? "settled" : "done" };
    } finally {
      this.#rollout = undefined;
    }
  }

  #tools(trace: string, signal: AbortSignal): Tools {
    const observer = this.#observer;
    return {
      ports: this.#ports,
      placement: this.#placement,
      links: this.#links,
      get load() {
        return observer.load;
      },
      decisions: this.#decisions,
      latest: () => this.#seen,
      trace,
      signal,
    };
  }

  #report(seen: Observed): void {
    const rollout = this.#rollout;
    this.#reporter.report(seen, {
      drains: this.#drains.view({ leaving: leavingOf(seen.views, seen.world.leaving), blocked: seen.blocked }),
      rollout: rollout?.progress,
      report: rollout?.report(),
      load: this.#observer.load?.snapshot(),
      waiting: this.#waiting,
      recommended: this.#decisions.recommended,
    });
  }

  close(): void {
    this.#stopped = true;
    this.#stopTimer();
    this.#rollout?.stop();
    this.#making?.abort.abort();
    this.#intake.close();
    this.#links.close();
  }
}

function nextTickMs({ views, world, placement, synced, introduced, spec }: Observed): number {
  const settled = introduced && placement.recovered && synced && world.leaving.length === 0;
  if (!settled || views.some(({ state, leaving }) => state !== "active" || leaving !== undefined)) return tickMs;
  const windowMs = parseDuration(spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window");
  return Math.min(idleTickMs, Math.max(tickMs, windowMs / ticksPerWindow));
}

export function suspended({ spec, world }: Observed): boolean {
  return spec.suspend || world.desiredRanks === 0;
}

interface Choice {
  readonly intent?: Intent;
  /** Why nothing acts, if there is a reason. */
  readonly wait?: Why;
}

export function chooseIntent(seen: Observed, intents: readonly Intent[], windowClosed: boolean): Choice {
  let wait: Why | undefined;
  for (const intent of intents) {
    const wanted = intent.wanted(seen);
    if (typeof wanted === "object") return { wait: wanted };
    if (!wanted) continue;
    if (intent.holdsUpOthers || !seen.paused.has(intent.kind)) {
      if (windowClosed || !intent.onWindow) return { intent };
      // It only waits for load, so later intents may act.
      wait = undefined;
      continue;
    }
    // It pauses after a failure or is settled, and does not block later intents.
    wait = seen.paused.get(intent.kind);
  }
  return wait ? { wait } : {};
}
