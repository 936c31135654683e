// Combines the steps of several ranks into one trace on one time axis. Rank clocks are aligned by the exchange that all ranks wait for
// in each step.
import type { Span, TracedStep } from "../../../crds/training-trace.ts";
import type { TracedRank } from "./chrome.ts";

/** The most spans of all ranks together: about 150 MB of file. */
const spansMax = 1_000_000;

export interface GatheringOptions {
  readonly ranks: number;
  readonly steps: number;
  readonly epoch: number;
  readonly spansMax?: number;
}

/** A trace ends with all wanted steps, a full buffer, or another world. */
type Over = "complete" | "full" | "another world";

export class Gathering {
  readonly #options: GatheringOptions;
  readonly #ranks: readonly TracedStep[][];
  #spans = 0;
  #over: Over | undefined;

  constructor(options: GatheringOptions) {
    this.#options = options;
    this.#ranks = Array.from({ length: options.ranks }, () => []);
  }

  add(rank: number, step: TracedStep): void {
    const { epoch, steps, spansMax: most = spansMax } = this.#options;
    if (this.#over !== undefined || step.epoch < epoch) return;
    if (step.epoch > epoch) {
      this.#over = "another world";
      return;
    }
    this.#ranks[rank]?.push(step);
    this.#spans += step.spans.length;
    if (this.made >= steps) this.#over = "complete";
    else if (this.#spans >= most) this.#over = "full";
  }

  get over(): Over | undefined {
    return this.#over;
  }

  get made(): number {
    return Math.min(...this.common.map(({ length }) => length));
  }

  /** By rank, the first steps that all ranks of its world made; empty before each rank has made one. */
  get common(): readonly (readonly TracedStep[])[] {
    if (this.#ranks.some(({ length }) => length === 0)) return this.#ranks.map(() => []);
    const worlds = Map.groupBy(this.#ranks, groupOf);
    const shared = new Map([...worlds].map(([group, ranks]) => [group, inAll(ranks)]));
    return this.#ranks.map((own) => own.filter(({ step }) => shared.get(groupOf(own))?.has(step)).slice(0, this.#options.steps));
  }
}

function inAll(ranks: readonly (readonly TracedStep[])[]): ReadonlySet<number> {
  const counts = new Map<number, number>();
  for (const { step } of ranks.flat()) counts.set(step, (counts.get(step) ?? 0) + 1);
  return new Set([...counts].filter(([, count]) => count === ranks.length).map(([step]) => step));
}

export const groupOf = (steps: readonly TracedStep[]): number => steps[0]?.group ?? 0;

export interface RankOfTrace {
  readonly name: string;
  readonly originMs: number;
  readonly steps: readonly TracedStep[];
}

/** All ranks leave this exchange together, since a step is committed by it. */
const barrier = "receive squares";

function leftBarrier({ spans }: TracedStep): number | undefined {
  const left = spans.filter(({ name }) => name === barrier).map(({ toMs }) => toMs);
  return left.length === 0 ? undefined : Math.max(...left);
}

/**
 * The clock offset with which a rank leaves the barrier together with its world's first rank in the median step. Worlds share no
 * barrier, so node clocks align them.
 */
export function originsOf(ranks: readonly RankOfTrace[]): readonly number[] {
  return ranks.map(({ originMs, steps }) => {
    const first = ranks.find((other) => groupOf(other.steps) === groupOf(steps));
    const late = steps.flatMap((own, i) => {
      const other = first?.steps[i];
      const [left, firstLeft] = [leftBarrier(own), other && leftBarrier(other)];
      return first === undefined || left === undefined || firstLeft === undefined ? [] : [originMs + left - (first.originMs + firstLeft)];
    });
    return originMs - (late.toSorted((a, b) => a - b)[Math.floor(late.length / 2)] ?? 0);
  });
}

/** Ranks on one axis that begins with the first span; spans before a rank's first step are left out. */
export function onOneAxis(ranks: readonly RankOfTrace[]): readonly TracedRank[] {
  const origins = originsOf(ranks);
  const placed = ranks.map(({ name, steps }, rank) => {
    const spans = steps.flatMap((step) => step.spans);
    const begin = spans.reduce((least, { kind, fromMs }) => (kind === "step" ? Math.min(least, fromMs) : least), Number.POSITIVE_INFINITY);
    return { name, spans: spans.filter(({ toMs }) => toMs > begin).map((span) => moved(span, origins[rank] as number)) };
  });
  const zero = placed.reduce(
    (least, { spans }) => spans.reduce((own, { fromMs }) => Math.min(own, fromMs), least),
    Number.POSITIVE_INFINITY,
  );
  return placed.map(({ name, spans }) => ({ name, spans: spans.map((span) => moved(span, -zero)) }));
}

const moved = (span: Span, ms: number): Span => Object.assign({}, span, { fromMs: span.fromMs + ms, toMs: span.toMs + ms });
