// Carries out one plan at a time and knows what holds: the stored object, the committed plan, what the last plan came to.
// Which plan, and when, is decided in steps.ts and loop.ts.
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import type { RebalanceView } from "../../deployment/ports.ts";
import type { PlanInput } from "../../planner/policy.ts";
import type { StepEnd } from "../intents/attempts.ts";
import type { Links } from "../links/links.ts";
import { type BalanceFacts, transferLimit } from "../links/load-picture.ts";
import { planMembers } from "../links/members.ts";
import type { LoopPorts, Observed } from "../loop-ports.ts";
import type { Link, StoredPlacement } from "../ports.ts";
import type { PlanReport } from "../status/placement-status.ts";
import type { Boots } from "./boots.ts";
import { Rollout, type RolloutPlan, type RolloutResult, stoppedError } from "./rollout.ts";

/** Moves for balance and for more safety are limited: the others are waited for. */
const limitedKinds: readonly string[] = ["balance", "protect", "resume"];
const limited = (kind: string, parent: PlacementPlan | undefined): boolean => limitedKinds.includes(kind) && parent !== undefined;

export interface Wanted {
  readonly kind: string;
  readonly layers: readonly LayerPlan[];
  readonly reason: string;
  readonly predicted?: NonNullable<RolloutPlan["predicted"]>;
  readonly parent: PlacementPlan | undefined;
  /** The stored plan is gone on with; these layers somebody may have committed. */
  readonly resume?: { readonly plan: PlacementPlan; readonly committed: ReadonlySet<number> };
  /** What a plan that moves experts was made from. */
  readonly input?: PlanInput;
}

export interface CarrierParts {
  readonly ports: LoopPorts;
  readonly seen: Observed;
  readonly links: Links;
  readonly boots: Boots;
  readonly poke: () => void;
}

export class Carrier {
  stored: StoredPlacement | undefined;
  committed: PlacementPlan | undefined;
  /** Whether `stored` and `committed` are what holds; else it is found out anew. */
  recovered = false;
  running: { readonly kind: string; readonly rollout: Rollout } | undefined;
  lastRebalance: NonNullable<RebalanceView["placement"]>["lastRebalance"];
  /** What the last plan said of itself when it ended. */
  lastReport: PlanReport | undefined;
  private stopped = false;
  private readonly parts: CarrierParts;

  constructor(parts: CarrierParts) {
    this.parts = parts;
  }

  async run(wanted: Wanted, facts: BalanceFacts): Promise<StepEnd> {
    if (this.stopped) throw stoppedError();
    const { ports, seen, boots } = this.parts;
    const { ref } = seen.world;
    const rollout = this.rollout(wanted, facts);
    if (wanted.kind !== "rewrite" && wanted.kind !== "first" && rollout.moves > 0) {
      const text = `epoch ${rollout.plan.epoch}, ${rollout.moves} moves: ${wanted.reason}`;
      ports.event(seen.world, "Normal", "RebalanceStarted", text);
    }
    if (!wanted.resume) this.abortLeftovers(rollout.plan.epoch);
    boots.begin(rollout.members);
    this.running = { kind: wanted.kind, rollout };
    ports.onRollout(ref, { deadlineMs: rollout.deadline }, undefined);
    let result: RolloutResult | undefined;
    try {
      result = await rollout.carryOut(this.stored, wanted.resume !== undefined);
      return this.finish(wanted, result);
    } catch (caught) {
      // Written or not, pushed or not: what holds is found out anew.
      this.recovered = false;
      throw caught;
    } finally {
      this.running = undefined;
      if (!this.stopped) ports.onRollout(ref, undefined, { kind: wanted.kind, result });
    }
  }

  private rollout(wanted: Wanted, facts: BalanceFacts): Rollout {
    const { ports, seen, poke } = this.parts;
    const { ref, uid } = seen.world;
    const { parent } = wanted;
    const epoch = Math.max(this.stored?.spec.epoch ?? 0, this.committed?.epoch ?? 0) + 1;
    const modelDigest = seen.views.find((view) => view.usable)?.link?.description?.modelDigest ?? parent?.modelDigest ?? "";
    return new Rollout(
      {
        ref,
        ownerUid: uid,
        store: ports.store,
        clock: ports.clock,
        link: (rank) => this.linkOf(rank),
        bytesPerSecond: limited(wanted.kind, parent) ? transferLimit(facts.spec) : 0,
        onFetched: (rank, fetched) => seen.balance?.rates.add(facts.ranks, rank, fetched, ports.clock.now()),
        onProgress: poke,
      },
      parent,
      {
        layers: wanted.layers,
        reason: wanted.reason,
        members: planMembers(seen.views),
        shape: facts.shape,
        allAtOnce: parent === undefined,
        ...(wanted.predicted ? { predicted: wanted.predicted } : {}),
      },
      { epoch, deploymentUid: uid, modelDigest },
      wanted.resume,
    );
  }

