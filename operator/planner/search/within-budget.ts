// The way to a target placement within budget and memory: whole layers by gain per replica, then parts of the others (partial.ts).
import { imbalance } from "../../../runtime/placement/imbalance.ts";
import { splitLayer } from "../../../runtime/placement/split.ts";
import { type Hosts, layerDemand, type Problem } from "../problem.ts";
import { type Change, changeOf, Ledger } from "./ledger.ts";
import { applyInPart, smoothWorst } from "./partial.ts";

export interface Limited {
  readonly hosts: Hosts;
  readonly layers: number;
}

const unevenAbove = 1.1;
const leastGain = 0.02;
const splitSweeps = 6;

export function worstOf(problem: Problem, layer: number, hosts: readonly (readonly number[])[]): number {
  return imbalance(splitLayer({ demand: layerDemand(problem, layer), hosts, speed: problem.speed }, splitSweeps).load, problem.speed);
}

interface Candidate {
  readonly change: Change;
  readonly before: number;
  readonly gain: number;
}

interface Walk {
  readonly problem: Problem;
  readonly target: Hosts;
  readonly ledger: Ledger;
  readonly hosts: Hosts;
  /** The least gain per replica; without it a policy that plans anew would follow noise. */
  readonly leastRate: number;
}

/** Hosts within the budget of the present ones; the target itself without present ones. */
export function withinBudget(problem: Problem, target: Hosts): Limited {
  const { current, input } = problem;
  if (!current) return { hosts: target, layers: problem.L };
  const leastRate = input.gainPerMove ?? Number.NEGATIVE_INFINITY;
  const walk: Walk = { problem, target, ledger: new Ledger(problem, current), hosts: current.slice(), leastRate };
  const all = candidates(problem, current, target);
  const left = all.filter((candidate) => !whole(walk, candidate));
  left.sort((a, b) => b.before - a.before || a.change.layer - b.change.layer);
  const parts = left.filter((candidate) => part(walk, candidate)).length;
  return { hosts: walk.hosts, layers: all.length - left.length + parts };
}

function whole({ ledger, hosts, target, leastRate }: Walk, candidate: Candidate): boolean {
  const { change } = candidate;
  if (rateOf(candidate) < leastRate || !ledger.fits(change)) return false;
  hosts[change.layer] = target[change.layer] as number[][];
  ledger.take(change);
  return true;
}

function part({ problem, target, ledger, hosts, leastRate }: Walk, { change, gain }: Candidate): boolean {
  const { layer } = change;
  if (ledger.movesLeft <= 0 || gain < leastGain) return false;
  return applyInPart(problem, ledger, {
    layer,
    from: hosts[layer] as number[][],
    to: target[layer] as number[][],
    leastRate,
    // The smooth maximum also counts relief of one of several equally hot ranks.
    gain: (rows, now) => smoothWorst(problem, layer, now) - smoothWorst(problem, layer, rows),
    take: (rows) => {
      hosts[layer] = rows;
    },
  });
}

function candidates(problem: Problem, current: Hosts, target: Hosts): Candidate[] {
  const found = target.flatMap((to, layer): Candidate[] => {
    const from = current[layer] as number[][];
    const change = changeOf(problem, layer, from, to);
    if (change.moves + change.drops === 0) return [];
    const before = worstOf(problem, layer, from);
    return [{ change, before, gain: before - worstOf(problem, layer, to) }];
  });
  const uneven = ({ before }: Candidate): number => (before > unevenAbove ? 1 : 0);
  return found.sort((a, b) => uneven(b) - uneven(a) || rateOf(b) - rateOf(a) || a.change.layer - b.change.layer);
}

function rateOf({ change, gain }: Candidate): number {
  return gain / Math.max(0.1, change.moves);
}
