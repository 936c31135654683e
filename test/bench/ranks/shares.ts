// The layouts of the benchmark over ranks: how many processes, and which share of the CPUs each has. Pure.
import { count, invalid } from "../serve.ts";

const ranksMax = 8;

export interface Layout {
  readonly name: string;
  readonly ranks: number;
  /** CPUs of each rank; undefined without quotas. */
  readonly cpus: number | undefined;
}

/** One rank with all CPUs first: the others are compared with it. Three are measured without quotas too. */
export function layoutsOf(counts: readonly number[], cpus: number, quotas: boolean): readonly Layout[] {
  const free = (ranks: number): Layout => ({ name: `${ranks}, no quota`, ranks, cpus: undefined });
  const more = counts.filter((each) => each > 1);
  if (!quotas) return [free(1), ...more.map(free)];
  const shared = (ranks: number): Layout => {
    const each = ranks === 1 ? String(cpus) : (cpus / ranks).toFixed(2);
    return { name: `${ranks}, ${each} CPUs each`, ranks, cpus: cpus / ranks };
  };
  return [shared(1), ...more.map(shared), ...(counts.includes(3) ? [free(3)] : [])];
}

/** Numbers of ranks, and the CPUs that they share. */
export function sharesOf({ ranks = "1,2,3,4", cpus }: Readonly<Record<string, string>>, cores: number): { counts: number[]; cpus: number } {
  const counts = [...new Set(ranks.split(",").map((text) => count("ranks", text)))];
  if (counts.some((each) => each > ranksMax)) throw invalid(`--ranks: at most ${ranksMax}`);
  return { counts, cpus: cpus === undefined ? cores : count("cpus", cpus) };
}