  /**
   * An Abort that did not arrive leaves prepared copies on a worker, beside which the next plan's may not fit. Preparations of
   * the two epochs before (a plan, and what settled it) are void by now; nobody waits for the answers.
   */
  private abortLeftovers(epoch: number): void {
    for (const view of this.parts.seen.views) {
      if (!view.usable) continue;
      for (const old of [epoch - 2, epoch - 1]) if (old > 0) void view.link?.abort(old, []).catch(() => {});
    }
  }

  private linkOf(rank: number): Link | undefined {
    return this.parts.seen.views.find((view) => view.rank === rank && view.usable)?.link;
  }

  private finish(wanted: Wanted, result: RolloutResult): StepEnd {
    const { ports, seen, links } = this.parts;
    const { outcome } = result;
    this.stored = result.stored;
    this.lastReport = result.report;
    if (outcome.result === "superseded") {
      this.recovered = false;
      ports.log.warn({ deployment: seen.world.ref.name, epoch: outcome.epoch }, "another leader has a newer plan");
      return { end: "done" };
    }
    if (result.committed) {
      this.committed = result.committed;
      links.pushPlan(result.committed);
    }
    const now = ports.clock.now();
    const { imbalancePercent } = seen.world.spec.rebalancing.trigger;
    if (wanted.input && result.committed) seen.balance?.committed(wanted.input, result.committed.layers, now, imbalancePercent);
    else seen.balance?.restart(now);
    if (wanted.kind !== "first" && wanted.kind !== "rewrite" && result.moves > 0) this.lastRebalance = summary(wanted, result, now);
    const { reason, message } = words(wanted, result);
    const failed = outcome.aborted.length > 0;
    ports.event(seen.world, failed ? "Warning" : "Normal", reason, message);
    return failed ? { end: "failed", why: { reason, message } } : { end: "done" };
  }

  /** The world runs another model: nothing of the old one holds. The object stays known, since epochs go on from it. */
  forget(): void {
    this.committed = undefined;
    this.lastReport = undefined;
    this.parts.links.forgetPlan();
  }

  /** Nothing is written or pushed from here on. */
  stop(): void {
    this.stopped = true;
    this.running?.rollout.stop();
  }
}

function summary(wanted: Wanted, result: RolloutResult, now: number): NonNullable<Carrier["lastRebalance"]> {
  const { outcome } = result;
  const { predicted } = wanted;
  return {
    time: new Date(now).toISOString(),
    result:
      outcome.result === "aborted"
        ? "Aborted"
        : outcome.result === "committed" && outcome.aborted.length > 0
          ? "PartlyCommitted"
          : "Committed",
    moves: result.moves,
    bytes: result.bytes,
    durationMs: Math.round(result.durationMs),
    ...(predicted
      ? { imbalanceBeforePercent: Math.round(predicted.before * 100), imbalanceAfterPercent: Math.round(predicted.after * 100) }
      : {}),
  };
}

/** What the event says of a plan that has ended. */
function words(wanted: Wanted, result: RolloutResult): { reason: string; message: string } {
  const { outcome } = result;
  const aborted = outcome.result === "superseded" ? [] : outcome.aborted;
  const late = outcome.result === "committed" ? outcome.unreleased : [];
  const [first] = aborted;
  const [behind] = late;
  const text = first
    ? `${aborted.length} layers kept their parent: layer ${first.layer}: ${first.reason}`
    : `${result.moves} moves, ${result.bytes} bytes in ${Math.round(result.durationMs)} ms`;
  const rest = behind ? `; ${late.length} layers are not released: layer ${behind.layer}: ${behind.reason}` : "";
  return {
    reason: outcome.result === "aborted" ? "RebalanceAborted" : "PlacementCommitted",
    message: `${wanted.kind}, epoch ${result.committed?.epoch ?? 0}: ${text}${rest}`,
  };
}
