// The gateway Deployment: HTTP front, no GPU, no API token. Pure.
import { paths, ports } from "../../../crds/common.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { names, objectLabels, objectMeta, type RenderContext, selectorLabels } from "./context.ts";
import { templateGatewayEnv, templateRuntime } from "./pod-template.ts";
import { commonEnv, commonMounts, commonVolumes, containerSecurity, podSecurity, probes, terminationGraceSeconds } from "./runtime-pod.ts";

export function gatewayDeployment(context: RenderContext): KubeObject {
  const { deployment } = context;
  const { name } = deployment.metadata;
  const { spec } = deployment;
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: objectMeta(context, names.gateway(name), "gateway"),
    spec: {
      replicas: spec.suspend ? 0 : spec.gateway.replicas,
      selector: { matchLabels: selectorLabels(name, "gateway") },
      strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
      template: { metadata: { labels: objectLabels(name, "gateway") }, spec: podSpec(context) },
    },
  };
}

function podSpec(context: RenderContext) {
  const { deployment, settings } = context;
  const { name } = deployment.metadata;
  const key = deployment.spec.gateway.apiKeySecretRef;
  const runtime = templateRuntime(deployment.spec.podTemplate);
  const pull = deployment.spec.podTemplate?.spec?.imagePullSecrets;
  return {
    serviceAccountName: name,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: terminationGraceSeconds,
    securityContext: podSecurity,
    ...(pull === undefined ? {} : { imagePullSecrets: pull }),
    containers: [
      {
        name: "gateway",
        image: (runtime?.image as string | undefined) ?? settings.runtimeImage,
        imagePullPolicy: (runtime?.imagePullPolicy as string | undefined) ?? settings.pullPolicy,
        command: ["node", "runtime/main.ts", "gateway"],
        workingDir: "/app",
        env: [
          ...commonEnv(context),
          { name: "ENODIA_HTTP_PORT", value: String(ports.http) },
          ...(key ? [{ name: "ENODIA_API_KEY_FILE", value: paths.apiKey }] : []),
          ...templateGatewayEnv(deployment.spec.podTemplate),
        ],
        ports: [
          { name: "http", containerPort: ports.http },
          { name: "grpc", containerPort: ports.grpc },
          { name: "metrics", containerPort: ports.metrics },
        ],
        ...probes,
        securityContext: containerSecurity,
        volumeMounts: [...commonMounts(), ...(key ? [{ name: "api-key", mountPath: dirOf(paths.apiKey), readOnly: true }] : [])],
      },
    ],
    volumes: [
      ...commonVolumes(context, names.gatewayTls(name)),
      ...(key ? [{ name: "api-key", secret: { secretName: key.name, defaultMode: 0o440, items: [{ key: key.key, path: "key" }] } }] : []),
    ],
  };
}

const dirOf = (path: string): string => path.slice(0, path.lastIndexOf("/"));
