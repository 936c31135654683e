// Takes a target placement as far as budget and memory allow: whole layers, the best gain per copy first. For policies
// that plan a target without regard to what is hosted. Pure.
import { imbalance } from "../../../runtime/placement/imbalance.ts";
import { splitLayer } from "../../../runtime/placement/split.ts";
import { type Hosts, layerDemand, type Problem, usedBytes } from "../problem.ts";

export interface Limited {
  readonly hosts: Hosts;
  /** Layers changed. */
  readonly layers: number;
}

const unevenAbove = 1.1;

export function worstOf(problem: Problem, layer: number, hosts: readonly (readonly number[])[]): number {
  return imbalance(splitLayer({ demand: layerDemand(problem, layer), hosts, speed: problem.speed }, 6).load, problem.speed);
}

/** `gainOf` = what a changed layer gains, where it is not the decrease of max/mean. */
export function withinBudget(problem: Problem, target: Hosts, gainOf?: (layer: number) => number): Limited {
  const { current } = problem;
  if (!current) return { hosts: target, layers: problem.L };
  const { budget, shape } = problem.input;
  const hosts = current.slice();
  const used = usedBytes(problem, current);
  const received = new Float64Array(problem.G);
  let movesLeft = budget.maxMoves;
  let bytesLeft = budget.maxBytes;
  let layers = 0;
  const changes = target.flatMap((layer, l) => {
    const change = changeOf(problem, l, current[l] as number[][], layer, gainOf);
    return change.moves > 0 || change.drops > 0 ? [change] : [];
  });
  const rate = (c: Change): number => c.gain / Math.max(0.1, c.moves);
  // Layers that are really uneven come first: the headline is the worst one.
  const uneven = (c: Change): number => (c.before > unevenAbove ? 1 : 0);
  changes.sort((a, b) => uneven(b) - uneven(a) || rate(b) - rate(a) || a.layer - b.layer);
  for (const change of changes) {
    // A policy that plans a target anew would follow every fluctuation: what gains too little per copy stays.
    if (problem.input.gainPerMove !== undefined && rate(change) < problem.input.gainPerMove) continue;
    if (change.moves > movesLeft || change.stored > bytesLeft) continue;
    const fits = change.incoming.every((bytes, g) => {
      const peak = (used[g] as number) + bytes;
      const after = peak - (change.outgoing[g] as number);
      const room = problem.capacity[g] as number;
      return (
        after <= room + 1e-6 &&
        peak <= room + problem.staging + 1e-6 &&
        (received[g] as number) + (change.receivedStored[g] as number) <= budget.maxReceiveBytesPerRank
      );
    });
    if (!fits) continue;
    hosts[change.layer] = target[change.layer] as number[][];
    movesLeft -= change.moves;
    bytesLeft -= change.stored;
    layers++;
    for (let g = 0; g < problem.G; g++) {
      used[g] = (used[g] as number) + (change.incoming[g] as number) - (change.outgoing[g] as number);
      received[g] = (received[g] as number) + (change.receivedStored[g] as number);
    }
  }
  return { hosts: shape.layers > 0 ? hosts : target, layers };
}

interface Change {
  readonly layer: number;
  /** max/mean now. */
  readonly before: number;
  readonly gain: number;
  readonly moves: number;
  readonly drops: number;
  readonly stored: number;
  readonly incoming: Float64Array;
  readonly outgoing: Float64Array;
  readonly receivedStored: Float64Array;
}

function changeOf(
  problem: Problem,
  layer: number,
  from: readonly (readonly number[])[],
  to: readonly (readonly number[])[],
  gainOf: ((layer: number) => number) | undefined,
): Change {
  const { shape } = problem.input;
  const incoming = new Float64Array(problem.G);
  const outgoing = new Float64Array(problem.G);
  const receivedStored = new Float64Array(problem.G);
  let moves = 0;
  let drops = 0;
  let stored = 0;
  to.forEach((row, e) => {
    const i = layer * problem.E + e;
    const before = from[e] ?? [];
    for (const g of row) {
      if (before.includes(g)) continue;
      moves++;
      stored += shape.storedBytes[i] as number;
      incoming[g] = (incoming[g] as number) + (shape.residentBytes[i] as number);
      receivedStored[g] = (receivedStored[g] as number) + (shape.storedBytes[i] as number);
    }
    for (const g of before) {
      if (row.includes(g)) continue;
      drops++;
      outgoing[g] = (outgoing[g] as number) + (shape.residentBytes[i] as number);
    }
  });
  const changed = moves + drops > 0;
  const before = changed ? worstOf(problem, layer, from) : 1;
  const gain = !changed ? 0 : gainOf ? gainOf(layer) : before - worstOf(problem, layer, to);
  return { layer, before, gain, moves, drops, stored, incoming, outgoing, receivedStored };
}
