// The checks behind the claims of the training demo: a curve is unbroken when every step is in it once and no change of ranks shows in
// it, and a model has learnt to write when its words are those of the text. Pure.
import type { CurvePoint } from "../../../crds/training-report.ts";

/** Steps on each side of a place whose mean losses are compared. */
const windowSteps = 10;
/** How much more a loss may rise at a change of ranks than it does anywhere else, in nats. */
const riseSlack = 0.05;

interface Curve {
  /** Steps that the curve should have but has not. */
  readonly missing: readonly number[];
  /** Steps that it has more than once, or that do not follow on those before. */
  readonly disordered: readonly number[];
  /** The largest rise at one of the places, and at any other place. */
  readonly rise: number;
  readonly riseElsewhere: number;
}

/** `changes`: the steps after which ranks changed. */
export function examine(points: readonly CurvePoint[], steps: number, changes: readonly number[]): Curve {
  const seen = new Set(points.map(({ step }) => step));
  let most = 0;
  const disordered = points.flatMap(({ step }) => {
    const late = step <= most;
    most = Math.max(most, step);
    return late ? [step] : [];
  });
  const missing = Array.from({ length: steps }, (_, i) => i + 1).filter((step) => !seen.has(step));
  const near = (step: number, of: number): boolean => changes.some((change) => Math.abs(change - step) <= of);
  const rises = points.map(({ step }, i) => ({ step, rise: riseAt(points, i) })).filter(({ rise }) => rise !== undefined);
  const largest = (of: typeof rises): number => of.reduce((found, { rise = 0 }) => Math.max(found, rise), 0);
  return {
    missing,
    disordered,
    rise: largest(rises.filter(({ step }) => near(step, 1))),
    riseElsewhere: largest(rises.filter(({ step }) => !near(step, windowSteps))),
  };
}

/** The mean loss of the steps behind the place less that of those up to it. */
function riseAt(points: readonly CurvePoint[], index: number): number | undefined {
  const [before, after] = [points.slice(index + 1 - windowSteps, index + 1), points.slice(index + 1, index + 1 + windowSteps)];
  if (index + 1 < windowSteps || after.length < windowSteps) return undefined;
  const mean = (of: readonly CurvePoint[]): number => of.reduce((sum, { loss }) => sum + loss, 0) / of.length;
  return mean(after) - mean(before);
}

/** What breaks the curve; undefined where nothing does. A lost rank may take with it the line of the step that was under way, not the
 *  step: the others finish it where they can, and nobody is there to write it down. */
export function breakOf({ missing, disordered, rise, riseElsewhere }: Curve, lost: number): string | undefined {
  if (disordered.length > 0) return `steps ${disordered.slice(0, 5).join(", ")} are there twice or out of order`;
  if (missing.length > lost) return `steps ${missing.slice(0, 5).join(", ")} are missing`;
  if (rise > riseElsewhere + riseSlack)
    return `the loss rises by ${rise.toFixed(3)} where ranks changed, and by ${riseElsewhere.toFixed(3)} at most elsewhere`;
  return undefined;
}

/** Words of three letters or more, in small letters. */
export const wordsOf = (text: string): string[] => text.toLowerCase().match(/[a-z]{3,}/g) ?? [];

/** How many of a text's words another one has. */
export function knownWords(text: string, vocabulary: ReadonlySet<string>): { readonly known: number; readonly words: number } {
  const words = wordsOf(text);
  return { known: words.filter((word) => vocabulary.has(word)).length, words: words.length };
}
