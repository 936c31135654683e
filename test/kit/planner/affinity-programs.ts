// The aims of ExFlow and MoETuner as their papers define them, and as programs for HiGHS written from that definition alone: the
// oracle for policies that search. Small instances only. Flow is tokens [layers - 1][experts][experts], in that order.
import { type Program, solve } from "../../../operator/planner/solver.ts";

export interface Chain {
  readonly layers: number;
  readonly experts: number;
  readonly ranks: number;
  readonly flow: ArrayLike<number>;
}

/** places[layer][expert] = rank */
type Places = readonly (readonly number[])[];

const nodes = 200_000;
const gap = 1e-6;

/** ExFlow (arXiv 2401.08383): tokens whose experts in two consecutive layers are on different ranks. */
export function hops({ experts, flow }: Pick<Chain, "experts" | "flow">, places: Places): number {
  let tokens = 0;
  for (let at = 0; at < flow.length; at++) {
    const [l, i, j] = [Math.floor(at / experts ** 2), Math.floor(at / experts) % experts, at % experts];
    if (places[l]?.[i] !== places[l + 1]?.[j]) tokens += flow[at] ?? 0;
  }
  return tokens;
}

/** Least hops of all placements with an equal number of experts of each layer on every rank; undefined when not proven. */
export async function leastHops(chain: Chain): Promise<number | undefined> {
  const { layers, experts, ranks, flow } = chain;
  const x = (l: number, e: number, g: number): string => `x_${l}_${e}_${g}`;
  const rows: Program["rows"][number][] = [];
  const binaries: string[] = [];
  for (let l = 0; l < layers; l++) {
    for (let e = 0; e < experts; e++) {
      rows.push({ terms: numbers(ranks).map((g) => [x(l, e, g), 1]), sense: "=", rhs: 1 });
      for (let g = 0; g < ranks; g++) binaries.push(x(l, e, g));
    }
    for (let g = 0; g < ranks; g++) rows.push({ terms: numbers(experts).map((e) => [x(l, e, g), 1]), sense: "=", rhs: experts / ranks });
  }
  // y = the part of a flow that stays on a rank, which both its ends must be on. Of an expert's flows only those to as many others
  // as a rank has seats can stay: said as rows, HiGHS needs not find it out.
  const seats = experts / ranks;
  const minimise: [string, number][] = [];
  for (let l = 0; l + 1 < layers; l++) {
    const y = (i: number, j: number, g: number): string => `y_${l}_${i}_${j}_${g}`;
    for (const g of numbers(ranks)) {
      for (const i of numbers(experts)) {
        rows.push(
          { terms: [...numbers(experts).map((j) => [y(i, j, g), 1] as const), [x(l, i, g), -seats]], sense: "<=", rhs: 0 },
          { terms: [...numbers(experts).map((j) => [y(j, i, g), 1] as const), [x(l + 1, i, g), -seats]], sense: "<=", rhs: 0 },
        );
        for (const j of numbers(experts)) {
          minimise.push([y(i, j, g), -(flow[(l * experts + i) * experts + j] ?? 0)]);
          for (const end of [x(l, i, g), x(l + 1, j, g)])
            rows.push({
              terms: [
                [y(i, j, g), 1],
                [end, -1],
              ],
              sense: "<=",
              rhs: 0,
            });
        }
      }
    }
  }
  // Ranks are interchangeable: the first expert is on the first.
  rows.push({ terms: [[x(0, 0, 0), 1]], sense: "=", rhs: 1 });
  const solved = await solve({ minimise, rows, binaries }, { nodes, gap });
  return solved && total(flow) + solved.objective;
}

/** MoETuner's first program (arXiv 2502.06643): the sum over clusters of |tokens - mean|, here in units of the mean. */
export function spread(tokens: ArrayLike<number>, cluster: readonly number[], clusters: number): number {
  const mean = total(tokens) / clusters;
  const of = (c: number): number => cluster.reduce((sum, own, e) => sum + (own === c ? (tokens[e] ?? 0) : 0), 0);
  return numbers(clusters).reduce((sum, c) => sum + Math.abs(of(c) - mean) / mean, 0);
}

/** Least spread of all clusterings with an equal number of experts each; undefined when not proven. */
export async function leastSpread(tokens: ArrayLike<number>, clusters: number): Promise<number | undefined> {
  const experts = tokens.length;
  const mean = total(tokens) / clusters;
  const x = (e: number, c: number): string => `x_${e}_${c}`;
  const rows: Program["rows"][number][] = numbers(experts).map((e) => ({
    terms: numbers(clusters).map((c) => [x(e, c), 1] as const),
    sense: "=" as const,
    rhs: 1,
  }));
  for (const c of numbers(clusters)) {
    rows.push({ terms: numbers(experts).map((e) => [x(e, c), 1]), sense: "=", rhs: experts / clusters });
    const load = numbers(experts).map((e) => [x(e, c), (tokens[e] ?? 0) / mean] as const);
    // over - under = load - mean
    rows.push({ terms: [...load, [`over_${c}`, -1], [`under_${c}`, 1]], sense: "=", rhs: 1 });
  }
  rows.push({ terms: [[x(0, 0), 1]], sense: "=", rhs: 1 });
  const minimise = numbers(clusters).flatMap((c) => [[`over_${c}`, 1] as const, [`under_${c}`, 1] as const]);
  const solved = await solve(
    { minimise, rows, binaries: numbers(experts).flatMap((e) => numbers(clusters).map((c) => x(e, c))) },
    { nodes, gap },
  );
  return solved?.objective;
}

/**
 * MoETuner's second program takes clusters as given: the flow between clusters, of which each rank gets one per layer. The same
 * program as ExFlow's, with clusters as its experts.
 */
export function clusterChain({ experts, flow, ...chain }: Chain, clusters: Places): Chain {
  const { ranks } = chain;
  const between = new Float64Array((chain.layers - 1) * ranks ** 2);
  for (let at = 0; at < flow.length; at++) {
    const [l, i, j] = [Math.floor(at / experts ** 2), Math.floor(at / experts) % experts, at % experts];
    const cell = (l * ranks + (clusters[l]?.[i] ?? 0)) * ranks + (clusters[l + 1]?.[j] ?? 0);
    between[cell] = (between[cell] ?? 0) + (flow[at] ?? 0);
  }
  return { ...chain, experts: ranks, flow: between };
}

const numbers = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const total = (values: ArrayLike<number>): number => numbers(values.length).reduce((sum, i) => sum + (values[i] ?? 0), 0);
