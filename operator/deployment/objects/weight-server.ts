// The weight server of ranks that mount no model: one pod with the whole store and its headless Service. It mounts the claim read-only, or
// downloads onto its node's disk. Pure.

import { annotations, ports } from "../../../crds/common.ts";
import { renderEnv } from "../../../crds/variables.ts";
import { weightServerComponent, weightServerProcess } from "../../../crds/weight-server.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { heldNote } from "../../pods/claim-use.ts";
import { names, objectLabels, objectMeta, ofModel, type RenderContext, selectorLabels, type WeightServerWish } from "./context.ts";
import { modelPlace, modelText, workFolder } from "./model-place.ts";
import { modelPod, probes, proxyEnv } from "./runtime-pod.ts";

/** A rank then retries, or reads from another source. */
const graceSeconds = 10;
const weightServerContainer = "weight-server";

export function weightServerDeployment(context: RenderContext, { replicas, keeps, node }: WeightServerWish): KubeObject {
  const { settings } = context;
  const deployment = ofModel(context.deployment, keeps);
  const { spec } = deployment;
  const { name } = deployment.metadata;
  const { claim, folder } = modelPlace(spec);
  const facts = { deployment, folder, work: workFolder(deployment), workInUse: undefined, settingsMap: names.settings(name) };
  const sizeLimit = spec.model.cache?.ephemeral?.sizeLimit;
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: objectMeta(context, names.weightServer(name), weightServerComponent),
    spec: {
      replicas,
      selector: { matchLabels: selectorLabels(name, weightServerComponent) },
      // One at a time; Recreate would wait for the pod of a dead node, which ends only with its node.
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 0, maxUnavailable: 1 } },
      template: {
        metadata: {
          labels: objectLabels(name, weightServerComponent),
          annotations: {
            ...{ [annotations.modelPlace]: modelText(modelPlace(spec)), [annotations.model]: spec.model.uri },
            ...heldNote(node),
          },
        },
        spec: modelPod(deployment, {
          container: weightServerContainer,
          role: "weight-server",
          graceSeconds,
          node,
          image: settings.runtimeImage,
          pullPolicy: settings.pullPolicy,
          env: [...renderEnv(weightServerProcess, facts), ...(sizeLimit === undefined ? [] : proxyEnv(spec))],
          serves: {
            ports: [
              { name: "grpc", containerPort: ports.grpc },
              { name: "progress", containerPort: ports.progress },
              { name: "probes", containerPort: ports.probes },
            ],
            ...probes,
          },
          model: claim === undefined ? { emptyDir: { sizeLimit } } : { persistentVolumeClaim: { claimName: claim, readOnly: true } },
        }),
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
