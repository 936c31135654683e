// Checks the operator: pods, version and leader. The lease is watched, since clocks differ.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { type Kube, type KubeObject, resources } from "../../kube/kube.ts";
import { troubleOf } from "../../views/findings/pods.ts";
import { podFactsOf } from "../../views/pods.ts";
import { type Check, type Context, fail, type OperatorFacts, type Outcome, ok, skip, warn } from "./check.ts";

/** A leader renews every 2 s. */
const lookMs = 1_000;
const looksMax = 8;
const podsMax = 8;

const operatorLabels = "app.kubernetes.io/part-of=enodia,app.kubernetes.io/component=operator";

const deploymentSchema = z.object({
  metadata: z.object({ name: z.string(), namespace: z.string(), labels: z.record(z.string(), z.string()).default({}) }),
  spec: z.object({
    replicas: z.number().default(1),
    template: z.object({
      spec: z.object({
        serviceAccountName: z.string().default("default"),
        containers: z.array(
          z.object({
            name: z.string(),
            image: z.string().default(""),
            env: z.array(z.object({ name: z.string(), value: z.string().default("") })).default([]),
          }),
        ),
      }),
    }),
  }),
  status: z.object({ readyReplicas: z.number().default(0) }).prefault({}),
});

/** Undefined where they may not be listed. */
export async function findOperators(kube: Pick<Kube, "list">, namespace?: string): Promise<OperatorFacts[] | undefined> {
  try {
    const { items } = await kube.list(resources.deployments, { ...(namespace && { namespace }), labelSelector: operatorLabels });
    return items.map(factsOf);
  } catch (caught) {
    if (AppError.from(caught).code === "Forbidden") return undefined;
    throw caught;
  }
}

function factsOf(object: KubeObject): OperatorFacts {
  const { metadata, spec, status } = deploymentSchema.parse(object);
  const container = spec.template.spec.containers.find(({ name }) => name === "operator");
  const watched = container?.env.find(({ name }) => name === "ENODIA_WATCH_NAMESPACES")?.value ?? "";
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    image: container?.image ?? "",
    version: metadata.labels["app.kubernetes.io/version"] ?? "",
    serviceAccount: spec.template.spec.serviceAccountName,
    replicas: spec.replicas,
    ready: status.readyReplicas,
    watched: watched.split(",").filter((name) => name !== ""),
  };
}

export function judgeOperators({ operators, version }: Pick<Context, "operators" | "version">): Outcome[] {
  if (operators === undefined) return [skip("operators", "you may not list Deployments in all namespaces")];
  const many = operators.filter(({ watched }) => watched.length === 0);
  const names = many.map(({ namespace, name }) => `${namespace}/${name}`).join(", ");
  const several = `helm uninstall all but one, or give each its own watchNamespaces`;
  return [
    ...(many.length > 1 ? [warn(`${names} all watch every namespace: only one of them works in each`, several)] : []),
    ...operators.flatMap((operator) => judgeOne(operator, version)),
  ];
}

function judgeOne({ namespace, name, ready, replicas, version: theirs, image }: OperatorFacts, version: string): Outcome[] {
  const what = `${namespace}/${name}`;
  const pods = `kubectl -n ${namespace} get pods -l ${operatorLabels}`;
  const running =
    ready === 0
      ? fail(`${what}: 0 of ${replicas} replicas are ready, so nothing is repaired, scaled or balanced`, pods)
      : ready < replicas
        ? warn(`${what}: ${ready} of ${replicas} replicas are ready`, pods)
        : ok(`${what}: ${ready} of ${replicas} replicas are ready (${image})`);
  if (theirs === version) return [running];
  const other = `${what} is of ${theirs || "an unknown version"}, this command of ${version}`;
  return [running, warn(other, "use the command of the operator's version, or upgrade the chart")];
}

export const operators: Check = {
  name: "operator",
  when: "always",
  run: async (context) => {
    if (context.operators?.length === 0) return [ok("none is installed yet: these are checks before an install")];
    const troubles = await Promise.all((context.operators ?? []).map((operator) => troublesOf(context, operator)));
    return [...judgeOperators(context), ...troubles.flat()];
  },
};

async function troublesOf({ kube, now }: Context, { namespace, name, ready, replicas }: OperatorFacts): Promise<Outcome[]> {
  if (ready >= replicas) return [];
  const { items } = await kube.list(resources.pods, { namespace, labelSelector: operatorLabels });
  return items.slice(0, podsMax).flatMap((object): Outcome[] => {
    const pod = podFactsOf(object, name);
    const trouble = pod && troubleOf(pod, now);
    return trouble
      ? [
          {
            level: "warn",
            what: `pod ${pod.name}: ${trouble.what}: ${trouble.why}`,
            remedy: `kubectl -n ${namespace} describe pod ${pod.name}`,
          },
        ]
      : [];
  });
}

const leaseSchema = z.object({
  metadata: z.object({ resourceVersion: z.string().default("") }),
  spec: z.object({ holderIdentity: z.string().default("") }).prefault({}),
});

const leaseName = (operator: string): string => `${operator}-operator`;

export type OperatorRef = Pick<OperatorFacts, "namespace" | "name">;

export async function leaseOf(kube: Pick<Kube, "get">, { namespace, name }: OperatorRef) {
  const object = await kube.get(resources.leases, { namespace, name: leaseName(name) });
  return object && leaseSchema.parse(object);
}

export const leader: Check = {
  name: "leader",
  when: "after",
  run: (context) => Promise.all((context.operators ?? []).map((operator) => judgeLease(context, operator))),
};

async function judgeLease({ kube, sleep, signal }: Context, { namespace, name }: OperatorFacts): Promise<Outcome> {
  const logs = `kubectl -n ${namespace} logs -l ${operatorLabels} --prefix --tail=50`;
  const look = () => leaseOf(kube, { namespace, name });
  const first = await look();
  if (!first) return fail(`the lease ${namespace}/${leaseName(name)} is not there: no replica has ever led`, logs);
  for (let looks = 0; looks < looksMax; looks += 1) {
    await sleep(lookMs, signal);
    const now = await look();
    if (now && now.metadata.resourceVersion !== first.metadata.resourceVersion && now.spec.holderIdentity !== "")
      return ok(`${now.spec.holderIdentity} leads and renews its lease`);
  }
  return fail(`the lease of ${first.spec.holderIdentity || "nobody"} was not renewed for ${(looksMax * lookMs) / 1000} s`, logs);
}
