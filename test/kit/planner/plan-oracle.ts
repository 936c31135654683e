// The rules that a plan must keep, written a second time from the contract and sharing no code with the planner's own checks
// (operator/planner/validate.ts and operator/planner/problem.ts), so that one mistake is not made on both sides. Each broken rule is named.
import type { LayerPlan, Move } from "../../../crds/plan.ts";
import type { PlanInput, RankSpec } from "../../../operator/planner/policy.ts";

export type Rule =
  | "every layer and expert"
  | "hosted"
  | "real ranks"
  | "distinct ranks"
  | "active ranks"
  | "weights"
  | "slots"
  | "bytes"
  | "floor"
  | "storable"
  | "budget of moves"
  | "budget of moves to a rank"
  | "budget of bytes"
  | "moves are the difference"
  | "sources host"
  | "memory on the way";

export interface Violation {
  readonly rule: Rule;
  readonly where: string;
}

type Layers = readonly LayerPlan[];

interface ExpertReplica {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
}

/** Bounds of decision 10 as an ExpertPlacement's schema has them. */
const storedText = 65_536;
const storedHosts = 512;

/** Bytes are sums of floats. */
const slack = 1e-3;

const name = ({ layer, expert, rank }: ExpertReplica): string => `${layer}/${expert}@${rank}`;

/** Every expert replica of a placement, a rank that is named twice counted twice. */
function expertReplicasOf(layers: Layers): ExpertReplica[] {
  const expertReplicas: ExpertReplica[] = [];
  for (let layer = 0; layer < layers.length; layer++) {
    const rows = layers[layer]?.hosts ?? [];
    for (let expert = 0; expert < rows.length; expert++)
      for (const rank of rows[expert] ?? []) expertReplicas.push({ layer, expert, rank });
  }
  return expertReplicas;
}

const size = (bytes: Float64Array, { shape }: PlanInput, { layer, expert }: ExpertReplica): number =>
  bytes[layer * shape.experts + expert] ?? 0;

/** Resident bytes of each rank. */
function memory(input: PlanInput, layers: Layers): Map<number, number> {
  const held = new Map<number, number>();
  for (const expertReplica of expertReplicasOf(layers))
    held.set(expertReplica.rank, (held.get(expertReplica.rank) ?? 0) + size(input.shape.residentBytes, input, expertReplica));
  return held;
}

function largest({ shape }: PlanInput): number {
  return Array.from(shape.residentBytes).reduce((most, bytes) => Math.max(most, bytes), 0);
}

/** A placement by itself, beside the ranks there are and what was placed before (`input.current`). */
export function planViolations(input: PlanInput, layers: Layers): Violation[] {
  const sized =
    layers.length === input.shape.layers &&
    layers.every(({ hosts }, l) => hosts.length === (input.shape.layerExperts?.[l] ?? input.shape.experts));
  if (!sized) return [{ rule: "every layer and expert", where: `${layers.length} layers` }];
  return [
    ...rowViolations(input, layers),
    ...rankViolations(input, layers),
    ...storedViolations(layers),
    ...floorViolations(input, layers),
  ];
}

function rowViolations(input: PlanInput, layers: Layers): Violation[] {
  const found: Violation[] = [];
  const active = new Map(input.ranks.flatMap((rank) => (rank.state === "active" ? [[rank.rank, rank] as const] : [])));
  for (const [l, { hosts, weights }] of layers.entries()) {
    for (const [e, row] of hosts.entries()) {
      const add = (rule: Rule): void => void found.push({ rule, where: `${l}/${e}: ${row.join(".")} by ${weights[e]?.join(".")}` });
      if (row.length === 0) add("hosted");
      if (!row.every((rank) => Number.isSafeInteger(rank) && rank >= 0)) add("real ranks");
      if (row.some((rank, i) => row.indexOf(rank) < i)) add("distinct ranks");
      const weight = weights[e] ?? [];
      const natural = weight.every((part) => Number.isSafeInteger(part) && part >= 0);
      if (!natural || weight.length !== row.length || weight.reduce((a, b) => a + b, 0) !== 1000) add("weights");
      const gone = row.filter((rank) => !active.has(rank));
      if (gone.length === 0 || row.length === 0) continue;
      // An expert may only keep a lost primary when it had no other, and nothing but the lost primary is named.
      const before = input.current?.[l]?.hosts[e] ?? [];
      const lost = before.length > 0 && !before.some((rank) => active.has(rank));
      if (!lost || gone.length < row.length || row.join() !== before.join()) add("active ranks");
      // Room that a plan itself makes is taken by the next repair.
      else if ([layers, input.current ?? []].every((placed) => hasRoom(input, placed, { layer: l, expert: e, rank: -1 }))) add("hosted");
    }
  }
  return found;
}

