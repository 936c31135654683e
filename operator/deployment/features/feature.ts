// The interface of a feature: a pure step of a decision on the observed facts and the frozen results that it names.
import type { Observed } from "../observed.ts";
import type { Results } from "./results.ts";

export interface Feature<Name extends keyof Results = keyof Results, Needs extends keyof Results = never> {
  readonly name: Name;
  /** Features outside this list may run before or after it. */
  readonly needs: readonly Needs[];
  run(observed: Observed, before: Pick<Results, Needs>): Results[Name];
}

export interface Listed {
  readonly name: keyof Results;
  readonly needs: readonly (keyof Results)[];
  run(observed: Observed, before: Results): unknown;
}

export function feature<Name extends keyof Results, Needs extends keyof Results = never>(it: Feature<Name, Needs>): Listed {
  return it as Listed;
}

/** Runs features in order and freezes their results. */
export function runFeatures<Made extends keyof Results>(
  features: readonly Listed[],
  observed: Observed,
  before: Partial<Results>,
): Pick<Results, Made> {
  const results: Partial<Record<keyof Results, unknown>> = { ...before };
  for (const { name, run } of features) results[name] = Object.freeze(run(observed, Object.freeze({ ...results }) as Results));
  return Object.freeze(results) as Pick<Results, Made>;
}
