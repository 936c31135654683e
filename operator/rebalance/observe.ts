// The observer gathers cluster, links, load, placement and attempts into one value (observed.ts) at every tick, and stores what only
// shows over time.
import type { PlacementPlan } from "../../crds/plan.ts";
import { parseDuration } from "../../crds/quantity.ts";
import type { World } from "../deployment/ports.ts";
import { atRisk, belowFloor } from "../planner/expert-replicas.ts";
import type { ModelShape, RankSpec } from "../planner/policy.ts";
import { servedBudgets } from "../planner/served.ts";
import type { Attempts } from "./intents/attempts.ts";
import type { Intake } from "./links/intake.ts";
import type { Links } from "./links/links.ts";
import { SignalWindows } from "./links/signals.ts";
import { LoadState } from "./load/load-state.ts";
import {
  agreedModel,
  currentByRank,
  everybodyDescribed,
  lostAfterMs,
  type Model,
  majorityDigest,
  memberKey,
  podsOf,
  rankSpecs,
  ranksOf,
  rankViews,
  speedRanks,
  uniqueBytes,
} from "./members.ts";
import type { Observed, RankView, Unheld } from "./observed.ts";
import type { Placement } from "./rollout/placement.ts";

export interface Sources {
  readonly links: Pick<Links, "worker" | "gateways">;
  readonly intake: Pick<Intake, "facts">;
  readonly placement: Pick<Placement, "facts">;
  readonly attempts: Pick<Attempts, "paused" | "blocked">;
}

export class Observer {
  readonly #sources: Sources;
  readonly #startedAt: number;
  #model: Model | undefined;
  #shape: ModelShape | undefined;
  #load: LoadState | undefined;
  readonly #usableAt = new Map<number, number>();
  readonly #signals = new SignalWindows();
  #describedAt: number | undefined;
  #introduced = false;
  #risk: { readonly plan: PlacementPlan; readonly key: string; readonly count: number } | undefined;
  #counted: { readonly plan: PlacementPlan; readonly key: string; readonly below: number } | undefined;

  constructor(sources: Sources, startedAt: number) {
    this.#sources = sources;
    this.#startedAt = startedAt;
  }

  get load(): LoadState | undefined {
    return this.#load;
  }

