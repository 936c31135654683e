// Lower bounds on the worst rank of a layer after a step, which reject most steps without a split: the worst of some ranks is no better
// than those ranks together.
import type { LayerState } from "../layer-state.ts";

const slack = 1 + 1e-9;

/** The least level of an expert's other hosts when its replica on `rank` goes. */
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

/** The least level of the basin and one more host when `leaving` rows leave. */
export function levelWith(state: LayerState, basin: Basin, rank: number, leaving: number): number {
  const speed = basin.speed + (state.speed[rank] as number);
  return speed > 0 ? ((basin.rows + (state.load[rank] as number) - leaving) * state.perRow) / speed : 0;
}

/** True if a step with this least level cannot stay below the ceiling. */
export function above(level: number, ceiling: number): boolean {
  return level > ceiling * slack;
}

export function meets(hosts: readonly number[], but: number, others: readonly number[]): boolean {
  for (let i = 0; i < hosts.length; i++) if (hosts[i] !== but && others.includes(hosts[i] as number)) return true;
  return false;
}
