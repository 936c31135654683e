// One cluster for all e2e files of a run: brought up by the first that needs it, taken down by the test runner.
// Each file works in a namespace of its own, so that what it breaks is its own.
import { open, status, up } from "../cluster/cluster.ts";
import {
  buildImages,
  gatewayAddress,
  installChart,
  kubectlOf,
  provideImages,
  provideNamespace,
  type Target,
  waitReady,
} from "../kit/deployment/product.ts";
import type { Kubectl } from "../kit/kube/kubectl.ts";
import { modelsFolder, provideSmolMoe, provideTiny } from "../kit/models/local-models.ts";
import { until } from "../kit/processes/process.ts";

/** Set by the runner; `npm run test:e2e` on its own uses the same name. */
export const clusterName = process.env.ENODIA_E2E_CLUSTER ?? "e2e";
const nodes = 3;

const log = (line: string): void => {
  process.stderr.write(`# ${line}\n`);
};

/** The cluster with the chart installed and both models in place. Idempotent. */
export async function openWorld(): Promise<Target> {
  const running = status().some((cluster) => cluster.name === clusterName && cluster.controlPlane === "running");
  // What the cluster is to run is made while it comes up.
  const models = running ? undefined : Promise.all([provideSmolMoe(log), provideTiny(log)]);
  const images = running ? undefined : buildImages(log);
  const starts = running ? open(clusterName) : up({ name: clusterName, nodes, log });
  const [cluster] = await Promise.all([starts, models, images]);
  const target: Target = { kubeconfig: cluster.kubeconfig, kubectl: cluster.binaries.kubectl, helm: cluster.binaries.helm, local: cluster };
  const system = kubectlOf(target, "enodia-system");
  const installed = running && (await system.try(["get", "deployment", "enodia"])).code === 0;
  if (!installed) {
    await Promise.all([provideSmolMoe(log), provideTiny(log)]);
    await provideImages(target, log, images);
    await installChart(target);
  }
  return target;
}

export interface Deployed {
  readonly target: Target;
  readonly kubectl: Kubectl;
  readonly name: string;
  readonly namespace: string;
  /** Address of the gateway, resolved again on every call: pods may have been replaced. */
  url(): Promise<string>;
}

type Spec = Readonly<Record<string, unknown>>;

/** A small deployment of the upcycled model; `spec` is merged over these fields. */
export function smolMoe(name: string, spec: Spec = {}): { apiVersion: string; kind: string; metadata: { name: string }; spec: Spec } {
  return {
    apiVersion: "enodia.dev/v1alpha1",
    kind: "MoEDeployment",
    metadata: { name },
    spec: {
      model: { uri: "pvc://models/smol-moe" },
      replicas: 3,
      elasticity: { minReplicas: 1, maxReplicas: 4, settle: "1s" },
      runtime: { backend: "cpu", expertCodec: "q4_0", maxContext: 1024, kvPool: "256Mi" },
      experts: { memoryPerRank: "200Mi" },
      gateway: { replicas: 1 }, // most tests look at the only one
      rebalancing: { mode: "Off", interval: "5s", trigger: { window: "5s" } },
      ...spec,
    },
  };
}

/** Applies an object in a namespace of its own and waits for Ready. */
export async function deploy(target: Target, namespace: string, object: ReturnType<typeof smolMoe>): Promise<Deployed> {
  const kubectl = await provideNamespace(target, namespace, modelsFolder());
  await kubectl.apply(object);
  await waitReady(kubectl, object.metadata.name);
  const { name } = object.metadata;
  return { target, kubectl, name, namespace, url: async () => (await gatewayAddress(target, kubectl, name)).url };
}

/** Deletes the deployment and waits until its pods are gone, so that the next file has the machine. */
export async function remove({ kubectl, name }: Deployed): Promise<void> {
  await kubectl.try(["delete", "moed", name, "--wait=false"]);
  await until(
    `the pods of ${name} to be gone`,
    async () => ((await kubectl.list("pods", `enodia.dev/deployment=${name}`)).length === 0 ? true : undefined),
    { timeoutMs: 90_000 },
  );
}
