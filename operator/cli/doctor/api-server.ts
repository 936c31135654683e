// Checks the API server: its version, which the chart and the CRDs need, its address families, and the resource metrics API.
import { z } from "zod";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, conditionOf, fail, type Outcome, ok, read, skip, warn } from "./check.ts";

/** The chart's `kubeVersion`; 1.x. */
export const leastMinor = 31;

const versionSchema = z.object({ gitVersion: z.string(), platform: z.string().default("") });

export function judgeVersion(document: unknown): Outcome {
  const { gitVersion } = versionSchema.parse(document);
  const [, major, minor] = /^v?(\d+)\.(\d+)/.exec(gitVersion) ?? [];
  if (Number(major) === 1 && Number(minor) >= leastMinor) return ok(`${gitVersion}; 1.${leastMinor} is the least`);
  return fail(
    `${gitVersion} is older than 1.${leastMinor}, which the chart and the CRDs need`,
    `upgrade the cluster to 1.${leastMinor} or newer`,
  );
}

export const apiServer: Check = {
  name: "API server",
  when: "always",
  run: async ({ transport }) => [judgeVersion(await read(transport, "/version"))],
};

const serviceSchema = z.object({ spec: z.object({ ipFamilies: z.array(z.string()).default([]), clusterIP: z.string().default("") }) });

export function judgeFamilies(object: unknown): Outcome {
  const { ipFamilies, clusterIP } = serviceSchema.parse(object).spec;
  const families = ipFamilies.length > 0 ? ipFamilies : [clusterIP.includes(":") ? "IPv6" : "IPv4"];
  if (families[0] === "IPv4") return ok(`the API server's Service has ${families.join(" and ")}: IPv4 comes first`);
  return fail(`the cluster's first address family is ${families[0]}`, "use a cluster with IPv4, or dual stack with IPv4 first");
}

export const addresses: Check = {
  name: "addresses",
  when: "always",
  run: async ({ kube }) => {
    const service = await kube.get(resources.services, { namespace: "default", name: "kubernetes" });
    return [service ? judgeFamilies(service) : skip("address families", "the Service default/kubernetes is not there")];
  },
};

const namedMax = 4;
const apiServiceSchema = z.object({ status: z.unknown() }).loose();

export function judgeMetricsApi(document: unknown, users: readonly string[]): Outcome {
  const there =
    document !== undefined && conditionOf(apiServiceSchema.parse(document) as unknown as KubeObject, "Available").status === "True";
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
