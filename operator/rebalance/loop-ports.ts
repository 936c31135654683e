// What one deployment's loop is given by the controller. Types only.

import type { MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { Log } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/metrics.ts";
import type { Identity, World } from "../deployment/ports.ts";
import type { Ref } from "../kube/kube.ts";
import type { Balance, BalanceFacts } from "./balance.ts";
import type { Planner } from "./planner-thread.ts";
import type { Clock, OpenLink, PlacementStore } from "./ports.ts";
import type { RolloutResult } from "./rollout.ts";
import type { Telemetry } from "./telemetry.ts";

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
  /** A window was closed: gauges of load. */
  onWindow(ref: Ref, balance: Balance, facts: BalanceFacts): void;
  /** A plan began, or ended with this result. */
  onRollout(ref: Ref, running: boolean, done: { readonly kind: string; readonly result: RolloutResult } | undefined): void;
}
