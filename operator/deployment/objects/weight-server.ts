// The weight server of ranks that mount no model: one pod with the whole store and its headless Service. It mounts the claim read-only, or
// downloads onto its node's disk. Pure.

import { annotations, paths, ports } from "../../../crds/common.ts";
import { modelVolume } from "../../../crds/process.ts";
import { renderEnv } from "../../../crds/variables.ts";
import { weightServerComponent, weightServerProcess } from "../../../crds/weight-server.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { tlsSecrets } from "../../pki/names.ts";
import { templateContainer, workerKind } from "../../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../../pods/security.ts";
import { names, objectLabels, objectMeta, ofModel, type RenderContext, selectorLabels, type WeightServerWish } from "./context.ts";
import { modelPlace, modelText, workFolder } from "./model-place.ts";
import { commonMounts, commonVolumes, modelPodResources, probes, proxyEnv } from "./runtime-pod.ts";

/** A rank then retries, or reads from another source. */
const graceSeconds = 10;
const weightServerContainer = "weight-server";

export function weightServerDeployment(context: RenderContext, { replicas, keeps }: WeightServerWish): KubeObject {
  const { settings } = context;
  const deployment = ofModel(context.deployment, keeps);
  const { spec } = deployment;
  const { name } = deployment.metadata;
  const { claim, folder } = modelPlace(spec);
  const facts = { deployment, folder, work: workFolder(deployment), workInUse: undefined, settingsMap: names.settings(name) };
  const runtime = templateContainer(spec.podTemplate, workerKind);
  const { imagePullSecrets: pull, nodeSelector, tolerations } = spec.podTemplate?.spec ?? {};
  const secret = spec.model.secretRef?.name;
  const sizeLimit = spec.model.cache?.ephemeral?.sizeLimit;
  const volume = claim === undefined ? { emptyDir: { sizeLimit } } : { persistentVolumeClaim: { claimName: claim, readOnly: true } };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: objectMeta(context, names.weightServer(name), weightServerComponent),
    spec: {
      replicas,
      selector: { matchLabels: selectorLabels(name, weightServerComponent) },
      // Two pods could need the claim on two nodes.
      strategy: { type: "Recreate" },
      template: {
        metadata: {
          labels: objectLabels(name, weightServerComponent),
          annotations: { [annotations.modelPlace]: modelText(modelPlace(spec)), [annotations.model]: spec.model.uri },
        },
        spec: {
          serviceAccountName: name,
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          terminationGracePeriodSeconds: graceSeconds,
          securityContext: podSecurity,
          ...(pull === undefined ? {} : { imagePullSecrets: pull }),
          // The ranks' node selector, since the claim may exist only there.
          ...(nodeSelector ? { nodeSelector } : {}),
          ...(tolerations ? { tolerations } : {}),
          containers: [
            {
              name: weightServerContainer,
              image: (runtime?.image as string | undefined) ?? settings.runtimeImage,
              imagePullPolicy: (runtime?.imagePullPolicy as string | undefined) ?? settings.pullPolicy,
              command: ["node", "runtime/main.ts", "weight-server"],
              workingDir: "/app",
              env: [...renderEnv(weightServerProcess, facts), ...(sizeLimit === undefined ? [] : proxyEnv(runtime))],
              ports: [
                { name: "grpc", containerPort: ports.grpc },
                { name: "progress", containerPort: ports.progress },
                { name: "probes", containerPort: ports.probes },
              ],
              resources: modelPodResources(spec),
              ...probes,
              securityContext: containerSecurity,
              volumeMounts: [
                ...commonMounts(),
                { name: modelVolume, mountPath: paths.models, ...(claim === undefined ? {} : { readOnly: true }) },
                ...(secret ? [{ name: "model-secret", mountPath: paths.modelSecret, readOnly: true }] : []),
              ],
            },
          ],
          volumes: [
            ...commonVolumes(tlsSecrets["weight-server"](name)),
            { name: modelVolume, ...volume },
            ...(secret ? [{ name: "model-secret", secret: { secretName: secret, defaultMode: 0o440 } }] : []),
          ],
        },
      },
    },
  };
}

export function weightServerService(context: RenderContext): KubeObject {
  const { name } = context.deployment.metadata;
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: objectMeta(context, names.weightServer(name), weightServerComponent),
    spec: {
      clusterIP: "None",
      selector: selectorLabels(name, weightServerComponent),
      ports: [{ name: "grpc", port: ports.grpc, targetPort: "grpc", protocol: "TCP" }],
    },
  };
}
