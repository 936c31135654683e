// The progress of a list of builds, as numbers and as one line: how far it is, and how long the rest will take. build-progress.ts asks
// it before, while and after each program is built; it runs nothing itself. Pure.

export interface Step {
  readonly program: string;
  /** The seconds of its build where that was once measured; only the proportions to the others count. */
  readonly usualSeconds: number;
}

export interface Done {
  readonly usualSeconds: number;
  readonly seconds: number;
}

/** The standing of a run: the steps that are done, the one under way and for how long, and those still to come. */
export interface Standing {
  readonly done: readonly Done[];
  readonly now: Step & { readonly seconds: number };
  readonly ahead: readonly Step[];
}

/** The usual times count like so many seconds of what was measured here: one tiny program must not decide the pace. */
const trustSeconds = 20;
/** A build that is overdue is not over in no time. */
const overduePart = 0.1;

const usual = (steps: readonly { readonly usualSeconds: number }[]): number => steps.reduce((sum, step) => sum + step.usualSeconds, 0);
const spent = (done: readonly Done[]): number => done.reduce((sum, step) => sum + step.seconds, 0);

/** Seconds per usual second on this machine, by the builds that are done and one that takes longer than it should. */
function pace({ done, now }: Standing): number {
  const measured = trustSeconds + spent(done);
  const expected = trustSeconds + usual(done);
  const known = measured / expected;
  return now.seconds <= now.usualSeconds * known ? known : (measured + now.seconds) / (expected + now.usualSeconds);
}

/** Seconds until the last program of the list is built. */
export function secondsLeft(standing: Standing): number {
  const { now, ahead } = standing;
  const rate = pace(standing);
  const running = Math.max(now.usualSeconds * rate - now.seconds, now.seconds * overduePart);
  return running + usual(ahead) * rate;
}

/** "[5/14] kube-apiserver 45 s; 4 min in all, about 8 min left" */
export function standingText(standing: Standing): string {
  const { done, now, ahead } = standing;
  const position = `[${done.length + 1}/${done.length + 1 + ahead.length}] ${now.program}`;
  const here = now.seconds < 1 ? "starts" : timeText(now.seconds);
  return `${position} ${here}; ${timeText(spent(done) + now.seconds)} in all, about ${timeText(secondsLeft(standing))} left`;
}

/** Seconds below a minute and a half, then minutes: an estimate has no more digits than that. */
export function timeText(seconds: number): string {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
