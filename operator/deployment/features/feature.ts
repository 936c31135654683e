// The contract of a feature: a pure step of a decision, which gets what was observed and the frozen results that it names. Pure.
import type { Observed } from "../observed.ts";
import type { Results } from "./results.ts";

export interface Feature<Name extends keyof Results = keyof Results, Needs extends keyof Results = never> {
  readonly name: Name;
  /** The features whose results it gets; the others may run before it or after it. */
  readonly needs: readonly Needs[];
  run(observed: Observed, before: Pick<Results, Needs>): Results[Name];
}

/** A feature in a list; `run` is given all results so far. */
export interface Listed {
  readonly name: keyof Results;
  readonly needs: readonly (keyof Results)[];
  run(observed: Observed, before: Results): unknown;
}

export function feature<Name extends keyof Results, Needs extends keyof Results = never>(it: Feature<Name, Needs>): Listed {
  return it as Listed;
}

/** Runs features in order; each sees the results before it, which nobody can change. */
export function runFeatures<Made extends keyof Results>(
  features: readonly Listed[],
  observed: Observed,
  before: Partial<Results>,
): Pick<Results, Made> {
  const results: Partial<Record<keyof Results, unknown>> = { ...before };
  for (const { name, run } of features) results[name] = Object.freeze(run(observed, Object.freeze({ ...results }) as Results));
  return Object.freeze(results) as Pick<Results, Made>;
}
