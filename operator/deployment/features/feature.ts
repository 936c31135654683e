// The interface of a feature: a pure step of a decision on the observed facts and the frozen results of the features that it needs.
import type { Observed } from "../observed.ts";

/** Something that the pass adds between features. */
export interface Given<Result> {
  readonly given?: Result;
}

export type ResultOf<F> = F extends { run(...args: never[]): infer Result } ? Result : F extends Given<infer Result> ? Result : never;
export type ResultsOf<Features> = { readonly [Name in keyof Features]: ResultOf<Features[Name]> };

interface Feature<Needs, Result> {
  /** The names are those of the lists in decide.ts. Features outside may run before or after it. */
  readonly needs: Needs;
  run(observed: Observed, before: ResultsOf<Needs>): Result;
}

export interface Listed {
  readonly needs: object;
  run(observed: Observed, before: never): unknown;
}

export function feature<Needs extends object, Result>(it: Feature<Needs, Result>): Feature<Needs, Result> {
  return it;
}

/** Runs features in order, each with what it needs alone, and freezes their results. */
export function runFeatures(
  features: Readonly<Record<string, Listed>>,
  observed: Observed,
  before: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const results = { ...before };
  for (const [name, { needs, run }] of Object.entries(features)) {
    const needed = Object.fromEntries(Object.keys(needs).map((one) => [one, results[one]]));
    results[name] = Object.freeze(run(observed, Object.freeze(needed) as never));
  }
  return results;
}
