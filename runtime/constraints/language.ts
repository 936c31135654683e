// A language over bytes to which a text may be constrained.
import type { ConstraintName } from "../../crds/names.ts";

export interface Constraint {
  readonly name: ConstraintName;
  /** The language's parameter, such as a schema's text; "" if it has none. */
  readonly spec: string;
}

/** A deterministic automaton over bytes. */
export interface Language {
  readonly start: string;
  /** Undefined where no text of the language continues so. */
  step(state: string, byte: number): string | undefined;
  /** The same state for all states that texts of at most so many bytes cannot tell apart. */
  alike(state: string, bytes: number): string;
  /** True where a text may end. */
  ends(state: string): boolean;
}
