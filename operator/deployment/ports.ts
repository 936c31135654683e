// The interfaces between the deployment and rebalance planes. Neither waits for the other; types only.

import type { MoEDeployment, MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { NatsAccess } from "../../crds/nats-access.ts";
import type { TelemetryKeys } from "../../crds/telemetry-keys.ts";
import type { Identity } from "../kube/ask-pod.ts";
import type { Ref } from "../kube/kube.ts";
import type { RebalanceView, World } from "./core/world.ts";

export type * from "./core/world.ts";

export interface Rebalance {
  /** Sets the desired world. Idempotent; returns at once and works in the background. */
  update(world: World): void;
  /** Undefined while nothing is known of the deployment. */
  view(uid: string): RebalanceView | undefined;
  /** Closes the sessions of a deleted deployment, or after leadership is lost. */
  forget(uid: string): void;
  /** Called when a view changes in a way that matters to the status or a drain. */
  onChange(listener: (ref: Ref) => void): void;
  close(): Promise<void>;
}

/** What the rebalance plane may ask of the deployment plane. */
export interface Deployments {
  /** TLS identity `operator.<name>.<ns>.enodia`, cached by uid. */
  identity(ref: Ref, uid: string): Promise<Identity>;
  event(deployment: Pick<MoEDeployment, "metadata">, type: "Normal" | "Warning", reason: string, message: string): void;
  /** The server that ranks publish load on, and the source of the operator's credentials if it needs any; undefined without one. */
  nats(ref: Ref, spec: MoEDeploymentSpec): { readonly url: string; readonly credentials: Ref | "operator" | undefined } | undefined;
  /** Throws `CredentialsNotFound` or `CredentialsRefused`. */
  natsAccess(credentials: Ref | "operator"): Promise<NatsAccess>;
  /** The current keys that sign load messages, or why there are none. */
  telemetryKeys(ref: Ref, uid: string): { readonly keys?: TelemetryKeys; readonly problem?: string };
}
