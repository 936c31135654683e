// The objects that are applied as a whole, in the order in which they are written. Worker pods and Secrets are not among them:
// pods are created one by one (worker-pod.ts), Secrets hold generated material (../identity.ts).
import { type KubeObject, type Resource, resources } from "../../kube/kube.ts";
import type { RenderContext } from "./context.ts";
import { gatewayDeployment } from "./gateway.ts";
import { gatewaysPolicy, workersPolicy } from "./network-policies.ts";
import { gatewayBudget, gatewayService, serviceAccount, settingsMap, workersBudget, workersService } from "./plumbing.ts";

export interface Rendered {
  readonly resource: Resource;
  readonly object: KubeObject;
  /** The object that is to be there where this one is refused. */
  readonly otherwise?: KubeObject;
}

export function appliedObjects(context: RenderContext): Rendered[] {
  return [
    { resource: resources.serviceAccounts, object: serviceAccount(context) },
    { resource: resources.configMaps, object: settingsMap(context) },
    { resource: resources.services, object: workersService(context) },
    { resource: resources.services, object: gatewayService(context) },
    { resource: resources.podDisruptionBudgets, object: workersBudget(context) },
    { resource: resources.podDisruptionBudgets, object: gatewayBudget(context) },
    ...(context.settings.networkPolicies ? networkPolicies(context) : []),
    { resource: resources.deployments, object: gatewayDeployment(context) },
  ];
}

function networkPolicies(context: RenderContext): Rendered[] {
  return [workersPolicy(context), gatewaysPolicy(context)].map((object) => ({ resource: resources.networkPolicies, object }));
}

/** An object that an operator with other settings has made, and that is to go. */
export interface Absent {
  readonly resource: Resource;
  readonly name: string;
}

export function absentObjects(context: RenderContext): Absent[] {
  if (context.settings.networkPolicies) return [];
  return networkPolicies(context).map(({ resource, object }) => ({ resource, name: object.metadata.name }));
}