/** Would the expert fit an active rank that computes, as the placement is? */
function hasRoom(input: PlanInput, layers: Layers, expertReplica: ExpertReplica): boolean {
  const held = memory(input, layers);
  const need = size(input.shape.residentBytes, input, expertReplica) + largest(input);
  return input.ranks.some((rank) => {
    const slots = expertReplicasOf([layers[expertReplica.layer] as LayerPlan]).filter((other) => other.rank === rank.rank).length;
    return (
      rank.state === "active" &&
      rank.speed > 0 &&
      slots < (input.slotsPerRank ?? Number.MAX_VALUE) &&
      (held.get(rank.rank) ?? 0) + need <= rank.budgetBytes
    );
  });
}

/** Bytes and slots of every active rank. One that was above its budget already, since a plan was cut short, may stay so and not grow. */
function rankViolations(input: PlanInput, layers: Layers): Violation[] {
  const found: Violation[] = [];
  const held = memory(input, layers);
  const before = memory(input, input.current ?? []);
  for (const { rank, budgetBytes, state } of input.ranks) {
    if (state !== "active") continue;
    const bytes = held.get(rank) ?? 0;
    const over = bytes + largest(input) > budgetBytes + slack;
    if (over && bytes > (before.get(rank) ?? 0) + slack) found.push({ rule: "bytes", where: `rank ${rank}: ${bytes} of ${budgetBytes}` });
    for (const [l, layer] of layers.entries()) {
      const slots = layer.hosts.reduce((n, row) => n + row.filter((host) => host === rank).length, 0);
      if (input.slotsPerRank !== undefined && slots > input.slotsPerRank)
        found.push({ rule: "slots", where: `layer ${l}, rank ${rank}: ${slots}` });
    }
  }
  return found;
}

function storedViolations(layers: Layers): Violation[] {
  return layers.flatMap(({ hosts, weights }, l) => {
    const texts = [hosts, weights].map((rows) => rows.map((row) => row.join(".")).join(","));
    const tooLong = texts.some((text) => text.length > storedText) || hosts.some((row) => row.length > storedHosts);
    return tooLong ? [{ rule: "storable" as const, where: `layer ${l}` }] : [];
  });
}

/** The rule of minExpertReplicas: no expert has fewer live expert replicas, or live expert replicas on fewer nodes, than before, unless it has enough of them. */
function floorViolations(input: PlanInput, layers: Layers): Violation[] {
  const { current, minExpertReplicas } = input;
  if (!current || minExpertReplicas < 2) return [];
  const nodes = new Map(input.ranks.flatMap((rank) => (rank.state === "active" ? [[rank.rank, nodeOf(rank)] as const] : [])));
  const live = (layer: LayerPlan | undefined, e: number): { expertReplicas: number; nodes: number } => {
    const on = (layer?.hosts[e] ?? []).flatMap((rank) => nodes.get(rank) ?? []);
    return { expertReplicas: on.length, nodes: new Set(on).size };
  };
  const found: Violation[] = [];
  for (const [l, layer] of layers.entries()) {
    for (const e of layer.hosts.keys()) {
      const [before, after] = [live(current[l], e), live(layer, e)];
      const worse = (["expertReplicas", "nodes"] as const).some((what) => after[what] < before[what] && after[what] < minExpertReplicas);
      if (worse) found.push({ rule: "floor", where: `${l}/${e}: ${before.expertReplicas} -> ${after.expertReplicas}` });
    }
  }
  return found;
}

