// Relabels a layer that was planned from nothing: its parts go to the ranks that hold most of them.
import type { Problem } from "../problem.ts";

/** Renames ranks of `hosts` so that few replicas move, the largest overlap first, among equal ranks only. */
export function relabelled(problem: Problem, layer: number, hosts: readonly (readonly number[])[]): number[][] {
  const old = problem.current?.[layer];
  const expertReplica = hosts.map((row) => row.slice());
  if (!old || problem.speed.some((speed) => Math.abs(speed - 1) > 1e-9)) return expertReplica;
  const same = new Int32Array(problem.G * problem.G);
  expertReplica.forEach((row, e) => {
    for (const from of row) for (const to of old[e] ?? []) same[from * problem.G + to] = (same[from * problem.G + to] as number) + 1;
  });
  const pairs: { from: number; to: number; count: number }[] = [];
  same.forEach((count, i) => {
    if (count > 0) pairs.push({ from: Math.floor(i / problem.G), to: i % problem.G, count });
  });
  pairs.sort((a, b) => b.count - a.count || a.from - b.from || a.to - b.to);
  const target = new Map<number, number>();
  const taken = new Set<number>();
  for (const { from, to } of pairs) {
    if (target.has(from) || taken.has(to)) continue;
    target.set(from, to);
    taken.add(to);
  }
  const left = Array.from({ length: problem.G }, (_, g) => g).filter((g) => !taken.has(g));
  for (let from = 0; from < problem.G; from++) if (!target.has(from)) target.set(from, left.shift() as number);
  return expertReplica.map((row) => row.map((g) => target.get(g) as number));
}
