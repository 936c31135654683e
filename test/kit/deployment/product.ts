// The product as a platform engineer installs it: images onto the nodes, the chart by Helm, a claim with models, a MoEDeployment
// by kubectl, and an address to talk to. Used by the demo and by the e2e tests, on the local cluster or on one of the user's.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { cacheRoot } from "../../cluster/binaries.ts";
import { type Cluster, loadImage } from "../../cluster/cluster.ts";
import { buildProductImages } from "../../cluster/product-images.ts";
import { condition, type Forward, Kubectl, type KubeObject } from "../kube/kubectl.ts";
import { execOk, until } from "../processes/process.ts";

export const root = resolve(import.meta.dirname, "../../..");
export const release = "enodia";
/** The folder in which image tars are kept between runs. */
export const imageFolder = (): string => join(cacheRoot(), "images");
export const systemNamespace = "enodia-system";
const readyTimeoutMs = 120_000;

/** What a MoEDeployment takes that names no port. */
const servicePort = 8000;

interface ServiceRef {
  readonly name: string;
  readonly namespace: string;
}

export type Log = (line: string) => void;

/** A cluster to work on: ours, or the user's with images that it can pull. */
export interface Target {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly kubectl: string;
  readonly helm: string;
  /** Ours: images are imported into its nodes. Absent: `imageRegistry` must hold them. */
  readonly local?: Cluster;
  readonly imageRegistry?: string;
  /** When aborted, work on the cluster ends and throws its reason. */
  readonly signal?: AbortSignal | undefined;
}

export function kubectlOf(target: Target, namespace: string): Kubectl {
  return new Kubectl(target.kubectl, {
    namespace,
    signal: target.signal,
    ...(target.kubeconfig ? { kubeconfig: target.kubeconfig } : {}),
    ...(target.context ? { context: target.context } : {}),
  });
}

/** The four images, cached by content. */
export const buildImages = (log: Log, signal?: AbortSignal): ReturnType<typeof buildProductImages> =>
  buildProductImages({ repo: root, out: imageFolder(), log, signal });

/** Imports the four images into every node of the local cluster. */
export async function provideImages(target: Target, log: Log, built?: ReturnType<typeof buildImages>): Promise<void> {
  const { signal } = target;
  if (!target.local) return;
  const { operator, runtime, training, nats } = await (built ?? buildImages(log, signal));
  for (const image of [operator, runtime, training, nats]) {
    log(`loading ${image.ref}`);
    await loadImage(target.local.name, image.out, { signal });
  }
}

/** `helm upgrade --install` of the chart with its own NATS; waits until both operator replicas are ready. */
export async function installChart(target: Target, values: readonly string[] = []): Promise<void> {
  // Operator and NATS must pass the restricted level too.
  if (target.local) await kubectlOf(target, systemNamespace).apply(restrictedNamespace(systemNamespace));
  const sets = [...imageValues(target.imageRegistry), ...values].flatMap((value) => ["--set", value]);
  await helm(target, [
    "upgrade",
    "--install",
    release,
    join(root, "charts/enodia"),
    "--create-namespace",
    "--wait",
    "--timeout",
    "3m",
    ...sets,
  ]);
}

/** `helm test` of the release with the log of its pod; throws with both where it fails. */
export const helmTest = (target: Target): Promise<string> => helm(target, ["test", release, "--logs", "--timeout", "2m"]);

/** Chart values that name the four images of a demo or test: those loaded into the nodes, or the released ones of a registry. */
export function imageValues(registry: string | undefined): string[] {
  const tag = registry === undefined ? "dev" : productVersion();
  const images = [
    `image.tag=${tag}`,
    `runtimeImage.tag=${tag}`,
    `trainingImage.tag=${tag}`,
    "nats.image.repository=enodia/nats",
    `nats.image.tag=${tag}`,
  ];
  return registry === undefined ? images : [...images, `global.imageRegistry=${registry}`];
}

/** Tag of the released images. */
export const productVersion = (): string => JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version;

function helm(target: Target, args: readonly string[]): Promise<string> {
  const flags = [
    "--namespace",
    systemNamespace,
    ...(target.kubeconfig ? ["--kubeconfig", target.kubeconfig] : []),
    ...(target.context ? ["--kube-context", target.context] : []),
  ];
  return execOk(target.helm, [...args, ...flags], { signal: target.signal });
}

