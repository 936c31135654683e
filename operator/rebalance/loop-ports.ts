// What one deployment's loop is given by the controller, and what its parts share. Types only.

import type { MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { Log } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/metrics.ts";
import type { Identity, World } from "../deployment/ports.ts";
import type { Ref } from "../kube/kube.ts";
import type { ModelShape } from "../planner/policy.ts";
import type { Planner } from "./intents/planner-thread.ts";
import type { Balance } from "./links/load-picture.ts";
import type { Model, RankView } from "./links/members.ts";
import type { Telemetry } from "./links/telemetry.ts";
import type { Clock, OpenLink, PlacementStore } from "./ports.ts";
import type { RolloutResult } from "./rollout/rollout.ts";

export interface PlanEnd {
  readonly kind: string;
  /** Undefined: it was cut short, such as when the store did not answer. */
  readonly result: RolloutResult | undefined;
}

export interface LoopPorts {
  readonly clock: Clock;
  readonly store: PlacementStore;
  readonly openLink: OpenLink;
  readonly planner: Planner;
  readonly telemetry: Telemetry;
  readonly metrics: Pick<Metrics<"operator">, "add" | "set" | "observe">;
  readonly log: Log;
  identity(ref: Ref, uid: string): Promise<Identity>;
  natsUrl(spec: MoEDeploymentSpec): string | undefined;
  event(world: World, type: "Normal" | "Warning", reason: string, message: string): void;
  onChange(ref: Ref): void;
  /** A plan began, or ended. */
  onRollout(ref: Ref, running: { readonly deadlineMs: number } | undefined, done: PlanEnd | undefined): void;
}

/** What the loop observes and the steps read. */
export interface Observed {
  world: World;
  views: readonly RankView[];
  /** What `shape` and `balance` are of. */
  model: Model | undefined;
  shape: ModelShape | undefined;
  balance: Balance | undefined;
}
