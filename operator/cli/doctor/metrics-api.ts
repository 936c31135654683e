// Checks the resource metrics API, which only the gateways' autoscaler needs.
import { z } from "zod";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, conditionOf, type Outcome, ok, read, warn } from "./check.ts";

const namedMax = 4;
const serviceSchema = z.object({ status: z.unknown() }).loose();

export function judgeMetricsApi(document: unknown, users: readonly string[]): Outcome {
  const there =
    document !== undefined && conditionOf(serviceSchema.parse(document) as unknown as KubeObject, "Available").status === "True";
  if (there) return ok("metrics.k8s.io answers: gateway.autoscale works");
  if (users.length === 0) return ok("metrics.k8s.io is not there; only gateway.autoscale would need it");
  return warn(`metrics.k8s.io does not answer, and gateway.autoscale of ${listed(users, namedMax)} needs it`, "install metrics-server");
}

export const metricsApi: Check = {
  name: "resource metrics",
  when: "after",
  run: async ({ kube, transport }) => {
    const document = await read(transport, "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io");
    const { items } = await kube.list(resources.moeDeployments);
    const users = items.map(parseMoEDeployment).filter(({ spec }) => spec.gateway.autoscale !== undefined);
    return [
      judgeMetricsApi(
        document,
        users.map(({ metadata }) => `${metadata.namespace}/${metadata.name}`),
      ),
    ];
  },
};
