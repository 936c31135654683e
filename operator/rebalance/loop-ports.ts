// The ports that the controller gives one deployment's loop.

import type { Log } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import type { Tracing } from "../../runtime/observe/trace.ts";
import type { Deployments, World } from "../deployment/ports.ts";
import type { Identity } from "../kube/ask-pod.ts";
import type { Ref } from "../kube/kube.ts";
import type { Planner } from "./intents/planner-thread.ts";
import type { Telemetry } from "./links/load-messages.ts";
import type { Clock, OpenLink, PlacementStore } from "./ports.ts";
import type { PlanEnd } from "./rollout/proposal.ts";
import type { ProtocolRules } from "./rollout/protocol-types.ts";

export interface LoopPorts {
  readonly clock: Clock;
  /** Unlike that of any other operator that may lead at the same time; below `termsMax`. */
  readonly term: number;
  readonly store: PlacementStore;
  readonly openLink: OpenLink;
  readonly planner: Planner;
  readonly telemetry: Telemetry;
  readonly metrics: Pick<Metrics<"operator">, "add" | "set" | "observe">;
  readonly tracing: Pick<Tracing, "start">;
  /** Other protocol rules, for the simulation. */
  readonly protocolRules?: Partial<ProtocolRules>;
  readonly log: Log;
  identity(ref: Ref, uid: string): Promise<Identity>;
  nats: Deployments["nats"];
  telemetryKeys: Deployments["telemetryKeys"];
  event(world: World, type: "Normal" | "Warning", reason: string, message: string): void;
  onChange(ref: Ref): void;
  /** Called when a plan begins (`running`) and ends (`done`). */
  onRollout(ref: Ref, running: { readonly startedMs: number; readonly deadlineMs: number } | undefined, done: PlanEnd | undefined): void;
}
