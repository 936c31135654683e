// Prepares a proposal for the protocol: the plan with its epoch, the layers in an order that fits in memory, their sizes and deadlines.
import type { LayerPlan, PlacementPlan } from "../../../crds/plan.ts";
import { slowestTransferMs } from "../../../runtime/placement/backoff.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import { scheduleLayers } from "../../../runtime/placement/schedule.ts";
import { layerBytes } from "../../planner/index.ts";
import type { ModelShape } from "../../planner/policy.ts";
import { bytesByRank } from "../../planner/problem.ts";
import type { PlanMember } from "../ports.ts";
import { nextPlan, type StoredPlan } from "./plan-object.ts";
import type { Proposal } from "./proposal.ts";
import { defaultLimits, type LayerTask, type RunLimits } from "./protocol-types.ts";

const slowestBytesPerSecond = 5e6;

export interface Stage {
  readonly members: ReadonlyMap<number, PlanMember>;
  readonly shape: ModelShape;
  readonly epoch: number;
  readonly deploymentUid: string;
  readonly modelDigest: string;
  /** The limit of each receiver; 0 = unlimited. */
  readonly bytesPerSecond: number;
}

export interface Staged {
  readonly plan: PlacementPlan;
  /** The spec to store; undefined if it is stored already. */
  readonly spec: StoredPlan | undefined;
  readonly tasks: readonly LayerTask[];
  readonly moves: number;
  readonly bytes: number;
  /** Resident bytes per rank before the plan; `budget` is what each may hold. */
  readonly used: ReadonlyMap<number, number>;
  readonly budget: ReadonlyMap<number, number>;
  readonly limits: RunLimits;
}

export function stage(proposal: Proposal, world: Stage): Staged {
  const { parent, resume } = proposal;
  const { shape, members } = world;
  const target = resume?.plan.layers ?? proposal.layers;
  const diff = diffPlans(parent?.layers, target, (l, e) => shape.storedBytes[l * shape.experts + e] ?? 0);
  const changed = new Set(diff.layers);
  const next = resume ?? nextPlan(parent, target, changed, world);
  const { plan } = next;
  for (const layer of resume?.committed ?? []) changed.add(layer);

  const changes = layerBytes(shape, parent?.layers, plan.layers).map(
    ({ layer, incoming, outgoing }): Change => ({ layer, incoming: new Map(incoming), outgoing: new Map(outgoing) }),
  );
  for (const layer of changed)
    if (!changes.some((change) => change.layer === layer)) changes.push({ layer, incoming: new Map(), outgoing: new Map() });
  for (const change of resume ? changes : []) {
    const planned = plan.layers[change.layer]?.hosts ?? [];
    // A layer committed before may still hold its parent's replicas, which no plan names any more.
    if (resume?.committed.has(change.layer)) addLeftovers(change, planned, world);
    takeArrived(change, planned, parent?.layers[change.layer]?.hosts ?? [], world);
  }

  const used = usedBytes(parent?.layers ?? [], world, resume !== undefined);
  const budget = new Map([...members].map(([rank, member]) => [rank, member.budgetBytes]));
  const { order, stuck } = scheduleLayers(changes, used, budget);
  // Layers that never fit come last, and the protocol gives them up.
  const tasks = [...order, ...stuck].flatMap((layer): LayerTask[] => {
    const placement = plan.layers[layer];
    const change = changes.find((candidate) => candidate.layer === layer);
    const committedBefore = resume?.committed.has(layer) ?? false;
    return placement && change ? [{ placement, incoming: change.incoming, outgoing: change.outgoing, committedBefore }] : [];
  });
  const bytes = diff.moves.reduce((total, move) => total + move.bytes, 0);
  const transferMs = Math.ceil((bytes / slowestBytesPerSecond) * 1000) + slowestTransferMs(mostOf(diff.moves), world.bytesPerSecond);
  const { atOnce = parent === undefined } = proposal;
  const layersInFlight = atOnce ? plan.layers.length : defaultLimits.layersInFlight;
  const spec = "spec" in next ? next.spec : undefined;
  return { plan, spec, tasks, moves: diff.moves.length, bytes, used, budget, limits: limitsOf(transferMs, layersInFlight) };
}

interface Change {
  readonly layer: number;
  readonly incoming: Map<number, number>;
  readonly outgoing: Map<number, number>;
}

type Hosts = LayerPlan["hosts"];

function addLeftovers(change: Change, planned: Hosts, { shape, members }: Stage): void {
  for (const [rank, { held }] of members) {
    const bytes = (held.get(change.layer)?.experts ?? [])
      .filter((expert) => !planned[expert]?.includes(rank))
      .reduce((sum, expert) => sum + (shape.residentBytes[change.layer * shape.experts + expert] ?? 0), 0);
    if (bytes > 0) change.outgoing.set(rank, bytes);
  }
}

function takeArrived(change: Change, planned: Hosts, before: Hosts, { shape, members }: Stage): void {
  for (const [rank, { held }] of members) {
    const bytes = (held.get(change.layer)?.experts ?? [])
      .filter((expert) => planned[expert]?.includes(rank) && !before[expert]?.includes(rank))
      .reduce((sum, expert) => sum + (shape.residentBytes[change.layer * shape.experts + expert] ?? 0), 0);
    if (bytes > 0) change.incoming.set(rank, Math.max(0, (change.incoming.get(rank) ?? 0) - bytes));
  }
}

/** Bytes per rank before the plan: the parent's, or for a resumed plan what a rank reports if that is more. */
function usedBytes(before: readonly LayerPlan[], { shape, members }: Stage, resumed: boolean): Map<number, number> {
  const used = bytesByRank(shape, before);
  if (!resumed) return used;
  for (const [rank, { held }] of members) {
    let bytes = 0;
    for (const { layer, experts } of held.values())
      for (const expert of experts) bytes += shape.residentBytes[layer * shape.experts + expert] ?? 0;
    used.set(rank, Math.max(used.get(rank) ?? 0, bytes));
  }
  return used;
}

function limitsOf(transferMs: number, layersInFlight: number): RunLimits {
  const { prepareMs, catchUpMs, releaseMs } = defaultLimits;
  return {
    ...defaultLimits,
    prepareMs: prepareMs + transferMs,
    catchUpMs: catchUpMs + transferMs,
    releaseMs: releaseMs + transferMs,
    layersInFlight,
  };
}

function mostOf(moves: readonly { readonly rank: number; readonly bytes: number }[]): number {
  const received = new Map<number, number>();
  for (const { rank, bytes } of moves) received.set(rank, (received.get(rank) ?? 0) + bytes);
  return Math.max(0, ...received.values());
}
