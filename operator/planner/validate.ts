// The invariants of a plan, checked on every plan before it is written.
import { AppError } from "../../crds/common.ts";
import { type LayerPlan, planBounds, weightsTotal } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { expertsIn } from "../../runtime/placement/grid.ts";
import { keepsFloor } from "./expert-replicas.ts";
import type { PlanInput } from "./policy.ts";
import { bytesByRank, stagingBytes, toProblem } from "./problem.ts";

export interface ValidateOptions {
  /** Experts that may keep a lost primary for lack of memory. */
  readonly unhosted?: readonly { readonly layer: number; readonly expert: number }[];
}

/** Every broken invariant as a sentence; none = valid. */
export function planFaults(input: PlanInput, layers: readonly LayerPlan[], options: ValidateOptions = {}): string[] {
  const faults: string[] = [];
  const { shape } = input;
  if (layers.length !== shape.layers) return [`${layers.length} layers, the model has ${shape.layers}`];
  const active = new Map(input.ranks.filter((rank) => rank.state === "active").map((rank) => [rank.rank, rank]));
  const excused = new Set((options.unhosted ?? []).map(({ layer, expert }) => layer * shape.experts + expert));
  const used: number[] = [];
  layers.forEach((layer, l) => {
    const experts = expertsIn(shape, l);
    if (layer.hosts.length !== experts) faults.push(`layer ${l}: ${layer.hosts.length} experts, the model has ${experts}`);
    const slots: number[] = [];
    layer.hosts.forEach((row, e) => {
      for (const fault of rowFaults(row, layer.weights[e] ?? [])) faults.push(`layer ${l}, expert ${e}: ${fault}`);
      if (excused.has(l * shape.experts + e) && !row.some((rank) => active.has(rank))) return;
      for (const rank of row) {
        if (!active.has(rank)) {
          faults.push(`layer ${l}, expert ${e}: rank ${rank} is not active`);
          continue;
        }
        used[rank] = (used[rank] ?? 0) + (shape.residentBytes[l * shape.experts + e] ?? 0);
        slots[rank] = (slots[rank] ?? 0) + 1;
      }
    });
    for (const [what, rows] of [["hosts", layer.hosts] as const, ["weights", layer.weights] as const]) {
      const length = textLength(rows);
      if (length > planBounds.layerText)
        faults.push(`layer ${l}: ${length} characters of ${what}, at most ${planBounds.layerText} are stored`);
    }
    slots.forEach((count, rank) => {
      if (count > (input.slotsPerRank ?? Infinity))
        faults.push(`layer ${l}: rank ${rank} hosts ${count} experts, at most ${input.slotsPerRank}`);
    });
  });
  faults.push(...floorFaults(input, layers));
  const staging = stagingBytes(shape);
  const over = used.map((bytes, rank) => bytes + staging > (active.get(rank)?.budgetBytes ?? Infinity) + 1e-6);
  // An interrupted plan may have left a rank in its staging slot: it must not get worse.
  const before = over.includes(true) && input.current ? bytesByRank(shape, input.current) : new Map<number, number>();
  used.forEach((bytes, rank) => {
    if (!over[rank] || bytes <= (before.get(rank) ?? 0) + 1e-6) return;
    const budget = active.get(rank)?.budgetBytes;
    faults.push(`rank ${rank}: ${bytes} resident bytes and a staging slot of ${staging} exceed its budget of ${budget}`);
  });
  return faults;
}

function floorFaults(input: PlanInput, layers: readonly LayerPlan[]): string[] {
  if (input.minExpertReplicas <= 1 || !input.current) return [];
  const before = toProblem(input);
  const after = toProblem({ ...input, current: layers });
  return (before.current ?? []).flatMap((layer, l) =>
    layer.flatMap((row, e) => {
      const now = after.current?.[l]?.[e] ?? [];
      return keepsFloor(before, row, now)
        ? []
        : [
            `layer ${l}, expert ${e}: ${now.length} expert replicas where it had ${row.length}, minExpertReplicas is ${input.minExpertReplicas}`,
          ];
    }),
  );
}

const none: readonly string[] = [];

function isWhole(hosts: readonly number[], weights: readonly number[]): boolean {
  return (
    hosts.length === 1 && weights.length === 1 && weights[0] === weightsTotal && Number.isInteger(hosts[0]) && (hosts[0] as number) >= 0
  );
}

function rowFaults(hosts: readonly number[], weights: readonly number[]): readonly string[] {
  if (isWhole(hosts, weights)) return none;
  const faults: string[] = [];
  if (hosts.length === 0) faults.push("no host");
  if (hosts.length > planBounds.hostsPerExpert) faults.push(`${hosts.length} hosts, at most ${planBounds.hostsPerExpert}`);
  if (hosts.some((rank) => !Number.isInteger(rank) || rank < 0)) faults.push("a rank is no natural number");
  if (hosts.length > 1 && new Set(hosts).size !== hosts.length) faults.push("a rank twice");
  if (weights.length !== hosts.length) faults.push(`${hosts.length} hosts, ${weights.length} weights`);
  if (weights.some((weight) => weight < 0 || !Number.isInteger(weight))) faults.push("a weight is no natural number");
  if (weights.reduce((a, b) => a + b, 0) !== weightsTotal) faults.push(`weights do not sum to ${weightsTotal}`);
  return faults;
}

/** The length of the rows' stored form (`encodeRows`), without making it. */
function textLength(rows: readonly (readonly number[])[]): number {
  let cells = 0;
  let digits = 0;
  for (const row of rows) {
    cells += row.length;
    for (const cell of row) digits += cell < 10 ? 1 : cell < 100 ? 2 : cell < 1000 ? 3 : 4;
  }
  return digits + Math.max(0, cells - 1);
}

export function budgetFaults(input: PlanInput, layers: readonly LayerPlan[]): string[] {
  if (!input.current) return [];
  const { moves } = diffPlans(input.current, layers, (l, e) => input.shape.storedBytes[l * input.shape.experts + e] ?? 0);
  const bytes = moves.reduce((total, move) => total + move.bytes, 0);
  const faults: string[] = [];
  if (moves.length > input.budget.maxMoves) faults.push(`${moves.length} moves, the budget is ${input.budget.maxMoves}`);
  for (const [rank, { length }] of Map.groupBy(moves, (move) => move.rank))
    if (length > input.budget.maxMovesPerRank)
      faults.push(`${length} moves to rank ${rank}, the budget is ${input.budget.maxMovesPerRank} per rank`);
  if (bytes > input.budget.maxBytes + 1e-6) faults.push(`${bytes} bytes to move, the budget is ${input.budget.maxBytes}`);
  return faults;
}

/** Throws AppError `InvalidPlan` with the first faults. */
export function assertPlan(input: PlanInput, layers: readonly LayerPlan[], options: ValidateOptions = {}): void {
  const faults = planFaults(input, layers, options);
  if (faults.length > 0) {
    throw new AppError(`the policy made an invalid plan (${faults.length} faults): ${faults.slice(0, 3).join("; ")}`, {
      code: "InvalidPlan",
      operation: "validating a plan",
    });
  }
}
