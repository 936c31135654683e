// The layouts of the benchmark over ranks: how many processes, and which share of the CPUs each has. Pure.
import { count, invalid } from "../serve.ts";

const ranksMax = 8;

export interface Layout {
  readonly name: string;
  readonly ranks: number;
  /** CPUs of each rank; undefined without quotas. */
  readonly cpus: number | undefined;
}

/** Ranks that each have so many CPUs of their own; one rank comes first. */
export const layoutsOfOwn = (counts: readonly number[], quota: number): readonly Layout[] =>
  [...new Set([1, ...counts])].map((ranks) => ({ name: `${ranks}, ${quota} CPUs of its own each`, ranks, cpus: quota }));

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

interface Shares {
  readonly counts: number[];
  readonly cpus: number;
  /** CPUs of its own that each rank has. */
  readonly quota: number | undefined;
}

/** Numbers of ranks, and the CPUs that they share. */
export function sharesOf({ ranks = "1,2,3,4", cpus, quota }: Readonly<Record<string, string>>, cores: number): Shares {
  const counts = [...new Set(ranks.split(",").map((text) => count("ranks", text)))];
  if (counts.some((each) => each > ranksMax)) throw invalid(`--ranks: at most ${ranksMax}`);
  if (quota !== undefined && !/^\d{1,2}(\.\d{1,2})?$/.test(quota)) throw invalid(`--quota: "${quota}" is no number of CPUs such as 0.5`);
  if (Number(quota) * Math.max(...counts) > cores)
    throw invalid(`--quota: ${Math.max(...counts)} ranks of ${quota} are above ${cores} CPUs`);
  return { counts, quota: quota === undefined ? undefined : Number(quota), cpus: cpus === undefined ? cores : count("cpus", cpus) };
}
