// The time that a training pod waits for what belongs to a step: what the spec says, or a multiple of what steps took here, so that a rank
// that lives and does nothing holds nobody up. What a world begins and ends with, such as reading a checkpoint, may take longer.
import { AppError } from "../../../crds/common.ts";
import { autoDuration, parseDuration } from "../../../crds/quantity.ts";
import { frameMsMax } from "../../net/collectives/transport.ts";
import type { Clocked, NamedSpan } from "../trace/recorder.ts";

/** Auto: this many steps, of as long as the middle one of the last ones took, and no less than this. */
const stepsWaited = 10;
const stepsKept = 20;
const autoMsMin = 30_000;
/** Between two looks at whether a world is over that a step is still in. */
const lookMs = 1_000;

/** Exchanges of a step, whose frames a rank sends as it computes. */
const exchangesOfSteps: readonly string[] = [
  ...["plan", "counts", "rows", "outputs", "gradients", "row gradients", "copies", "copies again", "sums", "shadow sums"],
  ...["dense sums", "losses", "squares", "parameters"],
];

/** A rank's own failure: its step stands still, and another pod has to go on. */
export const stuckCode = "StepStuck";

export class StepTimeout implements Clocked {
  readonly #given: number | undefined;
  readonly #inner: Clocked;
  readonly #now: () => number;
  #took: readonly number[] = [];
  #inStep = false;

  /** `inner` is told what runs when, too. */
  constructor(setting: string, inner: Clocked, now: () => number) {
    this.#given = setting === autoDuration ? undefined : parseDuration(setting, "spec.failurePolicy.stepTimeout");
    this.#inner = inner;
    this.#now = now;
  }

  /** Milliseconds that a frame of an exchange is waited for. */
  frameMs(what: string): number {
    return exchangesOfSteps.includes(what) ? this.#stepMs : frameMsMax;
  }

  get #stepMs(): number {
    return this.#given ?? Math.min(frameMsMax, Math.max(autoMsMin, this.#manySteps));
  }

  /** Before a step was made here nothing is known of what one takes. */
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

  /** What a run gives, or `StepStuck` where its world has been over for that time, and for ten steps, and the run is still in one: it waits
   *  for what never comes, of a disk for one, and nobody else can end it. */
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
