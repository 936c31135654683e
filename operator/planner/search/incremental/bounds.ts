// Lower bounds on the worst rank of a layer after a step, from sums alone: most steps are seen to be no good without splitting
// anything. A bound holds however the rows are split: the worst of some ranks is no better than those ranks together. Pure.
import type { LayerState } from "../layer-state.ts";

/** Bounds and limits are compared with this slack: a step that rounding alone would lose is still priced. */
const slack = 1 + 1e-9;

/** Level that the other hosts of an expert reach at least when its expert replica on `rank` goes and nothing else leaves them. */
export function spillLevel(state: LayerState, expert: number, rank: number): number {
  let rows = 0;
  let speed = 0;
  const hosts = state.hosts[expert] as number[];
  const own = state.rows[expert] as number[];
  for (let i = 0; i < hosts.length; i++) {
    const g = hosts[i] as number;
    if (g === rank) rows += own[i] as number;
    else if ((state.speed[g] as number) > 0) {
      rows += state.load[g] as number;
      speed += state.speed[g] as number;
    }
  }
  return speed > 0 ? (rows * state.perRow) / speed : 0;
}

/** Rows and speed of an expert's hosts together. */
export interface Basin {
  readonly rows: number;
  readonly speed: number;
}

export function basinOf(state: LayerState, expert: number): Basin {
  let rows = 0;
  let speed = 0;
  for (const g of state.hosts[expert] as number[]) {
    if ((state.speed[g] as number) <= 0) continue;
    rows += state.load[g] as number;
    speed += state.speed[g] as number;
  }
  return { rows, speed };
}

/** Level that the basin and one more host reach at least when `leaving` rows leave them. */
export function levelWith(state: LayerState, basin: Basin, rank: number, leaving: number): number {
  const speed = basin.speed + (state.speed[rank] as number);
  return speed > 0 ? ((basin.rows + (state.load[rank] as number) - leaving) * state.perRow) / speed : 0;
}

/** Can a step whose worst rank is at this level or above not stay below the ceiling? */
export function above(level: number, ceiling: number): boolean {
  return level > ceiling * slack;
}

/** Is one of the hosts, other than `but`, among these? */
export function meets(hosts: readonly number[], but: number, others: readonly number[]): boolean {
  for (let i = 0; i < hosts.length; i++) if (hosts[i] !== but && others.includes(hosts[i] as number)) return true;
  return false;
}
