// Who is in the world: joins what Kubernetes says of worker pods with what their links say, and derives each rank's state
// and the planner's view of it. Pure.
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { LeavingRank, WorkerPod } from "../../deployment/ports.ts";
import type { SpeedRank, Speeds } from "../../planner/load/speeds.ts";
import type { RankSpec } from "../../planner/policy.ts";
import type { Link, Member, MemberState, PlanMember } from "../ports.ts";

/** A Control stream that has failed for this long means the rank is lost. */
export const lostAfterMs = 5_000;
/** Speeds at the start within this factor of the median are noise of the measurement, not other hardware. */
const speedNoise = 1.3;

export interface RankView {
  readonly rank: number;
  readonly pod: WorkerPod;
  readonly link: Link | undefined;
  readonly leaving: LeavingRank | undefined;
  /** Its stream works and it runs the model of this world. */
  readonly usable: boolean;
  /** Nothing more is to be expected of this process. */
  readonly lost: boolean;
  readonly mismatch: boolean;
  readonly state: MemberState;
}

export interface MembersInput {
  readonly workers: readonly WorkerPod[];
  readonly leaving: readonly LeavingRank[];
  readonly link: (podUid: string) => Link | undefined;
  readonly digest: string | undefined;
  readonly now: number;
}

export function rankViews(input: MembersInput): RankView[] {
  return input.workers.map((pod) => {
    const link = input.link(pod.uid);
    const leaving = input.leaving.find((rank) => rank.podUid === pod.uid);
    const described = link?.description;
    const connected = described !== undefined && link?.downSince === undefined;
    const down = described !== undefined && link?.downSince !== undefined && input.now - link.downSince > lostAfterMs;
    const lost = pod.lost || down;
    const mismatch = described !== undefined && input.digest !== undefined && described.modelDigest !== input.digest;
    const usable = connected && !pod.lost && !mismatch;
    return {
      rank: pod.rank,
      pod,
      link,
      leaving,
      usable,
      lost,
      mismatch,
      state: stateOf({ lost, leaving: leaving !== undefined || pod.terminating, link, usable }),
    };
  });
}

function stateOf(view: { lost: boolean; leaving: boolean; link: Link | undefined; usable: boolean }): MemberState {
  if (view.lost) return "lost";
  if (view.leaving) return "draining";
  const status = view.link?.status;
  return view.usable && status !== undefined && status.epoch > 0 && status.ready ? "active" : "joining";
}

/** One pod per rank: while a pod is replaced, the one that is usable, else the newest. */
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
    .filter((view) => view.link?.description !== undefined)
    .map((view) => ({
      rank: view.rank,
      podName: view.pod.name,
      podUid: view.pod.uid,
      bootId: view.link?.description?.bootId ?? "",
      address: view.link?.address ?? "",
      state: view.state,
    }));
}

/** Ranks that take part in a plan, as the rollout knows them. */
export function planMembers(views: readonly RankView[]): Map<number, PlanMember> {
  const usable = views.filter((view) => view.usable);
  return new Map(
    usable.map(({ rank, pod, link }): [number, PlanMember] => [
      rank,
      {
        bootId: link?.description?.bootId ?? "",
        podName: pod.name,
        podUid: pod.uid,
        budgetBytes: link?.description?.budgetBytes ?? 0,
        held: link?.hosted ?? new Map(),
      },
    ]),
  );
}

/** Changes with every process that comes, goes or is to leave. */
export function memberKey(views: readonly RankView[]): string {
  return views
    .map((view) => `${view.rank}:${view.link?.description?.bootId ?? "-"}:${view.usable ? 1 : 0}:${view.leaving?.reason ?? ""}`)
    .join(",");
}

/** What the processes of a world have in common: the model, and the form in which its experts are held. */
export interface Model {
  readonly digest: string;
  readonly codec: string;
}

/**
 * The model that all worker processes run: undefined while two differ, or while one of the pods that a plan names (`planned`)
 * has not said what it runs. A pod on a silent node counts for nothing.
 */
