// The two ports between the deployment plane and the rebalance plane, which neither waits for: update() says what is wanted, view() tells
// what is, onChange() asks for another look. Types only.

import type { MoEDeployment, MoEDeploymentSpec } from "../../crds/moe-deployment.ts";
import type { NatsAccess } from "../../crds/nats-access.ts";
import type { TelemetryKeys } from "../../crds/telemetry-keys.ts";
import type { Identity } from "../kube/ask-pod.ts";
import type { Ref } from "../kube/kube.ts";
import type { RebalanceView, World } from "./core/world.ts";

export type * from "./core/world.ts";

export interface Rebalance {
  /** Says what the world is now. Idempotent; returns at once; the work goes on in the background. */
  update(world: World): void;
  /** The view of a deployment; undefined when nothing is known of it yet. */
  view(uid: string): RebalanceView | undefined;
  /** The deployment is gone (or this process no longer leads): close its sessions. */
  forget(uid: string): void;
  /** Called when a view changed in a way that matters to the status or to a drain. */
  onChange(listener: (ref: Ref) => void): void;
  /** Ends everything, such as when leadership is lost. */
  close(): Promise<void>;
}

/** The questions and wishes that the rebalance plane may put to the deployment plane and its shells. */
export interface Deployments {
  /** TLS material `operator.<name>.<ns>.enodia`, made from the CA Secret; cached by uid. */
  identity(ref: Ref, uid: string): Promise<Identity>;
  /** Records a Kubernetes event on the MoEDeployment. */
  event(deployment: Pick<MoEDeployment, "metadata">, type: "Normal" | "Warning", reason: string, message: string): void;
  /** Where the credentials for that server come from; undefined where it wants none. */
  natsCredentials(ref: Ref, spec: MoEDeploymentSpec): Ref | "operator" | undefined;
  /** What is there at this moment; throws `CredentialsNotFound` or `CredentialsRefused`. */
  natsAccess(credentials: Ref | "operator"): Promise<NatsAccess>;
  /** The keys that sign the load messages of a deployment, as they stand now, or the problem that there are none for. */
  telemetryKeys(ref: Ref, uid: string): { readonly keys?: TelemetryKeys; readonly problem?: string };
  /** The NATS server of a spec, its own or the operator's default; undefined where there is no telemetry. */
  natsUrl(spec: MoEDeploymentSpec): string | undefined;
}
