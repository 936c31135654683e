// The members of a deployment: worker pods as Kubernetes reports them, joined with their links' state. observe.ts derives
// them once per tick.
import type { PlacementPlan } from "../../crds/plan.ts";
import { type Roles, rolesOf } from "../../crds/roles.ts";
import type { LeavingRank, WorkerPod } from "../deployment/ports.ts";
import type { SpeedRank, Speeds } from "../planner/load/speeds.ts";
import type { RankSpec } from "../planner/policy.ts";
import type { RankView } from "./observed.ts";
import type { Link, Member, MemberState, PlanMember, StoredPlacement } from "./ports.ts";

/** A rank is lost when its Control stream has failed for this long. */
export const lostAfterMs = 5_000;
/** Initial speeds within this factor of the median count as measurement noise. */
const speedNoise = 1.3;

export interface MembersInput {
  readonly workers: readonly WorkerPod[];
  readonly leaving: readonly LeavingRank[];
  readonly link: (podUid: string) => Link | undefined;
  readonly digest: string | undefined;
  readonly roles?: Roles | undefined;
  readonly now: number;
}

export function rankViews(input: MembersInput): RankView[] {
  const views = input.workers.map((pod): RankView => {
    const link = input.link(pod.uid);
    const report = link && reportOf(link);
    // A node that shuts down ends its pods without notice to the API server.
    const evicted = report?.status?.leaving ? { rank: pod.rank, podUid: pod.uid, reason: "Evict" as const } : undefined;
    const leaving = input.leaving.find((rank) => rank.podUid === pod.uid) ?? evicted;
    const described = report?.description;
    const connected = described !== undefined && report?.downSince === undefined;
    const down = described !== undefined && report?.downSince !== undefined && input.now - report.downSince > lostAfterMs;
    const lost = pod.lost || down;
    const mismatch = described !== undefined && input.digest !== undefined && described.modelDigest !== input.digest;
    const usable = connected && !pod.lost && !mismatch;
    return {
      rank: pod.rank,
      pod,
      link,
      report,
      leaving,
      usable,
      lost,
      mismatch,
      state: stateOf({ lost, leaving: leaving !== undefined || pod.terminating, report, usable }),
    };
  });
  return input.roles === undefined ? views : withRoles(views, input.roles);
}

function withRoles(views: readonly RankView[], spec: Roles): RankView[] {
  const serving = views.filter(({ state }) => state === "active").map(({ rank }) => rank);
  const roles = rolesOf(spec, [...new Set(serving)]);
  return views.map((view) => (view.state === "active" ? { ...view, role: roles.get(view.rank) ?? "both" } : view));
}

export function leavingOf(views: readonly RankView[], leaving: readonly LeavingRank[]): LeavingRank[] {
  const own = views.flatMap((view) => (view.leaving && !leaving.some(({ podUid }) => podUid === view.pod.uid) ? [view.leaving] : []));
  return [...leaving, ...own];
}

/** A copy of the link's facts, since the link goes on changing. */
function reportOf(link: Link): NonNullable<RankView["report"]> {
  const { address, description, status, hosted, triedAt, downSince, lastError, clockAheadMs } = link;
  return { address, description, status, hosted, triedAt, downSince, lastError, clockAheadMs };
}

function stateOf(view: Pick<RankView, "lost" | "report" | "usable"> & { readonly leaving: boolean }): MemberState {
  if (view.lost) return "lost";
  if (view.leaving) return "draining";
  const status = view.report?.status;
  return view.usable && status !== undefined && status.epoch > 0 && status.ready ? "active" : "joining";
}

/** One pod per rank: a usable one first, then one that is not terminating, then one that is not lost. */
export function currentByRank(views: readonly RankView[]): RankView[] {
  const byRank = new Map<number, RankView>();
  for (const view of views) {
    const other = byRank.get(view.rank);
    if (!other || score(view) >= score(other)) byRank.set(view.rank, view);
  }
  return [...byRank.values()].sort((a, b) => a.rank - b.rank);
}