  observe(world: World, now: number): Observed {
    const { links, placement, intake, attempts } = this.#sources;
    const views = this.#views(world, now);
    const otherModel = this.#modelChanged(views);
    this.#remember(views, world, now);
    const { committed: plan } = placement.facts;
    const members = memberKey(views);
    const described = rankSpecs(views, plan, this.#load?.speeds);
    const isAllowed = world.spec.experts.oversubscription === "Allow";
    const ranks = isAllowed && this.#shape ? servedBudgets(this.#shape, described) : described;
    const expected = expectedOf(views, ranks);
    const staleAfterMs = parseDuration(world.spec.telemetry.staleAfter, "spec.telemetry.staleAfter");
    const seen: Omit<Observed, "belowFloor"> = {
      now,
      world,
      spec: world.spec,
      views,
      gateways: links.gateways(world.gateways, now),
      members,
      ranks,
      hardware: speedRanks(views),
      signals: this.#signals.look(views, now),
      expected,
      shape: this.#shape,
      topK: views.find(({ usable }) => usable)?.report?.description?.topK ?? 0,
      otherModel,
      placement: placement.facts,
      plan,
      synced: plan !== undefined && views.every((view) => !view.usable || (view.report?.status?.epoch ?? 0) >= plan.epoch),
      unheld: unheld(plan, views),
      expertsAtRisk: plan ? this.#atRisk(plan, ranks) : 0,
      uniqueBytes: plan && this.#shape ? uniqueBytes(plan, usableRanks(views), this.#shape.residentBytes) : new Map(),
      telemetry: intake.facts({ world, expected, load: this.#load }, now, staleAfterMs),
      introduced: this.#introduced,
      waitedMs: now - (this.#describedAt ?? now),
      usableAt: new Map(this.#usableAt),
      startedAt: this.#startedAt,
      gone: this.#gone(plan, views, now),
      paused: attempts.paused(members, now),
      blocked: attempts.blocked(members),
    };
    return Object.freeze({ ...seen, belowFloor: this.#belowFloor(seen) });
  }

  #views(world: World, now: number): RankView[] {
    const { links, placement } = this.#sources;
    const link = (uid: string) => links.worker(uid);
    const digest = placement.facts.committed?.modelDigest ?? majorityDigest(world.workers.map(({ uid }) => link(uid)));
    return rankViews({ workers: world.workers, leaving: world.leaving, link, digest, roles: world.spec.roles, now });
  }

  /** True when the model or codec has changed and no process of the old one is left. */
  #modelChanged(views: readonly RankView[]): boolean {
    const { stored, committed } = this.#sources.placement.facts;
    const agreed = agreedModel(views, podsOf(stored));
    if (!agreed || !this.#model) return false;
    return agreed.digest !== (committed?.modelDigest ?? this.#model.digest) || agreed.codec !== this.#model.codec;
  }

  /** The workers run another model, so all observations are void. */
  forget(): void {
    this.#model = undefined;
    this.#shape = undefined;
    this.#load = undefined;
    this.#usableAt.clear();
    this.#describedAt = undefined;
  }

  #remember(views: readonly RankView[], { uid }: World, now: number): void {
    for (const { rank, usable, report } of views) {
      if (!usable) continue;
      this.#usableAt.set(rank, now);
      this.#describedAt ??= now;
      const { description } = report ?? {};
      if (!description || this.#model?.digest === description.modelDigest) continue;
      const { modelDigest: digest, codec, layers, experts, layerExperts, residentBytes, storedBytes } = description;
      this.#model = { digest, codec };
      this.#shape = { layers, experts, layerExperts, residentBytes, storedBytes };
      this.#load = new LoadState(this.#shape, uid, now);
    }
    // A new leader waits for all workers: a membership of the fastest would cut off the others.
    const triedAt = Math.max(this.#startedAt, ...views.map(({ report }) => report?.triedAt ?? 0));
    this.#introduced ||= everybodyDescribed(views) || now - triedAt > lostAfterMs;
  }

  /**
   * Ranks of the plan without a usable process for longer than the grace period, counted from when it was last heard; at the start,
   * from the first attempt to connect.
   */
  #gone(plan: PlacementPlan | undefined, views: readonly RankView[], now: number): Set<number> {
    const reports = new Map(currentByRank(views).map(({ rank, report }) => [rank, report]));
    const since = (rank: number): number => {
      const [usableAt, report] = [this.#usableAt.get(rank), reports.get(rank)];
      if (usableAt !== undefined) return Math.min(usableAt, report?.downSince ?? usableAt);
      return Math.max(this.#startedAt, report?.triedAt ?? 0) + lostAfterMs;
    };
    return new Set(ranksOf(plan).filter((rank) => now - since(rank) > lostAfterMs));
  }

  /** Cached until the plan, a rank or its node changes, since a large plan has thousands of experts. */
  #atRisk(plan: PlacementPlan, ranks: readonly RankSpec[]): number {
    const key = ranks.map(({ rank, state, zone, node }) => `${rank} ${state === "dead"} ${zone}/${node}`).join();
    if (this.#risk?.plan !== plan || this.#risk.key !== key) this.#risk = { plan, key, count: atRisk(ranks, plan.layers) };
    return this.#risk.count;
  }

  #belowFloor(seen: Omit<Observed, "belowFloor">): number {
    const { plan, members, spec } = seen;
    if (!plan || !this.#load || spec.experts.minExpertReplicas <= 1) return 0;
    const key = `${members} ${spec.experts.minExpertReplicas}`;
    if (this.#counted?.plan !== plan || this.#counted.key !== key)
      this.#counted = { plan, key, below: belowFloor(this.#load.input(seen), plan.layers) };
    return this.#counted.below;
  }
}

function usableRanks(views: readonly RankView[]): Set<number> {
  return new Set(views.filter((view) => view.usable).map((view) => view.rank));
}

function expectedOf(views: readonly RankView[], ranks: readonly RankSpec[]): Observed["expected"] {
  const speeds = new Map(ranks.map(({ rank, speed }) => [rank, speed]));
  return views
    .filter((view) => view.usable && view.leaving === undefined && !view.pod.terminating)
    .map(({ rank, report }) => ({
      rank,
      bootId: report?.description?.bootId ?? "",
      clockAheadMs: report?.clockAheadMs,
      speed: speeds.get(rank) ?? 1,
    }));
}

export function unheld(plan: PlacementPlan | undefined, views: readonly RankView[]): Unheld {
  const usable = new Map<number, Holder>();
  for (const view of views) if (view.usable) usable.set(view.rank, holderOf(view));
  // The common case at every tick, decided by ranks alone.
  if (ranksOf(plan).every((rank) => usable.get(rank) === holdsAll)) return { unhosted: 0, withoutRank: 0, loading: [] };
  const loading = new Set<number>();
  let withoutRank = 0;
  let waiting = 0;
  for (const [l, layer] of (plan?.layers ?? []).entries()) {
    for (const [e, hosts] of layer.hosts.entries()) {
      if (hosts.some((rank) => usable.get(rank)?.(l, e))) continue;
      const there = hosts.filter((rank) => usable.has(rank));
      if (there.length === 0) withoutRank++;
      else waiting++;
      for (const rank of there) loading.add(rank);
    }
  }
  return { unhosted: withoutRank + waiting, withoutRank, loading: [...loading].sort((a, b) => a - b) };
}

type Holder = (layer: number, expert: number) => boolean;
const holdsAll: Holder = () => true;

function holderOf({ report }: RankView): Holder {
  // A worker is ready once it has held all that the plan gave it. Its report may be older than the commit.
  if (report?.status?.ready && report.status.epoch > 0) return holdsAll;
  if (!report) return () => false;
  const held = holders.get(report.hosted) ?? heldIn(report);
  holders.set(report.hosted, held);
  return held;
}

/** Every tick asks, and a link replaces its map when the rank reports another. */
const holders = new WeakMap<object, Holder>();

function heldIn({ hosted, description }: NonNullable<RankView["report"]>): Holder {
  const { layers = 0, experts: width = 0 } = description ?? {};
  const held = new Uint8Array(layers * width);
  for (const [layer, { experts }] of hosted) for (const expert of experts) held[layer * width + expert] = 1;
  return (layer, expert) => held[layer * width + expert] === 1;
}
