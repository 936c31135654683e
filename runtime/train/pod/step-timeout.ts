// The timeout of exchanges within a step: the spec's, or a multiple of measured step times, so that a stalled rank blocks nobody. Begin
// and end of a world may take longer.
import { AppError } from "../../../crds/common.ts";
import { autoDuration, parseDuration } from "../../../crds/quantity.ts";
import { frameMsMax } from "../../net/collectives/transport.ts";
import type { Clocked, NamedSpan } from "../trace/recorder.ts";

/** Auto waits for this many median steps, and at least this long. */
const stepsWaited = 10;
const stepsKept = 20;
const autoMsMin = 30_000;
const lookMs = 1_000;

const exchangesOfSteps: readonly string[] = [
  ...["plan", "counts", "rows", "outputs", "gradients", "row gradients", "copies", "copies again", "sums", "shadow sums"],
  ...["dense sums", "losses", "squares", "parameters"],
];

export const stuckCode = "StepStuck";

export class StepTimeout implements Clocked {
  readonly #given: number | undefined;
  readonly #inner: Clocked;
  readonly #now: () => number;
  #took: readonly number[] = [];
  #inStep = false;

  constructor(setting: string, inner: Clocked, now: () => number) {
    this.#given = setting === autoDuration ? undefined : parseDuration(setting, "spec.failurePolicy.stepTimeout");
    this.#inner = inner;
    this.#now = now;
  }

  frameMs(what: string): number {
    return exchangesOfSteps.includes(what) ? this.#stepMs : frameMsMax;
  }

  get #stepMs(): number {
    return this.#given ?? Math.min(frameMsMax, Math.max(autoMsMin, this.#manySteps));
  }

  get #manySteps(): number {
    const middle = this.#took.toSorted((a, b) => a - b)[Math.floor(this.#took.length / 2)];
    return middle === undefined ? frameMsMax : Math.min(frameMsMax, stepsWaited * middle);
  }

  async around<T>(named: NamedSpan, run: () => Promise<T>): Promise<T> {
    if (named.kind !== "step") return this.#inner.around(named, run);
    const from = this.#now();
    this.#inStep = true;
    try {
      const done = await this.#inner.around(named, run);
      this.#took = [...this.#took, this.#now() - from].slice(-stepsKept);
      return done;
    } finally {
      this.#inStep = false;
    }
  }

  /**
   * The run's result, or `StepStuck` where its world is over for the timeout and ten steps while the run is still in a step, as with a
   * stuck disk.
   */
  async notStuck<T>(run: Promise<T>, over: () => boolean): Promise<T> {
    let looks: NodeJS.Timeout | undefined;
    const stuck = new Promise<never>((_, reject) => {
      let since: number | undefined;
      looks = setInterval(() => {
        if (!over()) return;
        since ??= this.#now();
        const ms = this.#now() - since;
        if (ms >= (this.#inStep ? Math.max(this.#stepMs, this.#manySteps) : frameMsMax)) reject(stuckFor(ms));
      }, lookMs);
    });
    try {
      return await Promise.race([run, stuck]);
    } finally {
      clearInterval(looks);
    }
  }
}

const stuckFor = (ms: number): AppError =>
  new AppError(
    `the world is over for ${Math.round(ms / 1000)} s, and this rank is still in its step: see whether its volumes answer; another pod goes on`,
    { code: stuckCode, operation: "leaving a world", retry: "backoff" },
  );
