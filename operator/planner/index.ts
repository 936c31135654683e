// The registry of placement policies, and `makePlan`, which runs one: DECISIONS.md 2.
import { AppError } from "../../crds/common.ts";
import type { PolicyName } from "../../crds/names.ts";
import type { LayerPlan } from "../../crds/plan.ts";
import { cheapestPath, pathFactor, placeOf } from "../../runtime/placement/cost.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { type LayerBytes, scheduleLayers } from "../../runtime/placement/schedule.ts";
import { keepFloor } from "./expert-replicas.ts";
import { eplb } from "./policies/eplb.ts";
import { hecate } from "./policies/hecate.ts";
import { incremental } from "./policies/incremental.ts";
import type { ModelShape, PlacementPolicy, PlanInput, PlanOutput, RankSpec } from "./policy.ts";
import { bytesByRank, stagingBytes } from "./problem.ts";
import { repairPlan } from "./repair.ts";
import { nearer } from "./search/near.ts";
import { assertPlan } from "./validate.ts";

export const policies = {
  incremental,
  hecate,
  eplb,
} as const satisfies Readonly<Record<PolicyName, PlacementPolicy>>;

/**
 * The current placement may name lost ranks. Throws `InvalidPlan` for a broken plan, and `PolicyTooSmall` for an instance that takes
 * the policy too long.
 */
export async function makePlan(policy: PlacementPolicy, input: PlanInput): Promise<PlanOutput> {
  const cells = input.shape.layers * input.shape.experts * input.ranks.length;
  if (cells > policy.cellsMax) {
    throw new AppError(
      `policy ${policy.name} is for small instances, layers x experts x ranks <= ${policy.cellsMax}, here are ${cells}: choose another`,
      { code: "PolicyTooSmall", operation: "planning" },
    );
  }
  const repaired = input.current ? repairPlan(input, input.current) : undefined;
  const moveCost = input.moveCost ?? pathCost(input.ranks);
  const whole: PlanInput = { ...input, ...(repaired ? { current: repaired.layers } : {}), ...(moveCost ? { moveCost } : {}) };
  const output = await policy.plan(whole);
  const layers = schedulable(whole, keepFloor(whole, output.layers));
  assertPlan(whole, layers, repaired ? { unhosted: repaired.unhosted } : {});
  return { ...output, layers };
}

/** The least part of all rows that is worth a plan to keep at their rank; with weights alone, it would be an epoch for little. */
const leastKept = { moves: 0.02, weights: 0.05 } as const;

/** A plan for rows that leave their rank and need not; the current layers where one plan's budget keeps too few. */
export function planNear(input: PlanInput): PlanOutput {
  const current = input.current ?? [];
  const found = nearer(input);
  const layers = schedulable(input, found.layers);
  const kept = found.kept.reduce((all, part, l) => (layers[l] === current[l] ? all : all + part), 0);
  const moves = diffPlans(current, layers, () => 0).moves.length;
  if (kept < leastKept[moves > 0 ? "moves" : "weights"]) return { layers: current, reason: "too few rows would stay", kept: 0 };
  assertPlan(input, layers, {});
  return { layers, reason: `replicas where tokens choose an expert`, kept };
}

/** Layers whose replicas never fit beside the old ones keep their hosts, so that every plan can be carried out. */
export function schedulable(input: PlanInput, layers: readonly LayerPlan[]): readonly LayerPlan[] {
  const { current, shape } = input;
  if (!current) return layers;
  const staging = stagingBytes(shape);
  const budget = new Map(input.ranks.map((rank) => [rank.rank, rank.budgetBytes]));
  const before = bytesByRank(shape, current);
  let plan = layers;
  for (let round = 0; round <= layers.length; round++) {
    const changes = layerBytes(shape, current, plan);
    const { stuck } = scheduleLayers(changes, before, budget);
    const staying = stuck.length > 0 ? stuck : overfull(changes, { before, after: bytesByRank(shape, plan), budget, staging });
    if (staying.length === 0) return plan;
    plan = plan.map((layer, l) => (staying.includes(l) ? (current[l] ?? layer) : layer));
  }
  return current;
}

function overfull(
  changes: readonly LayerBytes[],
  bytes: { before: ReadonlyMap<number, number>; after: ReadonlyMap<number, number>; budget: ReadonlyMap<number, number>; staging: number },
): number[] {
  for (const [rank, held] of bytes.after) {
    const freeBytes = (bytes.budget.get(rank) ?? Number.POSITIVE_INFINITY) - bytes.staging;
    if (held <= Math.max(freeBytes, bytes.before.get(rank) ?? 0) + 1e-6) continue;
    const growth = (change: LayerBytes): number => (change.incoming.get(rank) ?? 0) - (change.outgoing.get(rank) ?? 0);
    const most = changes.toSorted((a, b) => growth(b) - growth(a) || a.layer - b.layer)[0];
    if (most && growth(most) > 0) return [most.layer];
  }
  return [];
}

/** The bytes that each changed layer brings to and takes from every rank. */
export function layerBytes(shape: ModelShape, from: readonly LayerPlan[] | undefined, to: readonly LayerPlan[]): LayerBytes[] {
  const diff = diffPlans(from, to, () => 0);
  const changes = new Map(
    diff.layers.map((layer) => [layer, { layer, incoming: new Map<number, number>(), outgoing: new Map<number, number>() }]),
  );
  const add = (map: Map<number, number> | undefined, rank: number, layer: number, expert: number): void => {
    map?.set(rank, (map.get(rank) ?? 0) + (shape.residentBytes[layer * shape.experts + expert] ?? 0));
  };
  for (const { layer, expert, rank } of diff.moves) add(changes.get(layer)?.incoming, rank, layer, expert);
  for (const { layer, expert, rank } of diff.drops) add(changes.get(layer)?.outgoing, rank, layer, expert);
  return [...changes.values()];
}

/** Above zero, since a replica from the same node is still loaded and verified. */
const least = 0.25;

/** The cost factor, >= 0.25: 1 within a zone, 1.5 between its racks, 3 between zones. Undefined where all paths cost the same. */
export function pathCost(ranks: readonly RankSpec[]): PlanInput["moveCost"] {
  const places = new Map(ranks.map((rank) => [rank.rank, placeOf(rank)]));
  const nodes = new Set([...places.values()].map((place) => place.node));
  const zones = new Set(ranks.map((rank) => rank.zone));
  const racks = new Set(ranks.map((rank) => rank.rack));
  if (nodes.size === ranks.length && zones.size <= 1 && racks.size <= 1) return undefined;
  return (_layer, _expert, rank, sources) => {
    const receiver = places.get(rank);
    if (!receiver) return 1;
    const path = cheapestPath(
      receiver,
      sources.flatMap((source) => places.get(source) ?? []),
    );
    return Math.max(least, pathFactor[path] / pathFactor.zone);
  };
}
