// A language over bytes to which a text may be constrained.
import type { ConstraintName } from "../../crds/names.ts";

export interface Constraint {
  readonly name: ConstraintName;
  /** The language's parameter, such as a schema's text; "" if it has none. */
  readonly spec: string;
}

/** Texts of at most so many bytes; without `ends`, those without bytes that end a string or begin an escape. */
export interface Reach {
  readonly bytes: number;
  readonly ends: boolean;
}

/** A state, or work for one, which may be left at each of its yields and gone on with later. */
export type Unhurried = string | Generator<undefined, string>;

export function* unhurried(work: Unhurried): Generator<undefined, string> {
  return typeof work === "string" ? work : yield* work;
}

/** Does all of it at once. */
export function whole(work: Unhurried): string {
  const steps = unhurried(work);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** A deterministic automaton over bytes. */
export interface Language {
  readonly start: string;
  /** Undefined where no text of the language continues so. */
  step(state: string, byte: number): string | undefined;
  /** The same state for states that texts of this reach cannot tell apart. It is stepped within the reach only. */
  alike(state: string, reach: Reach): Unhurried;
  /** True where a text may end. */
  ends(state: string): boolean;
}
