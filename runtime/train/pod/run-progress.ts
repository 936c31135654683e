// The progress of a run for the operator: step, loss, speed, time left, and a short curve.
import { type CurvePoint, joinCurves, type LayerCopies, type TrainingReport, type TrainingSpread } from "../../../crds/training-report.ts";

interface Step {
  readonly step: number;
  readonly loss: number;
  readonly gradientNorm: number;
  readonly imbalance: number;
  readonly tokens: number;
  readonly seconds: number;
}

const recentSteps = 20;

/** JSON has no NaN and no infinity. */
const isNumber = (value: number | undefined): value is number => Number.isFinite(value);

export class Progress {
  readonly #steps: number;
  #recent: readonly Step[] = [];
  #curve: readonly CurvePoint[] = [];
  #step: number | undefined;
  #loss: number | undefined;
  #gradientNorm: number | undefined;
  #imbalance: number | undefined;
  #validationLoss: number | undefined;
  #spread: TrainingSpread | undefined;
  #copies: readonly LayerCopies[] = [];

  constructor(steps: number) {
    this.#steps = steps;
  }

  stepsAfter(step: number): number {
    return Math.max(0, (this.#step ?? 0) - step);
  }

  start(step: number): void {
    this.#step = step;
    this.#recent = [];
    this.#copies = [];
  }

  add(done: Step): void {
    this.#step = done.step;
    this.#loss = done.loss;
    this.#gradientNorm = done.gradientNorm;
    this.#imbalance = done.imbalance;
    this.#recent = [...this.#recent, done].slice(-recentSteps);
    this.#curve = joinCurves(this.#curve, [{ step: done.step, loss: done.loss }]);
  }

  spread(spread: TrainingSpread): void {
    this.#spread = spread;
  }

  copies(copies: readonly LayerCopies[]): void {
    this.#copies = copies;
  }

  validated(loss: number): void {
    this.#validationLoss = loss;
  }

  report(): TrainingReport {
    const sum = (of: (step: Step) => number): number => this.#recent.reduce((total, step) => total + of(step), 0);
    const seconds = sum((step) => step.seconds);
    const measured = this.#step !== undefined && this.#recent.length > 0 && seconds > 0;
    return {
      ...(this.#step !== undefined && { step: this.#step }),
      ...(isNumber(this.#loss) && { loss: this.#loss }),
      ...(isNumber(this.#validationLoss) && { validationLoss: this.#validationLoss }),
      ...(isNumber(this.#gradientNorm) && { gradientNorm: this.#gradientNorm }),
      ...(isNumber(this.#imbalance) && { imbalance: this.#imbalance }),
      ...(this.#spread !== undefined && { spread: this.#spread }),
      ...(this.#copies.length > 0 && { copies: [...this.#copies] }),
      ...(measured && {
        tokensPerSecond: sum((step) => step.tokens) / seconds,
        secondsLeft: ((this.#steps - (this.#step ?? 0)) * seconds) / this.#recent.length,
      }),
      curve: [...this.#curve],
    };
  }
}
