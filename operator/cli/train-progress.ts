// The progress of training: a bar on a terminal, else a line now and then.

export interface StepShown {
  readonly step: number;
  readonly loss: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly imbalance: number;
}

export interface ProgressOutput {
  readonly isTTY: boolean;
  write(text: string): void;
}

const lineMsMin = 10_000;
/** Steps over which tokens/s is averaged. */
const recentSteps = 20;
const barCells = 24;

export function durationText(seconds: number): string {
  const whole = Math.ceil(seconds);
  if (whole < 120) return `${whole} s`;
  const minutes = Math.ceil(whole / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

function barText(share: number): string {
  const filled = Math.floor(share * barCells);
  return `[${"=".repeat(filled)}${" ".repeat(barCells - filled)}]`;
}

export class TrainProgress {
  readonly #output: ProgressOutput;
  readonly #steps: number;
  readonly #now: () => number;
  #recent: StepShown[] = [];
  #last = Number.NEGATIVE_INFINITY;

  constructor(output: ProgressOutput, steps: number, now: () => number) {
    this.#output = output;
    this.#steps = steps;
    this.#now = now;
  }

  step(shown: StepShown): void {
    this.#recent = [...this.#recent, shown].slice(-recentSteps);
    const line = this.#line(shown);
    if (this.#output.isTTY) this.#output.write(`\r\u001b[K${line}${shown.step === this.#steps ? "\n" : ""}`);
    else if (this.#now() - this.#last >= lineMsMin || shown.step === this.#steps) {
      this.#last = this.#now();
      this.#output.write(`${line}\n`);
    }
  }

  /** Prints a line of its own. */
  say(text: string): void {
    this.#output.write(`${this.#output.isTTY ? "\r\u001b[K" : ""}${text}\n`);
  }

  #line({ step, loss, imbalance }: StepShown): string {
    const sum = (of: (shown: StepShown) => number): number => this.#recent.reduce((total, shown) => total + of(shown), 0);
    const seconds = Math.max(
      sum((shown) => shown.seconds),
      1e-9,
    );
    const rate = sum(({ tokens }) => tokens) / seconds;
    const left = ((this.#steps - step) * seconds) / this.#recent.length;
    const place = `step ${step}/${this.#steps} ${barText(step / this.#steps)}`;
    return `${place} loss ${loss.toFixed(4)}, ${rate.toFixed(0)} tokens/s, busiest expert ${imbalance.toFixed(2)} x mean, ${durationText(left)} left`;
  }
}
