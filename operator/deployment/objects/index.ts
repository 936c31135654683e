// The objects that are applied as a whole. Worker pods are created one by one (worker-pod.ts), and pki/ writes Secrets.
import type { Gang } from "../../gangs/gang.ts";
import { gangSchedulers } from "../../gangs/index.ts";
import type { Absent, Rendered } from "../../kube/apply.ts";
import { replicasField } from "../../kube/field-conflicts.ts";
import { type KubeObject, type Resource, resources } from "../../kube/kube.ts";
import { names, type RenderContext, type WeightServerWish } from "./context.ts";
import { gatewayAutoscaler, gatewayDeployment, gatewayReplicas } from "./gateway.ts";
import { httpRoute } from "./http-route.ts";
import { downloaderPolicy, gatewaysPolicy, weightServerPolicy, workersPolicy } from "./network-policies.ts";
import { gatewayBudget, gatewayService, serviceAccount, settingsMap, workersBudget, workersService } from "./plumbing.ts";
import { podGroup } from "./pod-group.ts";
import { weightServerDeployment, weightServerService } from "./weight-server.ts";
import type { RenderedPod } from "./worker-pod.ts";

/** A new object is a file that renders it and a row in `owned`. */
interface Owned {
  readonly resource: Resource;
  readonly render: (context: RenderContext) => KubeObject;
  /** Unset = always. */
  readonly when?: (context: RenderContext) => boolean;
  /** When it is deleted; unset = when `when` is false. */
  readonly gone?: (context: RenderContext) => boolean;
  /** Its name where it cannot be rendered while not desired. */
  readonly name?: (deployment: string) => string;
  readonly fields?: (context: RenderContext) => Pick<Rendered, "takes" | "leaves" | "begins">;
}

const hasWeightServer = ({ weightServer }: RenderContext): boolean => weightServer !== undefined;
const hasPolicies = ({ settings }: RenderContext): boolean => settings.networkPolicies !== undefined;
const isCached = ({ deployment }: RenderContext): boolean => deployment.spec.model.cache?.persistentVolumeClaim !== undefined;

/** This is the order of application. */
const owned: readonly Owned[] = [
  ...gangSchedulers.map(
    (scheduler): Owned => ({
      resource: scheduler.resource,
      render: (context) => podGroup(context, context.gang as Gang),
      when: ({ gang }) => gang?.scheduler === scheduler,
      name: names.workers,
    }),
  ),
  { resource: resources.serviceAccounts, render: serviceAccount },
  { resource: resources.configMaps, render: settingsMap },
  { resource: resources.services, render: workersService },
  { resource: resources.services, render: gatewayService },
  { resource: resources.podDisruptionBudgets, render: workersBudget },
  { resource: resources.podDisruptionBudgets, render: gatewayBudget },
  { resource: resources.networkPolicies, render: workersPolicy, when: hasPolicies },
  { resource: resources.networkPolicies, render: gatewaysPolicy, when: hasPolicies },
  { resource: resources.networkPolicies, render: downloaderPolicy, when: (context) => hasPolicies(context) && isCached(context) },
  { resource: resources.networkPolicies, render: weightServerPolicy, when: (context) => hasPolicies(context) && hasWeightServer(context) },
  { resource: resources.services, render: weightServerService, when: hasWeightServer, name: names.weightServer },
  {
    resource: resources.deployments,
    render: (context) => weightServerDeployment(context, context.weightServer as WeightServerWish),
    when: hasWeightServer,
    name: names.weightServer,
    // There is none while suspended or while a download uses the claim, whoever scales it.
    fields: ({ weightServer }) => (weightServer?.replicas === 0 ? { takes: [replicasField] } : {}),
  },
  { resource: resources.deployments, render: (context) => gatewayDeployment(context), fields: gatewayFields },
  {
    resource: resources.horizontalPodAutoscalers,
    render: (context) => gatewayAutoscaler(context, context.deployment.spec.gateway.autoscale as NonNullable<Gateway["autoscale"]>),
    when: ({ deployment }) => deployment.spec.gateway.autoscale !== undefined,
    name: names.gateway,
  },
  {
    resource: resources.httpRoutes,
    render: (context) => httpRoute(context, context.deployment.spec.gateway.httpRoute as NonNullable<Gateway["httpRoute"]>),
    when: ({ deployment, routable }) => deployment.spec.gateway.httpRoute !== undefined && routable === true,
    gone: ({ deployment }) => deployment.spec.gateway.httpRoute === undefined,
    name: (deployment) => deployment,
  },
];

type Gateway = RenderContext["deployment"]["spec"]["gateway"];

/** There is no gateway while suspended, whoever scales them; an autoscaler stops at zero, and begins with a least of its own. */
function gatewayFields({ deployment: { spec }, firstGateways = 1 }: RenderContext): Pick<Rendered, "takes" | "leaves" | "begins"> {
  if (spec.suspend) return { takes: [replicasField] };
  if (gatewayReplicas(spec) !== undefined) return {};
  const begins = firstGateways > 1 && spec.gateway.autoscale === undefined ? { begins: firstGateways } : {};
  return { leaves: ["spec", "replicas"], ...begins };
}

export function appliedObjects(context: RenderContext): Rendered[] {
  const wanted = owned.filter(({ when = () => true }) => when(context));
  return wanted.map(({ resource, render, fields }) => ({ resource, object: render(context), ...fields?.(context) }));
}

/** Objects that other settings or an earlier spec have created and that must go. */
export function absentObjects(context: RenderContext): Absent[] {
  const unwanted = owned.filter(({ when = () => true, gone = (of) => !when(of) }) => gone(context));
  return unwanted.map(({ resource, name, render }) => ({
    resource,
    name: name?.(context.deployment.metadata.name) ?? render(context).metadata.name,
  }));
}

interface GatewayPods {
  readonly gateway: RenderedPod;
  readonly before: RenderedPod | undefined;
  readonly unsupported: boolean;
}

/** The objects to apply, each with its fallback when refused. A Deployment of gateways keeps its present size. */
export function objectsOf(context: RenderContext, { gateway, before, unsupported }: GatewayPods): Rendered[] {
  return appliedObjects(context).flatMap((rendered): Rendered[] => {
    if (!isGateways(rendered, context.deployment.metadata.name)) return [rendered];
    const last = before && gatewayDeployment(context, before.pod);
    if (unsupported) return last ? [{ ...rendered, object: last }] : [];
    const object = gatewayDeployment(context, gateway.pod);
    return [{ ...rendered, object, ...(last ? { otherwise: last } : {}) }];
  });
}

export const isGateways = ({ resource, object }: Rendered, name: string): boolean =>
  resource === resources.deployments && object.metadata.name === names.gateway(name);
