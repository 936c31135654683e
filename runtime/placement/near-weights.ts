// Weights of one source that keep its tokens on its own rank first, then in its zone, as far as the plan's weights allow. When all
// sources do the same, each host still gets its planned weight. Pure.
import { weightsTotal } from "../../crds/plan.ts";
import { sum } from "./imbalance.ts";
import { quotas } from "./split.ts";

/** The most by which a plan's weights differ from what the planner meant. */
const rounding = 1 / weightsTotal;

/** Where tokens come from. */
export interface Sources {
  readonly own: number;
  /** The zone of each member that names one. */
  readonly zones: ReadonlyMap<number, string>;
  /** The part of all tokens of each rank that has some, and of each zone; both sum to 1. */
  readonly tokens: ReadonlyMap<number, number>;
  readonly zoneTokens: ReadonlyMap<string, number>;
}

interface ZoneMember {
  readonly rank: number;
  readonly state: string;
  readonly zone?: string;
}

/** Serving ranks count alike, and the own rank as one of them. Ranks that name no zone are one. */
export function sourcesOf(own: number, members: readonly ZoneMember[]): Sources {
  const ranks = new Set([own, ...members.flatMap(({ rank, state }) => (state === "active" ? [rank] : []))]);
  const tokens = new Map([...ranks].sort((a, b) => a - b).map((rank) => [rank, 1 / ranks.size]));
  const zones = new Map(members.flatMap(({ rank, zone }) => (zone === undefined ? [] : [[rank, zone] as const])));
  const zoneTokens = new Map<string, number>();
  for (const [rank, part] of tokens) add(zoneTokens, zones.get(rank) ?? "", part);
  return { own, tokens, zones, zoneTokens };
}

/**
 * Weights per mille of one expert for the tokens of `sources.own`: its own expert replica computes them up to its weight, then those of
 * its zone do, then all, each in proportion to the weight that is left after nearer tokens.
 */
export function nearWeights(hosts: readonly number[], weights: readonly number[], sources: Sources): readonly number[] {
  const total = sum(weights);
  if (hosts.length < 2 || total <= 0) return weights;
  const { own, tokens, zones, zoneTokens } = sources;
  const { kept, spare } = splitLocal(
    weights.map((weight) => weight / total),
    hosts.map((host) => tokens.get(host) ?? 0),
  );
  const zoneOf = (rank: number): string => zones.get(rank) ?? "";
  const [offered, wanted] = [new Map<string, number>(), new Map(zoneTokens)];
  for (const [i, host] of hosts.entries()) {
    add(offered, zoneOf(host), spare[i] ?? 0);
    add(wanted, zoneOf(host), -(kept[i] ?? 0));
  }
  const offeredIn = (zone: string): number => offered.get(zone) ?? 0;
  const wantedIn = (zone: string): number => wanted.get(zone) ?? 0;
  const [zone, left] = [zoneOf(own), (tokens.get(own) ?? 0) - (kept[hosts.indexOf(own)] ?? 0)];
  const stays = left * partOf(offeredIn(zone), wantedIn(zone));
  const beyond = hosts.map((host, i) => (spare[i] ?? 0) * (1 - partOf(wantedIn(zoneOf(host)), offeredIn(zoneOf(host)))));
  const beyondAll = sum(beyond);
  return quotas(
    hosts.map((host, i) => {
      const local = host === own ? (kept[i] ?? 0) : 0;
      const near = zoneOf(host) === zone ? stays * partOf(spare[i] ?? 0, offeredIn(zone)) : 0;
      return local + near + (left - stays) * partOf(beyond[i] ?? 0, beyondAll);
    }),
  );
}

/** What hosts compute of their own tokens, and what they have left for others; a plan's weights are rounded, and so are these. */
function splitLocal(planned: readonly number[], tokens: readonly number[]): { readonly kept: number[]; readonly spare: number[] } {
  const over = planned.map((part, i) => part - (tokens[i] ?? 0));
  const spare = over.map((part) => Math.max(0, part));
  const isRounded = over.map((part, i) => (planned[i] ?? 0) > 0 && part < 0 && part > -rounding);
  const rounded = sum(over.map((part, i) => (isRounded[i] ? -part : 0)));
  const lost = partOf(rounded, sum(spare));
  const keepsAll = lost * Math.max(...spare) <= rounding;
  return {
    kept: planned.map((part, i) => (keepsAll && isRounded[i] ? (tokens[i] ?? 0) : Math.min(part, tokens[i] ?? 0))),
    spare: spare.map((part) => (keepsAll ? part * (1 - lost) : part)),
  };
}

const add = (sums: Map<string, number>, key: string, part: number): Map<string, number> => sums.set(key, (sums.get(key) ?? 0) + part);

/** 0 to 1 */
const partOf = (part: number, all: number): number => (all > 0 ? Math.min(1, Math.max(0, part / all)) : 0);
