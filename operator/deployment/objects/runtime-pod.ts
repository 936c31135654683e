// The parts that worker and gateway pods share (security, probes, volumes, environment), and pods that fetch the model. Pure.
import { paths } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { modelVolume, type ProcessFacts } from "../../../crds/process.ts";
import { tlsSecrets } from "../../pki/names.ts";
import { onNode } from "../../pods/claim-use.ts";
import { templateContainer, workerKind } from "../../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../../pods/security.ts";
import { names, type RenderContext } from "./context.ts";
import { modelPlace } from "./model-place.ts";

export function processFacts({ deployment, weightServer }: RenderContext): ProcessFacts {
  const { name, namespace } = deployment.metadata;
  const weightServerDns = weightServer && `${names.weightServer(name)}.${namespace}.svc`;
  const { folder: modelFolder } = modelPlace(deployment.spec);
  return {
    deployment,
    peersDns: `${names.workers(name)}.${namespace}.svc`,
    settingsMap: names.settings(name),
    modelFolder,
    weightServerDns,
  };
}

/** Readiness is probed often, since traffic waits for it; liveness is patient, since a restart empties the memory. */
export const probes = {
  readinessProbe: { httpGet: { path: "/readyz", port: "probes" }, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3 },
  livenessProbe: {
    httpGet: { path: "/healthz", port: "probes" },
    initialDelaySeconds: 15,
    periodSeconds: 10,
    timeoutSeconds: 5,
    failureThreshold: 6,
  },
};

export function commonMounts() {
  return [
    { name: "tmp", mountPath: "/tmp" },
    { name: "tls", mountPath: paths.tls, readOnly: true },
  ];
}

export const modelMount = { name: modelVolume, mountPath: paths.models, readOnly: true };

export function modelVolumeOf({ deployment, weightServer }: RenderContext) {
  const { claim } = modelPlace(deployment.spec);
  // Node disk: the dense part and the experts that the rank hosts or has hosted.
  if (weightServer || claim === undefined) return { name: modelVolume, emptyDir: {} };
  return { name: modelVolume, persistentVolumeClaim: { claimName: claim, readOnly: true } };
}

/** Bound of /tmp: sockets, small caches, a gateway's tokenizer. */
const tmpSize = "256Mi";

export function commonVolumes(tlsSecret: string) {
  return [
    { name: "tmp", emptyDir: { sizeLimit: tmpSize } },
    { name: "tls", secret: { secretName: tlsSecret, defaultMode: 0o440 } },
  ];
}

/** Below common limits of nodes, and longer than requests take to end. */
export const terminationGraceSeconds = 60;

/** One expert in f32 and pieces of files; the page cache takes what is written. */
const modelRequests = { cpu: "500m", memory: "1Gi" };

interface ModelPod {
  readonly container: string;
  readonly role: "downloader" | "weight-server";
  readonly graceSeconds: number;
  /** That of a claim which no other node can mount now. */
  readonly node: string | undefined;
  /** Used where the workers' template names none. */
  readonly image: string;
  readonly pullPolicy: string;
  readonly env: readonly object[];
  readonly serves: object;
  /** The source of the model's volume. */
  readonly model:
    | { readonly emptyDir: object }
    | { readonly persistentVolumeClaim: { readonly claimName?: string | undefined; readonly readOnly?: boolean } };
}

/** The pod that fetches the model, with the Secret of spec.model as files. */
export function modelPod({ metadata: { name }, spec }: RenderContext["deployment"], pod: ModelPod): object {
  const { role, model } = pod;
  const runtime = templateContainer(spec.podTemplate, workerKind);
  const { imagePullSecrets: pull, nodeSelector, tolerations } = spec.podTemplate?.spec ?? {};
  const secret = spec.model.secretRef?.name;
  const { requests = modelRequests, limits } = spec.model.resources ?? {};
  const readOnly = "persistentVolumeClaim" in model && model.persistentVolumeClaim.readOnly;
  return {
    serviceAccountName: name,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: pod.graceSeconds,
    securityContext: podSecurity,
    ...(pull === undefined ? {} : { imagePullSecrets: pull }),
    // The ranks' node selector, since the claim may exist only there.
    ...(nodeSelector ? { nodeSelector } : {}),
    ...(pod.node === undefined ? {} : { affinity: onNode(pod.node) }),
    ...(tolerations ? { tolerations } : {}),
    containers: [
      {
        name: pod.container,
        image: (runtime?.image as string | undefined) ?? pod.image,
        imagePullPolicy: (runtime?.imagePullPolicy as string | undefined) ?? pod.pullPolicy,
        command: ["node", "runtime/main.ts", role],
        workingDir: "/app",
        env: pod.env,
        ...pod.serves,
        resources: limits === undefined ? { requests } : { requests, limits },
        securityContext: containerSecurity,
        volumeMounts: [
          ...commonMounts(),
          { name: modelVolume, mountPath: paths.models, ...(readOnly ? { readOnly } : {}) },
          ...(secret ? [{ name: "model-secret", mountPath: paths.modelSecret, readOnly: true }] : []),
        ],
      },
    ],
    volumes: [
      ...commonVolumes(tlsSecrets[role](name)),
      { name: modelVolume, ...model },
      ...(secret ? [{ name: "model-secret", secret: { secretName: secret, defaultMode: 0o440 } }] : []),
    ],
  };
}

/** Proxy variables of the workers' template. */
const proxyVariables = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

export function proxyEnv({ podTemplate }: Pick<MoEDeploymentSpec, "podTemplate">): object[] {
  const runtime = templateContainer(podTemplate, workerKind);
  const env = Array.isArray(runtime?.env) ? (runtime.env as { readonly name?: unknown }[]) : [];
  const given = env.filter(({ name }) => proxyVariables.includes(String(name)));
  return given.length === 0 ? [] : [...given, { name: "NODE_USE_ENV_PROXY", value: "1" }];
}
