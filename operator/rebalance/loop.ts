// The loop of one deployment: at every tick it observes once, lets at most one intent act, and reports. The controller makes one per
// deployment. It has no rule of its own on what to plan (intents/) or on how a plan is carried out (rollout/).
//
// A plan on its way from the decision to the written status, by the functions of this folder that its value (proposal, layers, stored
// form) is passed to; arithmetic of planner/ and runtime/placement/ aside. * = back in a file that was left before: 12 stops, 3 returns.
//    1 new Rollout        rollout/rollout.ts        7   link.prepare          links/session.ts
//    2 stage              rollout/staging.ts        8 * link.commit           links/session.ts
//    3 nextPlan           rollout/plan-object.ts    9 * placement.ended       rollout/placement.ts
//    4 placement.write    rollout/placement.ts     10 * link.pushPlan         links/session.ts
//    5 store.write        rollout/store.ts         11   load.committed        load/load-state.ts
//    6 new PlanRun        rollout/protocol.ts      12   reporter.report       status/reporter.ts
// The reporter hands on what the plan says of itself in figures and words, no plan: to placementStatus and offer (both of
// status/placement-status.ts), store.writeStatus, and rebalanceView (status/view.ts). Beside this way, a plan that some layers gave up
// goes through 3, 4 and 5 once more (#settle in rollout/rollout.ts), and links.tell and links.sync push what holds to who comes up.

import { AppError } from "../../crds/common.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { RebalanceView, World } from "../deployment/ports.ts";
import type { Identity } from "../kube/ask-pod.ts";
import { Attempts, type Step, type StepEnd } from "./intents/attempts.ts";
import { chooseIntent, suspended } from "./intents/choose.ts";
import type { Intent, Made, Tools } from "./intents/intent.ts";
import { Drains } from "./links/drains.ts";
import { Intake } from "./links/intake.ts";
import { Links } from "./links/links.ts";
import type { LoopPorts } from "./loop-ports.ts";
import { leavingOf, membersOf, ranksOf } from "./members.ts";
import { Observer } from "./observe.ts";
import type { Observed, Why } from "./observed.ts";
import { Placement } from "./rollout/placement.ts";
import { Rollout, stoppedError } from "./rollout/rollout.ts";
import { DecisionEvents } from "./status/decision-events.ts";
import type { LoadView } from "./status/metrics.ts";
import { type PlacementPicture, placementPicture } from "./status/picture.ts";
import { Reporter } from "./status/reporter.ts";

/** The time to the next look while something is under way or amiss. */
const tickMs = 200;
/** The same while all is well: then a window of load ends, at most, and what comes from pods asks for a look by itself. */
const idleTickMs = 1_000;
const ticksPerWindow = 10;
/** The least time between two looks; all that happens meanwhile is seen in one look. */
const pokeMs = 100;
/** A look that comes late is one of too many for this process: the next one waits this many times as long beside its own time. */
const lateFactor = 4;
/** But no longer than this. */
const latePauseMsMax = 2_000;
/** The operator's certificate is asked for anew this often: pods have new ones soon after the CA has changed. */
const identityMs = 60_000;
const identify: Step = { kind: "identity", cost: "look" };

export class DeploymentLoop {
  readonly #ports: LoopPorts;
  readonly #intents: readonly Intent[];
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
  /** The intent whose plan is being made; nothing of it is written yet. */
  #making: { readonly intent: Intent; readonly abort: AbortController } | undefined;
  #rollout: Rollout | undefined;
  #stopped = false;
  #poked = false;
  #lookedAt = Number.NEGATIVE_INFINITY;
  /** Milliseconds that looks are farther apart, as the last one was late. */
  #pauseMs = 0;
  #stopTimer: () => void = () => {};

  constructor(ports: LoopPorts, world: World, intents: readonly Intent[]) {
    const { clock, log, store } = ports;
    this.#ports = ports;
    this.#intents = intents;
    this.#world = world;
    this.#links = new Links(ports.openLink, () => this.#poke());
    this.#placement = new Placement({ store, ref: world.ref, ownerUid: world.uid });
    this.#intake = new Intake(ports);
    const sources = { links: this.#links, intake: this.#intake, placement: this.#placement, attempts: this.#attempts };
    this.#observer = new Observer(sources, clock.now());
    this.#decisions = new DecisionEvents(ports);
    const onGone = () => this.#placement.doubt(); // it is made again from what workers hold
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

  /** The load as it is known now, for gauges. */
  load(): LoadView {
    return { load: this.#observer.load?.snapshot(), ageMs: this.#intake.ageMs(this.#world) };
  }

  /** All that is known of the placement at this moment, for people who look on. */
  picture(): PlacementPicture {
    const known = { status: this.#reporter.placement, expected: this.#observer.load?.expected, rollout: this.#rollout?.progress };
    return placementPicture(this.#seen, known);
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

  /** One look; the loop's own timer calls it. */
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
    // Until the operator has its certificate no pod can be asked.
    const world = this.#identity ? this.#world : { ...this.#world, workers: [] };
    const seen = this.#observer.observe(world, this.#ports.clock.now());
    // What a step under way rests on is not taken from under it.
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
      // Until the plan was read every rank may hold the only expert replica of something.
      planned: (rank) => !placement.recovered || planned.has(rank),
      blocked,
      drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
      now,
    });
    this.#intake.listen({ world, expected: seen.expected, load: this.#observer.load });
    if (!this.#working) this.#decide(seen);
    else if (this.#making && this.#overtaken(seen, this.#making.intent)) this.#making.abort.abort();
  }

  /** Processes that have come up hear what holds, and a plan under way hears of them. */
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
    // The load means nothing until what holds is known, and the intent that finds it out says itself what it waits for.
    const { recovered } = seen.placement;
    const closed = recovered && (this.#observer.load?.closeIfDue(seen, seen.now) ?? false);
    const { intent, wait } = chooseIntent(seen, this.#intents, closed);
    if (recovered) this.#waiting = wait ?? (intent && seen.paused.get(intent.kind));
    if (intent) this.#act(intent, () => this.#pursue(intent, seen));
  }

  /** True when something is wanted by now that comes before the plan that is being made. */
  #overtaken(seen: Observed, made: Intent): boolean {
    const before = this.#intents.slice(0, this.#intents.indexOf(made));
    // No window closes while a step is under way.
    return suspended(seen) || chooseIntent(seen, before, false).intent !== undefined;
  }

  /** Runs one step, unless it has to wait for its next time; no other starts meanwhile. */
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

  /** One attempt of an intent is one trace: the making of its plan, and the rollout with every call to a rank. */
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
      // No wait where there is none: the report of this tick shows the plan.
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

  /** Nothing is written or pushed from here on. */
  close(): void {
    this.#stopped = true;
    this.#stopTimer();
    this.#rollout?.stop();
    this.#making?.abort.abort();
    this.#intake.close();
    this.#links.close();
  }
}

/** Milliseconds after which to look again unasked. */
function nextTickMs({ views, world, placement, synced, introduced, spec }: Observed): number {
  const settled = introduced && placement.recovered && synced && world.leaving.length === 0;
  if (!settled || views.some(({ state, leaving }) => state !== "active" || leaving !== undefined)) return tickMs;
  const windowMs = parseDuration(spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window");
  return Math.min(idleTickMs, Math.max(tickMs, windowMs / ticksPerWindow));
}
