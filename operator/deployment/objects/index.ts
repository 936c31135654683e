// The objects that are applied as a whole, in the order in which they are written. Worker pods and Secrets are not among them:
// pods are created one by one (worker-pod.ts), Secrets hold generated material (../identity.ts).

import { gangSchedulers } from "../../gangs/index.ts";
import type { Absent, Rendered } from "../../kube/apply.ts";
import { replicasField } from "../../kube/field-conflicts.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { names, type RenderContext, type WeightServerWish } from "./context.ts";
import { gatewayDeployment, gatewayReplicas } from "./gateway.ts";
import { gatewayAutoscaler } from "./gateway-autoscaler.ts";
import { httpRoute } from "./http-route.ts";
import { downloaderPolicy, gatewaysPolicy, weightServerPolicy, workersPolicy } from "./network-policies.ts";
import { gatewayBudget, gatewayService, serviceAccount, settingsMap, workersBudget, workersService } from "./plumbing.ts";
import { podGroup } from "./pod-group.ts";
import { weightServerDeployment, weightServerService } from "./weight-server.ts";
import type { RenderedPod } from "./worker-pod.ts";

export function appliedObjects(context: RenderContext): Rendered[] {
  const { autoscale, httpRoute: route } = context.deployment.spec.gateway;
  const { gang, weightServer, routable } = context;
  return [
    ...(gang ? [{ resource: gang.scheduler.resource, object: podGroup(context, gang) }] : []),
    { resource: resources.serviceAccounts, object: serviceAccount(context) },
    { resource: resources.configMaps, object: settingsMap(context) },
    { resource: resources.services, object: workersService(context) },
    { resource: resources.services, object: gatewayService(context) },
    { resource: resources.podDisruptionBudgets, object: workersBudget(context) },
    { resource: resources.podDisruptionBudgets, object: gatewayBudget(context) },
    ...networkPolicies(context),
    ...(weightServer ? [{ resource: resources.services, object: weightServerService(context) }] : []),
    ...(weightServer ? [weightServers(context, weightServer)] : []),
    gateways(context),
    ...(autoscale ? [{ resource: resources.horizontalPodAutoscalers, object: gatewayAutoscaler(context, autoscale) }] : []),
    ...(route && routable ? [{ resource: resources.httpRoutes, object: httpRoute(context, route) }] : []),
  ];
}

/** While suspended there is no weight server, nor while a download has the claim, whoever scales it. */
function weightServers(context: RenderContext, weightServer: WeightServerWish): Rendered {
  const rendered = { resource: resources.deployments, object: weightServerDeployment(context, weightServer) };
  return weightServer.replicas === 0 ? { ...rendered, takes: [replicasField] } : rendered;
}

/** While suspended there is no gateway, whoever scales them; an autoscaler stands still at zero. */
function gateways(context: RenderContext): Rendered {
  const rendered = { resource: resources.deployments, object: gatewayDeployment(context) };
  const { spec } = context.deployment;
  if (spec.suspend) return { ...rendered, takes: [replicasField] };
  return gatewayReplicas(spec) === undefined ? { ...rendered, leaves: ["spec", "replicas"] } : rendered;
}

/** All that there may be, those that are wanted first. */
function policies(context: RenderContext): readonly [wanted: KubeObject[], others: KubeObject[]] {
  const rows: readonly [KubeObject, boolean][] = [
    [workersPolicy(context), true],
    [gatewaysPolicy(context), true],
    [downloaderPolicy(context), context.deployment.spec.model.cache?.persistentVolumeClaim !== undefined],
    [weightServerPolicy(context), context.weightServer !== undefined],
  ];
  const wanted = rows.filter(([, here]) => here && context.settings.networkPolicies !== undefined);
  return [wanted.map(([object]) => object), rows.filter((row) => !wanted.includes(row)).map(([object]) => object)];
}

function networkPolicies(context: RenderContext): Rendered[] {
  return policies(context)[0].map((object) => ({ resource: resources.networkPolicies, object }));
}

export function absentObjects(context: RenderContext): Absent[] {
  const { metadata, spec } = context.deployment;
  const autoscaler = { resource: resources.horizontalPodAutoscalers, name: names.gateway(metadata.name) };
  const route = { resource: resources.httpRoutes, name: metadata.name };
  const groups = gangSchedulers
    .filter((scheduler) => scheduler !== context.gang?.scheduler)
    .map(({ resource }) => ({ resource, name: names.workers(metadata.name) }));
  const unwanted = policies(context)[1].map((object) => ({ resource: resources.networkPolicies, name: object.metadata.name }));
  const weightServerName = names.weightServer(metadata.name);
  const weightServers = [resources.deployments, resources.services].map((resource) => ({ resource, name: weightServerName }));
  const others = [...(spec.gateway.autoscale ? [] : [autoscaler]), ...(spec.gateway.httpRoute ? [] : [route])];
  return [...groups, ...unwanted, ...(context.weightServer ? [] : weightServers), ...others];
}

interface GatewayPods {
  readonly gateway: RenderedPod;
  /** Those of the last accepted spec. */
  readonly before: RenderedPod | undefined;
  readonly unsupported: boolean;
}

/** The objects to apply, each with what is to be there where it is refused. A Deployment of gateways always has its present sizes. */
export function objectsOf(context: RenderContext, { gateway, before, unsupported }: GatewayPods): Rendered[] {
  return appliedObjects(context).flatMap((rendered): Rendered[] => {
    if (!isGateways(rendered, context.deployment.metadata.name)) return [rendered];
    const last = before && gatewayDeployment(context, before.pod);
    if (unsupported) return last ? [{ ...rendered, object: last }] : [];
    const object = gatewayDeployment(context, gateway.pod);
    return [last ? { ...rendered, object, otherwise: last } : { ...rendered, object }];
  });
}

export const isGateways = ({ resource, object }: Rendered, name: string): boolean =>
  resource === resources.deployments && object.metadata.name === names.gateway(name);
