// A language that a text may be held to, told byte by byte, and how a request names it. Types only.
import type { ConstraintName } from "../../crds/names.ts";

export interface Constraint {
  readonly name: ConstraintName;
  /** What the language depends on, such as a schema's text; "" for a language of its own. */
  readonly spec: string;
}

/** A deterministic automaton over bytes. */
export interface Language {
  /** The state before the first byte. */
  readonly start: string;
  /** The state after one more byte; undefined where no text of the language goes on so. */
  step(state: string, byte: number): string | undefined;
  /** One state for all those that texts of at most so many bytes go on from alike. */
  alike(state: string, bytes: number): string;
  /** True where a text may end. */
  ends(state: string): boolean;
}
