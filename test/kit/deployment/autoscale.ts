// A deployment under the autoscaler in seconds of virtual time, for tests of its decisions: ranks that a number asks for are there at
// once, and a load that is given in all is shared by them evenly. Pure.
import { type Autoscale, autoscale } from "../../../crds/autoscale.ts";
import type { History } from "../../../operator/deployment/core/memory.ts";
import type { RankSignals } from "../../../operator/deployment/core/world.ts";
import {
  type AutoscaleInput,
  type Decision,
  decide,
  type LastScale,
} from "../../../operator/deployment/features/autoscale/desired-ranks.ts";
import type { ServingRank } from "../../../operator/deployment/features/autoscale/metric-values.ts";

/** Unix ms. */
export const start = Date.UTC(2026, 2, 1, 10);
/** Queued tokens that a rank's attention cache is full with, in these worlds. */
const fullAt = 4_000;

export const autoscaleOf = (spec: object = {}): Autoscale => {
  const parsed = autoscale.parse({ max: 8, metrics: [{ name: "queuedTokensPerRank", target: 100 }], ...spec });
  if (!parsed) throw new Error("no autoscaler");
  return parsed;
};

export const signals = (queuedTokens: number, more: Partial<RankSignals> = {}): RankSignals => ({
  spanMs: 15_000,
  queuedTokens,
  kvUse: Math.min(1, queuedTokens / fullAt),
  tokensPerSecond: queuedTokens * 2,
  ...more,
});

export const servingRanks = (count: number, load: number): ServingRank[] =>
  Array.from({ length: count }, (_, rank) => ({ rank, signals: signals(load / count) }));

/** A look at a calm deployment of three ranks, an hour after its operator began to look. */
export function look(more: Partial<AutoscaleInput> = {}): AutoscaleInput {
  const spec = more.spec ?? autoscaleOf();
  return {
    spec,
    replicas: 3,
    suspended: false,
    serving: servingRanks(3, 300),
    gateways: [],
    availableSince: start - 3_600_000,
    floor: undefined,
    operation: undefined,
    lastScale: undefined,
    history: [],
    now: start,
    ...more,
  };
}

export interface Course {
  readonly ranks: number;
  readonly seconds: number;
  /** All queued tokens at a second. */
  readonly load: (second: number) => number;
  /** What is otherwise than in a calm deployment at a second. */
  readonly look?: (second: number) => Partial<AutoscaleInput>;
}

export interface Step {
  readonly second: number;
  readonly from: number;
  readonly to: number;
  readonly decision: Decision;
}

/** The numbers that are set, each with its second; the reconciler looks about every second. */
export function scales(spec: Autoscale, { ranks, seconds, load, look: changed }: Course): { steps: Step[]; last: Decision | undefined } {
  const steps: Step[] = [];
  let replicas = ranks;
  let history: History = [];
  let lastScale: LastScale | undefined;
  let last: Decision | undefined;
  for (let second = 0; second < seconds; second++) {
    const now = start + second * 1_000;
    const serving = servingRanks(replicas, load(second));
    last = decide(look({ spec, replicas, serving, history, lastScale, now, ...changed?.(second) }));
    history = last.history;
    if (last.to === replicas) continue;
    steps.push({ second, from: replicas, to: last.to, decision: last });
    lastScale = { time: new Date(now).toISOString(), from: replicas, to: last.to };
    replicas = last.to;
  }
  return { steps, last };
}
