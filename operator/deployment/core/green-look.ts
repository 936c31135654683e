// One look at the green deployment of a deployment that changes its model or codec: what is there of it, and what is to be done.

import type { GreenStatus } from "../../../crds/blue-green.ts";
import type { Operation } from "../../../crds/operation.ts";
import type { RollFailure } from "./roll-failure.ts";

/** Whose gateways the Service leads to. */
export type Front = "Own" | "Both" | "Green";

export interface Sizes {
  readonly ranks: number;
  readonly gateways: number;
}

export interface GreenFacts {
  readonly name: string;
  readonly uid: string;
  readonly terminating: boolean;
  /** It was told to stop. */
  readonly suspended: boolean;
  /** All its ranks and gateways serve. */
  readonly serves: boolean;
  /** Its pods that are still there, of any kind. */
  readonly pods: number;
  /** What it is to have. */
  readonly sizes: Sizes;
  /** The reason why it will not serve; undefined while it may. */
  readonly failure: RollFailure | undefined;
  /** The reason why there is no room for it; empty when there is, as far as is known. */
  readonly noCapacity: string;
  /** Milliseconds until it is out of time; undefined where that is not known. */
  readonly dueInMs: number | undefined;
  /** What it says of itself. */
  readonly message: string;
}

export interface GreenStep {
  /** Where the Service is to lead. */
  readonly front: Front;
  /** `Widen` gives it as many gateways and ranks as the deployment has. */
  readonly act: "None" | "Create" | "Widen" | "Suspend" | "Delete";
  /** The spec does not come into force yet: the ranks serve on as they are. */
  readonly holds: boolean;
  /** The reason why the roll is taken back. */
  readonly failure: RollFailure | undefined;
  /** Undefined where no green deployment is there or to be made. */
  readonly status: GreenStatus | undefined;
  readonly phase: Operation["phase"];
  readonly message: string;
  /** Milliseconds after which to look again, even if nothing changes. */
  readonly againInMs: number | undefined;
}

/** The green deployment of a change of model, and what is to be done. */
export interface GreenLook extends GreenStep {
  /** Undefined while it is to be made. */
  readonly child: GreenFacts | undefined;
  /** The worker template that the spec has. */
  readonly templateHash: string;
}