const nodeOf = ({ zone, node }: RankSpec): string => JSON.stringify([zone, node]);

/** The step from `input.current`: its budget, and that `moves` is what is new in it, each to be read where it is hosted. */
export function stepViolations(input: PlanInput, layers: Layers, moves: readonly Move[]): Violation[] {
  const before = new Set(expertReplicasOf(input.current ?? []).map(name));
  const added = expertReplicasOf(layers).filter((expertReplica) => !before.has(name(expertReplica)));
  const found: Violation[] = [];
  const told = moves.map(name);
  if (told.toSorted().join() !== added.map(name).toSorted().join() || new Set(told).size !== told.length)
    found.push({ rule: "moves are the difference", where: `${told.length} moves, ${added.length} new expert replicas` });
  const dead = new Set(input.ranks.flatMap((rank) => (rank.state === "dead" ? [rank.rank] : [])));
  for (const move of moves) {
    const hosts = input.current?.[move.layer]?.hosts[move.expert] ?? [];
    const alive = hosts.some((rank) => !dead.has(rank));
    const known = move.sources.every((rank) => hosts.includes(rank));
    if (!known || (alive && move.sources.every((rank) => dead.has(rank)))) found.push({ rule: "sources host", where: name(move) });
  }
  const { maxMoves, maxMovesPerRank, maxBytes } = input.budget;
  if (added.length > maxMoves) found.push({ rule: "budget of moves", where: `${added.length} of ${maxMoves}` });
  for (const { rank } of input.ranks)
    if (added.filter((expertReplica) => expertReplica.rank === rank).length > maxMovesPerRank)
      found.push({ rule: "budget of moves to a rank", where: `rank ${rank}` });
  const bytes = added.reduce((total, expertReplica) => total + size(input.shape.storedBytes, input, expertReplica), 0);
  if (bytes > maxBytes + slack) found.push({ rule: "budget of bytes", where: `${bytes} of ${maxBytes}` });
  return found;
}

/**
 * Carries a plan out layer by layer in `order`: the expert replicas of a layer arrive while the old ones are held, then those go. At every
 * moment each rank is within its budget, staging slot included, and each move's sources hold what is read from them.
 */
export function journeyViolations(input: PlanInput, layers: Layers, moves: readonly Move[], order: readonly number[]): Violation[] {
  const found: Violation[] = [];
  const held = new Map(expertReplicasOf(input.current ?? []).map((expertReplica) => [name(expertReplica), expertReplica]));
  const bytesOn = (rank: number): number => {
    let total = 0;
    for (const expertReplica of held.values())
      if (expertReplica.rank === rank) total += size(input.shape.residentBytes, input, expertReplica);
    return total;
  };
  const grown = new Set<number>();
  for (const layer of order) {
    const own = moves.filter((move) => move.layer === layer);
    for (const move of own)
      for (const rank of move.sources)
        if (!held.has(name({ ...move, rank }))) found.push({ rule: "sources host", where: `${name(move)} from ${rank}` });
    for (const { expert, rank } of own) {
      held.set(name({ layer, expert, rank }), { layer, expert, rank });
      grown.add(rank);
    }
    for (const { rank, budgetBytes } of input.ranks)
      if (grown.has(rank) && bytesOn(rank) > budgetBytes + slack)
        found.push({ rule: "memory on the way", where: `rank ${rank}, layer ${layer}: ${bytesOn(rank)} of ${budgetBytes}` });
    grown.clear();
    const stays = new Set(
      expertReplicasOf(layers).flatMap((expertReplica) => (expertReplica.layer === layer ? [name(expertReplica)] : [])),
    );
    for (const expertReplica of [...held.values()])
      if (expertReplica.layer === layer && !stays.has(name(expertReplica))) held.delete(name(expertReplica));
  }
  const reached = [...held.keys()].toSorted().join();
  if (reached !== expertReplicasOf(layers).map(name).toSorted().join())
    found.push({ rule: "moves are the difference", where: `layers ${order.join()} lead elsewhere` });
  return found;
}
