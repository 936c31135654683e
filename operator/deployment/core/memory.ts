// What the operator knows of a deployment beyond its cluster state and status: lost with the process, and found again. One record per uid. Pure.
import type { History } from "./autoscale/history.ts";
import type { Watched } from "./served.ts";

/** A write that the API server refused; it is not tried again before `untilMs` of the process's clock. */
export interface Refused {
  readonly name: string;
  readonly message: string;
  readonly untilMs: number;
}

export interface Memory {
  readonly jobRefused: Refused | undefined;
  readonly greenRefused: Refused | undefined;
  /** The green deployment that found no capacity, until the spec is another. */
  readonly greenNoCapacity: string | undefined;
  /** A pod beside the wanted ranks. */
  readonly surgeRefused: Refused | undefined;
  /** The reason why a pod could not be made in the last pass; empty when all were. */
  readonly createError: string;
  /** Dry runs that were refused, by the hash of the template. Consent is not kept: something that serves may be deleted for it. */
  readonly dryRuns: ReadonlyMap<string, { readonly atMs: number; readonly problem: string }>;
  /** Totals since canaries bake, and since a green deployment does. */
  readonly canaryBake: Watched | undefined;
  readonly greenBake: Watched | undefined;
  /** Since when ranks that stop wait for gateways. */
  readonly gatewaysSinceMs: number | undefined;
  readonly autoscaleHistory: History;
  /** This process has looked at who sets the number of ranks. */
  readonly ownerSeen: boolean;
  /** The autoscaler is about to set 0, or somebody else has. */
  readonly zero: "going" | "others" | undefined;
}

export const noMemory: Memory = {
  jobRefused: undefined,
  greenRefused: undefined,
  greenNoCapacity: undefined,
  surgeRefused: undefined,
  createError: "",
  dryRuns: new Map(),
  canaryBake: undefined,
  greenBake: undefined,
  gatewaysSinceMs: undefined,
  autoscaleHistory: [],
  ownerSeen: false,
  zero: undefined,
};
