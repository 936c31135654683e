// The condition of a deployment's HTTPRoute: whether the cluster has such routes, and what each Gateway reports. Serving does not depend on
// it. Pure.
import type { GatewayRoute } from "../../../crds/gateway-route.ts";
import type { RouteCondition, RouteFacts, RouteParent, Snapshot } from "../core/snapshot.ts";
import type { Verdict } from "../core/world.ts";

type Parent = GatewayRoute["parentRefs"][number];

const wantedConditions = ["Accepted", "ResolvedRefs"];
const api = "HTTPRoutes of gateway.networking.k8s.io/v1";
const field = "spec.gateway.httpRoute";
const messageMax = 512;

/** Undefined without a route in the spec. */
export function routeVerdict({ deployment, route: facts }: Pick<Snapshot, "deployment" | "route">): Verdict | undefined {
  const wanted = deployment.spec.gateway.httpRoute;
  if (!wanted) return undefined;
  const { served, route } = facts ?? { served: "unknown", route: undefined };
  if (served === "absent") {
    const remedy = "install the Gateway API and a controller for it; it is then found within a minute, or leave the field out";
    return { status: "False", reason: "GatewayApiAbsent", message: `${field}: the cluster has no ${api}: ${remedy}` };
  }
  if (served === "forbidden") {
    const remedy = "set the chart's value rbac.httpRoutes to true, or leave the field out";
    return { status: "False", reason: "GatewayApiForbidden", message: `${field}: the operator may not handle ${api}: ${remedy}` };
  }
  if (served === "unknown")
    return { status: "Unknown", reason: "GatewayApiUnknown", message: `whether the cluster has ${api} is not known yet` };
  if (!route) return { status: "Unknown", reason: "RouteNotMade", message: "the HTTPRoute is not there yet" };
  const { namespace } = deployment.metadata;
  const found = wanted.parentRefs.map((parent) => ofParent(parent, route, namespace));
  return found.find(({ status }) => status === "False") ?? found.find(({ status }) => status === "Unknown") ?? routed(found);
}

const routed = (found: readonly Verdict[]): Verdict => ({
  status: "True",
  reason: "Accepted",
  message: found.map(({ message }) => message).join("; "),
});

/** The first controller that objects decides, else the first one. */
function ofParent(parent: Parent, { generation, parents }: NonNullable<RouteFacts["route"]>, namespace: string): Verdict {
  const gateway = textOf(parent, namespace);
  const answers = parents.filter((one) => textOf(one, namespace) === gateway).map((one) => ofAnswer(one, gateway, generation));
  const worst = answers.find(({ status }) => status === "False") ?? answers.find(({ status }) => status === "True") ?? answers[0];
  const message = `no controller has said a word about ${gateway}: whether it is there, and its GatewayClass is some controller's`;
  return worst ?? { status: "Unknown", reason: "GatewayUnanswered", message };
}

function ofAnswer({ conditions, controller }: RouteParent, gateway: string, generation: number): Verdict {
  for (const type of wantedConditions) {
    const found = conditions.find((condition) => condition.type === type);
    // A status of an older generation does not count.
    const old = found?.observedGeneration !== undefined && found.observedGeneration < generation;
    if (!found || old || (found.status !== "True" && found.status !== "False"))
      return { status: "Unknown", reason: "GatewayUndecided", message: `${gateway}: ${controller} has not judged the route yet (${type})` };
    if (found.status === "False") {
      const message = `${gateway}: ${type}=False, ${found.reason}: ${found.message} (${controller})`;
      return { status: "False", reason: reasonOf(found), message: message.slice(0, messageMax) };
    }
  }
  return { status: "True", reason: "Accepted", message: `${gateway} takes the route (${controller})` };
}

/** Other forms are not valid as a condition's reason. */
const reasonOf = ({ reason }: RouteCondition): string => (/^[A-Za-z][A-Za-z0-9]{0,63}$/.test(reason) ? reason : "RouteRefused");

const textOf = ({ name, namespace, sectionName }: Pick<Parent, "name" | "namespace" | "sectionName">, own: string): string =>
  `Gateway ${namespace ?? own}/${name}${sectionName === undefined ? "" : `, listener ${sectionName}`}`;
