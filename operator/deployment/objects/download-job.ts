// The Job that downloads a model into its claim, with the Secret of spec.model as files. It is created and never changed: another download
// has another name. Pure.

import { annotations, paths, ports } from "../../../crds/common.ts";
import { downloaderComponent, downloaderProcess, hopelessExitCode } from "../../../crds/download.ts";
import { renderEnv } from "../../../crds/variables.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { tlsSecrets } from "../../pki/names.ts";
import { templateContainer, workerKind } from "../../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../../pods/security.ts";
import { names, objectLabels, objectMeta, type RenderContext } from "./context.ts";
import { modelPlace, workFolder } from "./model-place.ts";
import { modelPodResources, proxyEnv } from "./runtime-pod.ts";

const container = "downloader";
/** Failed pods before the Job fails; each retries for minutes and resumes the download. */
const backoffLimit = 6;
const graceSeconds = 30;
const tmpSize = "256Mi";
/** `workInUse`: work folders that must stay; undefined = the pod removes none. */
export function downloadJob(context: RenderContext, jobName: string, workInUse?: readonly string[]): KubeObject {
  const { deployment, settings } = context;
  const { metadata, spec } = deployment;
  const { name } = metadata;
  const { claim, folder } = modelPlace(spec);
  const facts = { deployment, folder, work: workFolder(deployment), workInUse, settingsMap: names.settings(name) };
  const runtime = templateContainer(spec.podTemplate, workerKind);
  const { imagePullSecrets: pull, nodeSelector, tolerations } = spec.podTemplate?.spec ?? {};
  const secret = spec.model.secretRef?.name;
  const labels = objectLabels(name, downloaderComponent);
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: { ...objectMeta(context, jobName, downloaderComponent), annotations: { [annotations.model]: spec.model.uri } },
    spec: {
      completions: 1,
      parallelism: 1,
      backoffLimit,
      // Two pods would write the same files.
      podReplacementPolicy: "Failed",
      podFailurePolicy: {
        rules: [
          { action: "FailJob", onExitCodes: { containerName: container, operator: "In", values: [hopelessExitCode] } },
          { action: "Ignore", onPodConditions: [{ type: "DisruptionTarget", status: "True" }] },
        ],
      },
      template: {
        metadata: { labels },
        spec: {
          restartPolicy: "Never",
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
              name: container,
              image: (runtime?.image as string | undefined) ?? spec.runtimeImage.image ?? settings.runtimeImage,
              imagePullPolicy: (runtime?.imagePullPolicy as string | undefined) ?? settings.pullPolicy,
              command: ["node", "runtime/main.ts", "downloader"],
              workingDir: "/app",
              env: [...renderEnv(downloaderProcess, facts), ...proxyEnv(runtime)],
              ports: [{ name: "progress", containerPort: ports.progress }],
              resources: modelPodResources(spec),
              securityContext: containerSecurity,
              volumeMounts: [
                { name: "tmp", mountPath: "/tmp" },
                { name: "tls", mountPath: paths.tls, readOnly: true },
                { name: "models", mountPath: paths.models },
                ...(secret ? [{ name: "model-secret", mountPath: paths.modelSecret, readOnly: true }] : []),
              ],
            },
          ],
          volumes: [
            { name: "tmp", emptyDir: { sizeLimit: tmpSize } },
            { name: "tls", secret: { secretName: tlsSecrets.downloader(name), defaultMode: 0o440 } },
            { name: "models", persistentVolumeClaim: { claimName: claim } },
            ...(secret ? [{ name: "model-secret", secret: { secretName: secret, defaultMode: 0o440 } }] : []),
          ],
        },
      },
    },
  };
}
