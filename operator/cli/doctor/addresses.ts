// Checks address families: pods need IPv4 addresses.
import { z } from "zod";
import { resources } from "../../kube/kube.ts";
import { type Check, fail, type Outcome, ok, skip } from "./check.ts";

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
