// Summarises traced steps: the mean time of a rank's step by purpose, in total and per layer.
import { momentsOf, type Span, type Times, worldsMeet } from "./spans.ts";

interface LayerTimes {
  /** -1 for what belongs to no layer. */
  readonly layer: number;
  readonly compute: number;
  readonly dispatch: number;
  /** Time with replicas in transfer, hidden or not; `spRS` is the same for sums. */
  readonly spAG: number;
  readonly spRS: number;
  readonly exposed: number;
}

/** Milliseconds per step of one rank; `Times` cover the whole step. */
export interface RankTimes extends Times {
  readonly steps: number;
  readonly step: number;
  readonly between: number;
  /** Meetings with other worlds, a part of `between`. */
  readonly worlds: number;
  readonly layers: readonly LayerTimes[];
}

type Sums<T> = { -readonly [Field in keyof T]: T[Field] };

const collectives = ["spAG", "spRS"] as const;
const lengthOf = (spans: readonly Span[]): number => spans.reduce((sum, { fromMs, toMs }) => sum + toMs - fromMs, 0);

export function rankTimes(spans: readonly Span[]): RankTimes {
  const times = { compute: 0, dispatch: 0, meeting: 0, spRS: 0, spAG: 0, host: 0 };
  const layers = new Map<number, Sums<LayerTimes>>();
  const of = (layer: number): Sums<LayerTimes> => {
    const known = layers.get(layer) ?? { layer, compute: 0, dispatch: 0, spAG: 0, spRS: 0, exposed: 0 };
    layers.set(layer, known);
    return known;
  };
  for (const { kind, layer, fromMs, toMs, open } of momentsOf(spans)) {
    const ms = toMs - fromMs;
    times[kind] += ms;
    if (kind === "compute" || kind === "dispatch") of(layer)[kind] += ms;
    if (kind === "spAG" || kind === "spRS") of(layer).exposed += ms;
    for (const each of collectives) for (const own of new Set(Array.from(open[each], (span) => span.layer))) of(own)[each] += ms;
  }
  const steps = spans.filter(({ kind }) => kind === "step").sort((a, b) => a.fromMs - b.fromMs);
  const inSteps = lengthOf(steps);
  const [from, to] = [steps[0]?.fromMs ?? 0, steps.at(-1)?.toMs ?? 0];
  const between = to - from - inSteps;
  const worlds = lengthOf(spans.filter(({ name, fromMs, toMs }) => name === worldsMeet && from <= fromMs && toMs <= to));
  const mean = <T extends object>(sums: T): T => meanOf(sums, steps.length);
  return {
    ...mean({ ...times, step: inSteps, between, worlds }),
    steps: steps.length,
    layers: [...layers.values()].sort((a, b) => a.layer - b.layer).map(({ layer, ...sums }) => ({ layer, ...mean(sums) })),
  };
}

function meanOf<T extends object>(sums: T, count: number): T {
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, count === 0 ? 0 : sum / count])) as T;
}

export interface LayerOfRanks extends LayerTimes {
  readonly most: number;
  readonly at: number;
}

export function layersOf(ranks: readonly RankTimes[]): readonly LayerOfRanks[] {
  const numbers = [...new Set(ranks.flatMap(({ layers }) => layers.map(({ layer }) => layer)))].sort((a, b) => a - b);
  return numbers.map((layer) => {
    const own = ranks.map(({ layers }) => layers.find((each) => each.layer === layer));
    const mean = (field: keyof LayerTimes): number => own.reduce((sum, each) => sum + (each?.[field] ?? 0), 0) / ranks.length;
    const exposed = own.map((each) => each?.exposed ?? 0);
    const most = Math.max(...exposed);
    const means = {
      compute: mean("compute"),
      dispatch: mean("dispatch"),
      spAG: mean("spAG"),
      spRS: mean("spRS"),
      exposed: mean("exposed"),
    };
    return { layer, ...means, most, at: exposed.indexOf(most) };
  });
}