export function membersOf(views: readonly RankView[]): Member[] {
  return currentByRank(views)
    .filter((view) => view.report?.description !== undefined)
    .map((view) => ({
      rank: view.rank,
      podName: view.pod.name,
      podUid: view.pod.uid,
      bootId: view.report?.description?.bootId ?? "",
      address: view.report?.address ?? "",
      state: view.state,
      numerics: view.report?.description?.numerics ?? "",
      textDigest: view.report?.description?.textDigest ?? "",
      ...(view.pod.zone ? { zone: view.pod.zone } : {}),
      ...(view.role === undefined || view.role === "both" ? {} : { role: view.role }),
    }));
}

export function planMembers(views: readonly RankView[], ranks: readonly RankSpec[]): Map<number, PlanMember> {
  // What a rank serves beyond its memory lies on its disk, so that memory orders no layers.
  const budgets = new Map(ranks.map(({ rank, budgetBytes, memoryBytes }) => [rank, memoryBytes === undefined ? budgetBytes : Infinity]));
  const usable = views.filter((view) => view.usable);
  return new Map(
    usable.map(({ rank, pod, report }): [number, PlanMember] => [
      rank,
      {
        bootId: report?.description?.bootId ?? "",
        podName: pod.name,
        podUid: pod.uid,
        budgetBytes: budgets.get(rank) ?? 0,
        held: report?.hosted ?? new Map(),
      },
    ]),
  );
}

/** A key that changes with every process that comes, goes or is to leave. */
export function memberKey(views: readonly RankView[]): string {
  return views
    .map((view) => `${view.rank}:${view.report?.description?.bootId ?? "-"}:${view.usable ? 1 : 0}:${view.leaving?.reason ?? ""}`)
    .join(",");
}

export interface Model {
  readonly digest: string;
  readonly codec: string;
}

/**
 * The model that all worker processes run; undefined while two differ, or while a pod in `planned` has not reported. Pods on
 * silent nodes do not count.
 */
export function agreedModel(views: readonly RankView[], planned: ReadonlySet<string>): Model | undefined {
  let agreed: Model | undefined;
  for (const { pod, report } of views) {
    if (pod.lost) continue;
    const described = report?.description;
    if (!described && planned.has(pod.uid)) return undefined;
    if (!described) continue;
    const { modelDigest: digest, codec } = described;
    if (agreed && (agreed.digest !== digest || agreed.codec !== codec)) return undefined;
    agreed = { digest, codec };
  }
  return agreed;
}

export function podsOf(stored: StoredPlacement | undefined): ReadonlySet<string> {
  return new Set((stored?.spec.ranks ?? []).map(({ podUID }) => podUID));
}

export function majorityDigest(links: readonly (Pick<Link, "description"> | undefined)[]): string | undefined {
  const count = new Map<string, number>();
  for (const link of links) {
    const digest = link?.description?.modelDigest;
    if (digest) count.set(digest, (count.get(digest) ?? 0) + 1);
  }
  return [...count].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))[0]?.[0];
}

export function everybodyDescribed(views: readonly RankView[]): boolean {
  return views.length > 0 && views.every((view) => view.lost || view.report === undefined || view.report.description !== undefined);
}

function score(view: RankView): number {
  return (view.usable ? 4 : 0) + (view.pod.terminating ? 0 : 2) + (view.lost ? 0 : 1);
}

