// Which of two engines computes each expert of a layer, so that the later one ends as early as possible (../DECISIONS.md 14). Pure. Engines
// compute at the same time, and each one's experts one after another.

/** Seconds of an expert's rows. */
export interface ExpertSeconds {
  /** Infinite where the device does not have it. */
  readonly device: number;
  readonly processor: number;
}

export type Engines<T> = Readonly<Record<"device" | "processor", T>>;

export interface Deal extends Engines<readonly number[]> {
  /** Until both have ended. */
  readonly seconds: number;
  /** What one engine by itself would take; infinite where the device lacks an expert. */
  readonly alone: Engines<number>;
}

/** All splits of twelve experts are fewer; with more, what was found until then is the answer. */
const nodesMax = 1 << 14;

/**
 * `starts`: seconds that an engine takes beside its experts, if it has any. At most `gap` of the time above the least one, unless
 * `nodesMax` ends the search.
 */
export function deal(experts: readonly ExpertSeconds[], starts: Engines<number>, gap = 0): Deal {
  const all = [...experts.keys()];
  const secondsOf = (at: number, engine: keyof ExpertSeconds): number => experts[at]?.[engine] ?? 0;
  const sum = (engine: keyof ExpertSeconds, of = all): number => of.reduce((total, at) => total + secondsOf(at, engine), starts[engine]);
  const alone = { device: sum("device"), processor: sum("processor") };
  const isFree = (at: number): boolean => Number.isFinite(secondsOf(at, "device"));
  const advantage = (at: number): number => secondsOf(at, "processor") / Math.max(secondsOf(at, "device"), Number.MIN_VALUE);
  const free = all.filter(isFree).sort((a, b) => advantage(b) - advantage(a));
  const inOrder = free.map((at) => experts[at] as ExpertSeconds);
  const search = new Search(inOrder, { gap, most: Math.min(alone.device, alone.processor) });
  const bound = all.filter((at) => !isFree(at));
  search.visit(0, { device: starts.device, processor: sum("processor", bound) });
  const { best, seconds } = search;
  const onDevice = new Set(best ? free.filter((_, i) => best[i] === 1) : alone.device <= alone.processor ? all : []);
  const on = (is: boolean): number[] => all.filter((at) => onDevice.has(at) === is);
  return { device: on(true), processor: on(false), seconds, alone };
}

const sumsOf = (values: readonly number[]): number[] => {
  let sum = 0;
  return [0, ...values.map((value) => (sum += value))];
};

/**
 * Experts come by their advantage on the device. If one of them could be cut, the best split would give the device the first ones and a part
 * of the next: that bounds what a node can still reach, and names the branch to try first.
 */
class Search {
  best: Uint8Array | undefined;
  seconds: number;
  readonly #experts: readonly ExpertSeconds[];
  readonly #gap: number;
  /** Sums of the first ones. */
  readonly #device: readonly number[];
  readonly #processor: readonly number[];
  /** 1 = to the device. */
  readonly #given: Uint8Array;
  #nodes = 0;

  constructor(experts: readonly ExpertSeconds[], { gap, most }: { readonly gap: number; readonly most: number }) {
    this.#experts = experts;
    this.#gap = gap;
    this.seconds = most;
    this.#given = new Uint8Array(experts.length);
    this.#device = sumsOf(experts.map(({ device }) => device));
    this.#processor = sumsOf(experts.map(({ processor }) => processor));
  }

  /** `taken`: by the experts before `at`. */
  visit(at: number, taken: Engines<number>): void {
    this.#nodes += 1;
    const { cut, least } = this.#relaxed(at, taken);
    if (this.#nodes > nodesMax || least >= this.seconds * (1 - this.#gap)) return;
    const expert = this.#experts[at];
    if (expert === undefined) {
      this.seconds = least;
      this.best = this.#given.slice();
      return;
    }
    for (const on of at < cut ? [1, 0] : [0, 1]) {
      if (on === 1 && this.#isTwin(at)) continue;
      this.#given[at] = on;
      const device = taken.device + on * expert.device;
      const processor = taken.processor + (1 - on) * expert.processor;
      this.visit(at + 1, { device, processor });
    }
    this.#given[at] = 0;
  }

  /** The first ones of equal experts go to the device. */
  #isTwin(at: number): boolean {
    const [before, own] = [this.#experts[at - 1], this.#experts[at] as ExpertSeconds];
    return before?.device === own.device && before.processor === own.processor && this.#given[at - 1] === 0;
  }

  /** The least time of what is left, and the expert that is cut then. */
  #relaxed(at: number, taken: Engines<number>): { readonly cut: number; readonly least: number } {
    const n = this.#experts.length;
    const device = (to: number): number => taken.device + (this.#device[to] as number) - (this.#device[at] as number);
    const processor = (from: number): number => taken.processor + (this.#processor[n] as number) - (this.#processor[from] as number);
    let [low, high] = [at, n];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (device(middle + 1) >= processor(middle + 1)) high = middle;
      else low = middle + 1;
    }
    const expert = this.#experts[low];
    if (expert === undefined) return { cut: n, least: Math.max(device(n), processor(n)) };
    const [before, behind] = [device(low), processor(low)];
    const part = Math.max(0, Math.min(1, (behind - before) / (expert.device + expert.processor || 1)));
    return { cut: low, least: Math.max(before + part * expert.device, behind - part * expert.processor) };
  }
}
