// The state of a green deployment and the next step with it.
import type { Operation } from "../../../crds/operation.ts";
import type { GreenStatus, RollbackReason } from "../../../crds/rollout.ts";

export interface RollFailure {
  readonly reason: RollbackReason;
  readonly message: string;
}

/** Whose gateways the Service selects. */
export type Front = "Own" | "Both" | "Green";

export interface Sizes {
  readonly ranks: number;
  readonly gateways: number;
}

export interface GreenFacts {
  readonly name: string;
  readonly uid: string;
  readonly terminating: boolean;
  readonly suspended: boolean;
  /** All its ranks and gateways serve. */
  readonly serves: boolean;
  readonly pods: number;
  readonly sizes: Sizes;
  /** Why it will not serve; undefined while it may. */
  readonly failure: RollFailure | undefined;
  /** Why it finds no capacity; empty while it does. */
  readonly noCapacity: string;
  /** Milliseconds left to start; undefined where unknown. */
  readonly dueInMs: number | undefined;
  /** Its own message. */
  readonly message: string;
}

export interface GreenStep {
  readonly front: Front;
  /** `Widen` gives it the deployment's full number of gateways and ranks. */
  readonly act: "None" | "Create" | "Widen" | "Suspend" | "Delete";
  /** The spec does not take effect yet; the ranks go on serving. */
  readonly holds: boolean;
  /** Why the change is rolled back. */
  readonly failure: RollFailure | undefined;
  /** Undefined where no green deployment exists or is about to. */
  readonly status: GreenStatus | undefined;
  readonly phase: Operation["phase"];
  readonly message: string;
  /** Milliseconds to the next pass even if nothing changes. */
  readonly againInMs: number | undefined;
}

export interface GreenLook extends GreenStep {
  /** Undefined before it is created. */
  readonly child: GreenFacts | undefined;
  readonly templateHash: string;
}
