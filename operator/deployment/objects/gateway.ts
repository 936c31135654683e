// The gateway Deployment: no GPU, no API token, no model, since a rank provides the tokenizer. It sets replicas only where the spec does;
// otherwise whoever scales it has the field. Pure.
import { annotations, labels, paths, ports } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { gatewayProcess } from "../../../crds/process.ts";
import { renderEnv } from "../../../crds/variables.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { tlsSecrets } from "../../pki/names.ts";
import {
  gatewayKind,
  type Merged,
  mergePodTemplate,
  type PodShape,
  passedOnEnv,
  templateContainer,
  workerKind,
} from "../../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../../pods/security.ts";
import { names, objectLabels, objectMeta, type RenderContext, selectorLabels } from "./context.ts";
import { modelPlace, modelText } from "./model-place.ts";
import { gatewayHash } from "./pod-hash.ts";
import { commonMounts, commonVolumes, probes, processFacts, terminationGraceSeconds } from "./runtime-pod.ts";
import type { RenderedPod } from "./worker-pod.ts";

/** Defaults, since a namespace with a compute quota accepts no pod without requests. */
const requests = { cpu: "100m", memory: "512Mi" };
/** It takes under 0.5Gi, a queue of long prompts some more; one that takes more than this ends alone and not with its node. */
const limits = { memory: "2Gi" };

/** Kubernetes waits five minutes on a silent node; a gateway has nothing to lose elsewhere. */
const tolerations = ["not-ready", "unreachable"].map((taint) => ({
  key: `node.kubernetes.io/${taint}`,
  operator: "Exists",
  effect: "NoExecute",
  tolerationSeconds: 15,
}));

/** Undefined where an autoscaler or a person may set it. */
export function gatewayReplicas({ suspend, gateway }: MoEDeploymentSpec): number | undefined {
  return suspend ? 0 : gateway.replicas;
}

/** `pod`: the desired template, which another release may have rendered. */
export function gatewayDeployment(context: RenderContext, pod: PodShape = gatewayTemplate(context).pod): KubeObject {
  const { deployment } = context;
  const { name } = deployment.metadata;
  const replicas = gatewayReplicas(deployment.spec);
  const annotated = Object.keys(pod.annotations).length > 0 ? { annotations: pod.annotations } : {};
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: objectMeta(context, names.gateway(name), "gateway"),
    spec: {
      ...(replicas === undefined ? {} : { replicas }),
      selector: { matchLabels: selectorLabels(name, "gateway") },
      strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
      template: { metadata: { labels: pod.labels, ...annotated }, spec: pod.spec },
    },
  };
}

/** Refuses template fields of the operator, as for workers. */
export function gatewayTemplate(context: RenderContext): Merged & RenderedPod {
  const { deployment, settings } = context;
  const { metadata, spec } = deployment;
  const annotated = { [annotations.modelPlace]: modelText(modelPlace(spec)) };
  const front = metadata.labels?.[labels.greenOf] ?? metadata.name;
  const marks = { ...objectLabels(metadata.name, "gateway"), [labels.front]: front };
  const base: PodShape = { labels: marks, annotations: annotated, spec: basePod(context) };
  const { pod, refusals } = mergePodTemplate(base, spec.gateway.podTemplate, gatewayKind);
  return { pod, refusals, hash: gatewayHash(deployment, settings.runtimeImage) };
}

function basePod(context: RenderContext): PodShape["spec"] {
  const { deployment, settings } = context;
  const { name } = deployment.metadata;
  const { podTemplate, gateway } = deployment.spec;
  const { apiKeySecretRef: key, tls } = gateway;
  const mounts = [
    ...(key ? [{ name: "api-key", mountPath: dirOf(paths.apiKey), readOnly: true }] : []),
    ...(tls ? [{ name: "http-tls", mountPath: paths.httpTls, readOnly: true }] : []),
  ];
  const runtime = templateContainer(podTemplate, workerKind);
  const pull = podTemplate?.spec?.imagePullSecrets;
  return {
    serviceAccountName: name,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: terminationGraceSeconds,
    securityContext: podSecurity,
    tolerations,
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: "kubernetes.io/hostname",
        whenUnsatisfiable: "ScheduleAnyway",
        labelSelector: { matchLabels: selectorLabels(name, "gateway") },
        // Pods of the template before would draw the new ones together.
        matchLabelKeys: ["pod-template-hash"],
      },
    ],
    ...(pull === undefined ? {} : { imagePullSecrets: pull }),
    containers: [
      {
        name: gatewayKind.container,
        image: (runtime?.image as string | undefined) ?? settings.runtimeImage,
        imagePullPolicy: (runtime?.imagePullPolicy as string | undefined) ?? settings.pullPolicy,
        command: ["node", "runtime/main.ts", "gateway"],
        workingDir: "/app",
        env: [...renderEnv(gatewayProcess, processFacts(context)), ...passedOnEnv(podTemplate, gateway.podTemplate)],
        ports: [
          { name: "http", containerPort: ports.http },
          { name: "grpc", containerPort: ports.grpc },
          { name: "metrics", containerPort: ports.metrics },
          { name: "probes", containerPort: ports.probes },
        ],
        resources: { requests, limits },
        ...probes,
        securityContext: containerSecurity,
        volumeMounts: [...commonMounts(), ...mounts],
      },
    ],
    volumes: [
      ...commonVolumes(tlsSecrets.gateway(name)),
      ...(key ? [{ name: "api-key", secret: { secretName: key.name, defaultMode: 0o440, items: [{ key: key.key, path: "key" }] } }] : []),
      ...(tls ? [{ name: "http-tls", secret: { secretName: tls.secretRef.name, defaultMode: 0o440 } }] : []),
    ],
  };
}

const dirOf = (path: string): string => path.slice(0, path.lastIndexOf("/"));

export type GatewayAutoscale = NonNullable<MoEDeploymentSpec["gateway"]["autoscale"]>;

export function gatewayAutoscaler(context: RenderContext, autoscale: GatewayAutoscale): KubeObject {
  const { minReplicas, maxReplicas, targetCPUUtilizationPercentage } = autoscale;
  const target = { type: "Utilization", averageUtilization: targetCPUUtilizationPercentage };
  const name = names.gateway(context.deployment.metadata.name);
  return {
    apiVersion: resources.horizontalPodAutoscalers.apiVersion,
    kind: resources.horizontalPodAutoscalers.kind,
    metadata: objectMeta(context, name, "gateway"),
    spec: {
      scaleTargetRef: { apiVersion: resources.deployments.apiVersion, kind: resources.deployments.kind, name },
      minReplicas,
      maxReplicas,
      metrics: [{ type: "ContainerResource", containerResource: { name: "cpu", container: gatewayKind.container, target } }],
    },
  };
}