/** The ranks as the planner sees them: all that the plan names or that exist. `speeds` has their measured speeds. */
export function rankSpecs(views: readonly RankView[], plan: PlacementPlan | undefined, speeds?: Pick<Speeds, "of">): RankSpec[] {
  const usable = new Map<number, RankView>();
  for (const view of views) if (view.usable) usable.set(view.rank, view);
  const known = new Map(speedRanks(views).map((each) => [each.bootId, speeds?.of(each) ?? each.prior]));
  const specs = [...usable.values()].map((view): RankSpec => {
    const { description } = view.report ?? {};
    return {
      rank: view.rank,
      speed: known.get(description?.bootId ?? "") ?? 1,
      budgetBytes: description?.budgetBytes ?? 0,
      holdsAll: view.pod.oversubscription === "Never",
      zone: view.pod.zone ?? "",
      rack: view.pod.rack,
      node: view.pod.node ?? view.pod.name,
      state: view.leaving !== undefined || view.pod.terminating ? "draining" : "active",
    };
  });
  for (const rank of ranksOf(plan)) {
    if (!usable.has(rank)) specs.push({ rank, speed: 1, budgetBytes: 0, zone: "", node: "", state: "dead" });
  }
  return specs.sort((a, b) => a.rank - b.rank);
}

/** The ranks whose speed is estimated: all that have described themselves, also while their stream is down. */
export function speedRanks(views: readonly RankView[]): SpeedRank[] {
  const described = views.flatMap(({ pod, report }) => (report?.description ? [{ pod, ...report.description }] : []));
  const speedOf = deviceSpeeds(described);
  return described.map(({ pod, bootId, device }) => {
    const relative = speedOf(device);
    const prior = relative > speedNoise || relative < 1 / speedNoise ? relative : 1;
    return { bootId, hardware: `${pod.uid} ${device}`, device, prior };
  });
}

/**
 * The initial speed of a device relative to the median: the median of its ranks. A single measurement may be off while
 * neighbours are loading.
 */
function deviceSpeeds(ranks: readonly { readonly device: string; readonly speed: number }[]): (device: string) => number {
  const all = median(ranks.map((rank) => rank.speed));
  const byDevice = new Map<string, number>();
  for (const [device, own] of Map.groupBy(ranks, (rank) => rank.device)) byDevice.set(device, median(own.map((rank) => rank.speed)) / all);
  return (device) => byDevice.get(device) ?? 1;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 1;
}

const ranksByPlan = new WeakMap<PlacementPlan, number[]>();

export function ranksOf(plan: PlacementPlan | undefined): readonly number[] {
  if (!plan) return [];
  const known = ranksByPlan.get(plan);
  if (known) return known;
  const found = findRanks(plan);
  ranksByPlan.set(plan, found);
  return found;
}

function findRanks(plan: PlacementPlan): number[] {
  const ranks = new Set<number>();
  for (const layer of plan.layers) for (const hosts of layer.hosts) for (const rank of hosts) ranks.add(rank);
  return [...ranks].sort((a, b) => a - b);
}

const uniqueByPlan = new WeakMap<PlacementPlan, { readonly key: string; readonly bytes: ReadonlyMap<number, number> }>();

/** Resident bytes of experts that no other live rank hosts, by rank. The last result is cached, since every tick asks. */
export function uniqueBytes(plan: PlacementPlan, live: ReadonlySet<number>, resident: Float64Array): ReadonlyMap<number, number> {
  const key = [...live].join();
  const known = uniqueByPlan.get(plan);
  if (known?.key === key) return known.bytes;
  const bytes = countUnique(plan, live, resident);
  uniqueByPlan.set(plan, { key, bytes });
  return bytes;
}

function countUnique(plan: PlacementPlan, live: ReadonlySet<number>, resident: Float64Array): Map<number, number> {
  const bytes = new Map<number, number>();
  const width = resident.length / Math.max(1, plan.layers.length);
  for (const [l, layer] of plan.layers.entries()) {
    for (const [e, hosts] of layer.hosts.entries()) {
      const serving = hosts.filter((rank) => live.has(rank));
      if (serving.length > 1) continue;
      const size = resident[l * width + e] ?? 0;
      for (const rank of serving.length === 1 ? serving : hosts) bytes.set(rank, (bytes.get(rank) ?? 0) + size);
    }
  }
  return bytes;
}
