// Combines the steps of several ranks into one trace on one time axis. Rank clocks are aligned by the exchange that all ranks wait for
// in each step.
import type { TracedRank } from "./chrome.ts";
import type { Span } from "./spans.ts";
import type { TracedStep } from "./traced-step.ts";

/** The most spans of all ranks together: about 150 MB of file. */
const spansMax = 1_000_000;

export interface GatheringOptions {
  readonly ranks: number;
  readonly steps: number;
  readonly epoch: number;
  readonly spansMax?: number;
}

export class Gathering {
  readonly #options: GatheringOptions;
  readonly #ranks: readonly TracedStep[][];
  #spans = 0;
  /** What ended the trace. */
  over: string | undefined;

  constructor(options: GatheringOptions) {
    this.#options = options;
    this.#ranks = Array.from({ length: options.ranks }, () => []);
  }

  add(rank: number, step: TracedStep): void {
    const { epoch, steps, spansMax: most = spansMax } = this.#options;
    if (this.over !== undefined || step.epoch < epoch) return;
    if (step.epoch > epoch) {
      this.over = "the job's ranks changed";
      return;
    }
    this.#ranks[rank]?.push(step);
    this.#spans += step.spans.length;
    if (this.made >= steps) this.over = "all steps were reported";
    else if (this.#spans >= most) this.over = "there are too many spans";
  }

  get made(): number {
    return Math.min(...this.common.map(({ length }) => length));
  }

  /** By rank, the first steps that all ranks of its world made; empty before each rank has made one. */
  get common(): readonly (readonly TracedStep[])[] {
    if (this.#ranks.some(({ length }) => length === 0)) return this.#ranks.map(() => []);
    const worlds = Map.groupBy(this.#ranks, groupOf);
    const made = Map.groupBy(this.#ranks.flat(), ({ group, step }) => `${group}/${step}`);
    const byAll = ({ group, step }: TracedStep): boolean => made.get(`${group}/${step}`)?.length === worlds.get(group)?.length;
    return this.#ranks.map((own) => own.filter(byAll).slice(0, this.#options.steps));
  }
}

export const groupOf = (steps: readonly TracedStep[]): number => steps[0]?.group ?? 0;

export interface RankOfTrace {
  readonly name: string;
  readonly steps: readonly TracedStep[];
}

/** All ranks leave this exchange together, since a step is committed by it. */
const barrier = "receive squares";

function leftBarrier({ spans }: TracedStep): number | undefined {
  const left = spans.filter(({ name }) => name === barrier).map(({ toMs }) => toMs);
  return left.length === 0 ? undefined : Math.max(...left);
}

/**
 * How far each rank's clock is ahead of that of its world's first rank, with which it leaves the barrier together in the median step.
 * Worlds share no barrier, so node clocks align them.
 */
export function clocksAhead(ranks: readonly RankOfTrace[]): readonly number[] {
  return ranks.map(({ steps }) => {
    const first = ranks.find((other) => groupOf(other.steps) === groupOf(steps));
    const late = steps.flatMap((own, i) => {
      const other = first?.steps[i];
      const [left, firstLeft] = [leftBarrier(own), other && leftBarrier(other)];
      return left === undefined || firstLeft === undefined ? [] : [left - firstLeft];
    });
    return late.toSorted((a, b) => a - b)[Math.floor(late.length / 2)] ?? 0;
  });
}

/** Ranks on one axis that begins with the first span; spans before a rank's first step are left out. */
export function onOneAxis(ranks: readonly RankOfTrace[]): readonly TracedRank[] {
  const ahead = clocksAhead(ranks);
  const placed = ranks.map(({ name, steps }, rank) => {
    const spans = steps.flatMap((step) => step.spans);
    const begin = spans.find(({ kind }) => kind === "step")?.fromMs ?? Number.POSITIVE_INFINITY;
    return { name, spans: spans.filter(({ toMs }) => toMs > begin).map((span) => moved(span, -(ahead[rank] as number))) };
  });
  const zero = placed.flatMap(({ spans }) => spans).reduce((least, { fromMs }) => Math.min(least, fromMs), Number.POSITIVE_INFINITY);
  return placed.map(({ name, spans }) => ({ name, spans: spans.map((span) => moved(span, -zero)) }));
}

const moved = (span: Span, ms: number): Span => Object.assign({}, span, { fromMs: span.fromMs + ms, toMs: span.toMs + ms });
