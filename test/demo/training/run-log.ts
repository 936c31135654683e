// A training run as it is seen from outside: its lines of metrics, the job's status, and what happened when. Keeps the longest time without
// a new step. Pure but for the clock given.
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { StepShown } from "../../../operator/cli/train-progress.ts";

interface Happening {
  /** Since the job was applied. */
  readonly seconds: number;
  /** The last step that was made then. */
  readonly step: number;
  readonly what: string;
}

/** Lines of steps, in the order of the file; other lines, and one that is half written, are none. */
export function parseMetrics(text: string): StepShown[] {
  return text.split("\n").flatMap((line) => {
    try {
      const { step, loss, tokens, seconds, imbalance } = JSON.parse(line) as Partial<StepShown>;
      if (step === undefined || loss === undefined || tokens === undefined || seconds === undefined || imbalance === undefined) return [];
      return [{ step, loss, tokens, seconds, imbalance }];
    } catch {
      return [];
    }
  });
}

export class RunLog {
  readonly happenings: Happening[] = [];
  lines: readonly StepShown[] = [];
  status: MoETrainingJobStatus = {};
  /** The longest time without a new step, after which step it was. */
  pause = { seconds: 0, step: 0 };
  /** From the apply to the first step. */
  firstStepSeconds: number | undefined;
  readonly #now: () => number;
  readonly #began: number;
  #grew: number | undefined;
  /** The last step that was ever seen. */
  #most = 0;

  /** `now` in milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
    this.#began = now();
  }

  get step(): number {
    return this.lines.at(-1)?.step ?? 0;
  }

  get seconds(): number {
    return (this.#now() - this.#began) / 1000;
  }

  happened(what: string): void {
    this.happenings.push({ seconds: this.seconds, step: this.step, what });
  }

  /** The file of metrics as it is now. A world that begins may take lines of a step that is made again. */
  read(text: string): void {
    this.lines = parseMetrics(text);
    const before = this.#most;
    if (this.step <= before) return;
    this.#most = this.step;
    const now = this.#now();
    if (this.#grew === undefined) this.firstStepSeconds = this.seconds;
    else if ((now - this.#grew) / 1000 > this.pause.seconds) this.pause = { seconds: (now - this.#grew) / 1000, step: before };
    this.#grew = now;
  }

  take(status: MoETrainingJobStatus): void {
    const { world } = status;
    if (world !== undefined && world.epoch !== this.status.world?.epoch)
      this.happened(
        `world ${world.epoch}: ${world.ranks.length} ranks, ${world.ranks.map(({ rank, node }) => `${rank} on ${node}`).join(", ")}`,
      );
    this.status = status;
  }
}