export function agreedModel(views: readonly RankView[], planned: ReadonlySet<string>): Model | undefined {
  let agreed: Model | undefined;
  for (const { pod, link } of views) {
    if (pod.lost) continue;
    const described = link?.description;
    if (!described && planned.has(pod.uid)) return undefined;
    if (!described) continue;
    const { modelDigest: digest, codec } = described;
    if (agreed && (agreed.digest !== digest || agreed.codec !== codec)) return undefined;
    agreed = { digest, codec };
  }
  return agreed;
}

/** What most of the described workers run. */
export function majorityDigest(views: readonly Pick<RankView, "link">[]): string | undefined {
  const count = new Map<string, number>();
  for (const { link } of views) {
    const digest = link?.description?.modelDigest;
    if (digest) count.set(digest, (count.get(digest) ?? 0) + 1);
  }
  return [...count].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]))[0]?.[0];
}

/** Whether every worker that can be reached has said who it is. */
export function everybodyDescribed(views: readonly RankView[]): boolean {
  return views.length > 0 && views.every((view) => view.lost || view.link === undefined || view.link.description !== undefined);
}

function score(view: RankView): number {
  return (view.usable ? 4 : 0) + (view.pod.terminating ? 0 : 2) + (view.lost ? 0 : 1);
}

/** Ranks as the planner sees them: every rank that the plan names or that is there. `speeds` says what their work has shown. */
export function rankSpecs(views: readonly RankView[], plan: PlacementPlan | undefined, speeds?: Pick<Speeds, "of">): RankSpec[] {
  const usable = new Map<number, RankView>();
  for (const view of views) if (view.usable) usable.set(view.rank, view);
  const known = new Map(speedRanks(views).map((each) => [each.bootId, speeds?.of(each) ?? each.prior]));
  const specs = [...usable.values()].map((view): RankSpec => {
    const { description } = view.link ?? {};
    return {
      rank: view.rank,
      speed: known.get(description?.bootId ?? "") ?? 1,
      budgetBytes: description?.budgetBytes ?? 0,
      zone: view.pod.zone ?? "",
      node: view.pod.node ?? view.pod.name,
      state: view.leaving !== undefined || view.pod.terminating ? "draining" : "active",
    };
  });
  for (const rank of ranksOf(plan)) {
    if (!usable.has(rank)) specs.push({ rank, speed: 1, budgetBytes: 0, zone: "", node: "", state: "dead" });
  }
  return specs.sort((a, b) => a.rank - b.rank);
}

/**
 * Ranks as far as their speed is concerned: all that have described themselves, since one whose stream is down for a moment is as
 * fast as before. A restarted process has the hardware of its pod.
 */
export function speedRanks(views: readonly RankView[]): SpeedRank[] {
  const described = views.flatMap(({ pod, link }) => (link?.description ? [{ pod, ...link.description }] : []));
  const speedOf = deviceSpeeds(described);
  return described.map(({ pod, bootId, device }) => {
    const relative = speedOf(device);
    const prior = relative > speedNoise || relative < 1 / speedNoise ? relative : 1;
    return { bootId, hardware: `${pod.uid} ${device}`, device, prior };
  });
}

/**
 * Relative speed of a device at the start: the median of the ranks that have it, over the median of all. A rank measures itself at its
 * start, when neighbours may be busy loading; the same hardware is the same speed, whatever one of its measurements says.
 */
function deviceSpeeds(ranks: readonly { readonly device: string; readonly speed: number }[]): (device: string) => number {
  const all = median(ranks.map((rank) => rank.speed));
  const byDevice = Map.groupBy(ranks, (rank) => rank.device);
  return (device) => median((byDevice.get(device) ?? ranks).map((rank) => rank.speed)) / all;
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

/** Resident bytes of experts that no live rank but this one hosts, by rank. Asked for at every tick, counted when it has changed. */
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
  for (const [l, layer] of plan.layers.entries()) {
    for (const [e, hosts] of layer.hosts.entries()) {
      const serving = hosts.filter((rank) => live.has(rank));
      if (serving.length > 1) continue;
      const size = resident[l * layer.hosts.length + e] ?? 0;
      for (const rank of serving.length === 1 ? serving : hosts) bytes.set(rank, (bytes.get(rank) ?? 0) + size);
    }
  }
  return bytes;
}