const restrictedNamespace = (name: string): object => ({
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name, labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
});

/** A namespace that enforces the restricted Pod Security level, with the claim `models` on a folder of this machine. */
export function namespaceObjects(namespace: string, modelsFolder: string): readonly object[] {
  const volume = `models-${namespace}`;
  const size = { storage: "20Gi" };
  return [
    restrictedNamespace(namespace),
    {
      apiVersion: "v1",
      kind: "PersistentVolume",
      metadata: { name: volume },
      spec: {
        capacity: size,
        accessModes: ["ReadOnlyMany"],
        persistentVolumeReclaimPolicy: "Retain",
        storageClassName: "",
        hostPath: { path: modelsFolder, type: "Directory" },
        claimRef: { namespace, name: "models" },
      },
    },
    {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { name: "models", namespace },
      spec: { accessModes: ["ReadOnlyMany"], storageClassName: "", volumeName: volume, resources: { requests: size } },
    },
  ];
}

export async function provideNamespace(target: Target, namespace: string, modelsFolder: string): Promise<Kubectl> {
  const kubectl = kubectlOf(target, namespace);
  await kubectl.apply(...namespaceObjects(namespace, modelsFolder));
  return kubectl;
}

/** Waits for Ready=True at the object's present generation with all wanted replicas of the template in effect, and none beside them. */
export function waitReady(kubectl: Kubectl, name: string, timeoutMs = readyTimeoutMs): Promise<KubeObject> {
  return kubectl.waitFor("moedeployment", name, `${name} to be Ready`, isReady, timeoutMs);
}

function isReady(moed: KubeObject): boolean {
  const status = moed.status ?? {};
  return (
    status.observedGeneration === moed.metadata.generation &&
    condition(moed, "Ready")?.status === "True" &&
    [status.readyReplicas, status.updatedReplicas, status.replicas].every((count) => count === moed.spec.replicas)
  );
}

export function workerPods(kubectl: Kubectl, name: string): Promise<readonly KubeObject[]> {
  return kubectl.list("pods", `enodia.dev/deployment=${name},enodia.dev/component=worker`);
}

/**
 * The address of the Service from this machine, good for as long as there is the Service: its own on a local cluster, to which this
 * machine has a route, else through the API server.
 */
export async function serviceAddress(target: Target, kubectl: Kubectl, { name, namespace }: ServiceRef): Promise<Forward> {
  const address = target.local ? await ownAddress(kubectl, name) : await kubectl.proxy();
  const url = target.local ? address.url : `${address.url}${servicePath({ name, namespace })}`;
  try {
    // A gateway is Ready a moment before the proxies of the nodes know it.
    const answers = async () => ((await fetch(`${url}/v1/models`).catch(() => undefined))?.ok ? true : undefined);
    await until(`Service ${name} to answer at ${url}`, answers, { timeoutMs: 30_000, signal: target.signal });
  } catch (error) {
    await address.close();
    throw error;
  }
  return { url, close: address.close };
}

async function ownAddress(kubectl: Kubectl, name: string): Promise<Forward> {
  const { clusterIP } = (await kubectl.get("service", name)).spec;
  return { url: `http://${clusterIP}:${servicePort}`, close: () => Promise.resolve() };
}

/** The path of the Service in the API server; `kubectl proxy` opens it to programs of this machine. */
export function servicePath({ name, namespace }: ServiceRef): string {
  return `/api/v1/namespaces/${namespace}/services/${name}:${servicePort}/proxy`;
}

export const gatewayUrl = (podIp: string): string => `http://${podIp}:8000`;

/** The address of one ready gateway pod of a local cluster, for tests that break nodes on the way to a Service. */
export async function gatewayAddress(target: Target, kubectl: Kubectl, name: string): Promise<{ readonly url: string }> {
  const ip = await until(
    "a running gateway pod",
    async () => {
      const pods = await kubectl.list("pods", `enodia.dev/deployment=${name},enodia.dev/component=gateway`);
      const ready = pods.find(
        (pod) => !pod.metadata.deletionTimestamp && pod.status?.conditions?.some((c: any) => c.type === "Ready" && c.status === "True"),
      );
      return ready?.status?.podIP as string | undefined;
    },
    { timeoutMs: 30_000, signal: target.signal },
  );
  return { url: gatewayUrl(ip) };
}
