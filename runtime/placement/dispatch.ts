// The dispatch table of a source: which rank computes a (token, expert) pair, by error diffusion over the plan's weights: DECISIONS.md
// 3.

/** The committed routing of one layer: hosts[e] primary first, weights[e] per mille. */
export interface RoutingLayer {
  readonly layer: number;
  readonly epoch: number;
  readonly hosts: readonly (readonly number[])[];
  readonly weights: readonly (readonly number[])[];
}

export interface Router {
  /** Replaces the tables of these layers. Experts with an unchanged row keep their diffusion state. */
  setTables(layers: readonly RoutingLayer[]): void;
  /** Replaces the set of ranks that get nothing while others can serve. */
  setDown(ranks: ReadonlySet<number>): void;
  /** The rank for the expert's next pair; `noRank` without a table, and the primary if every host is down. */
  route(layer: number, expert: number): number;
  /** The one rank of all the layer's experts; `noRank` without a table, undefined where ranks differ. */
  soleRank(layer: number): number | undefined;
  epochOf(layer: number): number;
  /** The ranks of the plan; none without a table. */
  hostsOf(layer: number, expert: number): readonly number[];
}

export const noRank = -1;
/** Sources start at different diffusion steps, so that their first tokens spread. */
const phaseSteps = 32;

interface ExpertState {
  readonly hosts: readonly number[];
  readonly weights: readonly number[];
  live: readonly number[];
  liveWeights: readonly number[];
  total: number;
  credits: number[] | undefined;
}

interface Table {
  readonly epoch: number;
  experts: ExpertState[];
  sole: number | undefined;
}

function soleOf(experts: readonly ExpertState[]): number | undefined {
  const first = experts[0]?.live[0];
  return experts.every(({ live }) => live.length === 1 && live[0] === first) ? first : undefined;
}

export function createRouter(rank: number): Router {
  const tables = new Map<number, Table>();
  let down: ReadonlySet<number> = new Set();
  return {
    setTables: (layers) => {
      for (const layer of layers) {
        const old = tables.get(layer.layer)?.experts;
        const experts = layer.hosts.map((hosts, expert) => {
          const weights = layer.weights[expert] ?? [];
          const kept = old?.[expert];
          return kept !== undefined && same(kept.hosts, hosts) && same(kept.weights, weights) ? kept : withLive({ hosts, weights }, down);
        });
        tables.set(layer.layer, { epoch: layer.epoch, experts, sole: soleOf(experts) });
      }
    },
    setDown: (ranks) => {
      if (ranks.size === down.size && [...ranks].every((r) => down.has(r))) return;
      const changed = [...ranks, ...down].filter((r) => ranks.has(r) !== down.has(r));
      down = new Set(ranks);
      for (const table of tables.values()) {
        table.experts = table.experts.map((state) => (state.hosts.some((h) => changed.includes(h)) ? withLive(state, down) : state));
        table.sole = soleOf(table.experts);
      }
    },
    route: (layer, expert) => {
      const state = tables.get(layer)?.experts[expert];
      if (state === undefined) return noRank;
      const only = state.live.length === 1 ? state.live[0] : undefined;
      if (only !== undefined) return only;
      state.credits ??= startCredits(state, rank, hash32(rank, layer, expert) % phaseSteps);
      return next(state, state.credits, rank);
    },
    soleRank: (layer) => {
      const table = tables.get(layer);
      return table === undefined ? noRank : table.sole;
    },
    epochOf: (layer) => tables.get(layer)?.epoch ?? 0,
    hostsOf: (layer, expert) => tables.get(layer)?.experts[expert]?.hosts ?? [],
  };
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function withLive(row: Pick<ExpertState, "hosts" | "weights">, down: ReadonlySet<number>): ExpertState {
  const { hosts, weights } = row;
  const up = hosts.flatMap((host, i) => (down.has(host) ? [] : [{ host, weight: weights[i] ?? 0 }]));
  const served = up.filter(({ weight }) => weight > 0);
  // Standby replicas (weight 0) serve in equal parts when nobody else can. With all hosts down the primary is returned, and the caller
  // loads the expert elsewhere.
  const chosen = served.length > 0 ? served : up.map(({ host }) => ({ host, weight: 1 }));
  const live = chosen.length > 0 ? chosen.map(({ host }) => host) : hosts.slice(0, 1);
  const liveWeights = chosen.map(({ weight }) => weight);
  return { hosts, weights, live, liveWeights, total: liveWeights.reduce((a, b) => a + b, 0), credits: undefined };
}

function startCredits(state: ExpertState, rank: number, steps: number): number[] {
  const credits = state.live.map(() => 0);
  for (let i = 0; i < steps; i++) next(state, credits, rank);
  return credits;
}

/**
 * One step of error diffusion: each host earns its weight; the one with the highest credit serves and pays the total. Ties: the own
 * rank.
 */
function next(state: ExpertState, credits: number[], rank: number): number {
  let best = 0;
  let bestCredit = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < credits.length; i++) {
    const credit = (credits[i] ?? 0) + (state.liveWeights[i] ?? 0);
    credits[i] = credit;
    if (credit > bestCredit || (credit === bestCredit && state.live[i] === rank)) {
      best = i;
      bestCredit = credit;
    }
  }
  credits[best] = bestCredit - state.total;
  return state.live[best] ?? noRank;
}

/** A 32-bit hash of small integers, equal on every rank. */
export function hash32(...values: readonly number[]): number {
  let h = 0x9e3779b9;
  for (const value of values) {
    h = Math.imul(h ^ (value + 0x7f4a7c15), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
  }
  return h >>> 0;
}

/** The rank that loads an expert whose hosts are all gone, by the highest hash: DECISIONS.md 4. */
export function successor(layer: number, expert: number, live: readonly number[]): number | undefined {
  let best: number | undefined;
  let bestHash = -1;
  for (const rank of live) {
    const h = hash32(layer, expert, rank);
    if (h > bestHash || (h === bestHash && rank < (best ?? rank))) {
      best = rank;
      bestHash = h;
    }
  }
  return best;
}
