// The Job that downloads a model into its claim, with the Secret of spec.model as files. It is created and never changed: another download
// has another name. Pure.

import { annotations, ports } from "../../../crds/common.ts";
import { downloaderComponent, downloaderProcess, hopelessExitCode } from "../../../crds/download.ts";
import { renderEnv } from "../../../crds/variables.ts";
import type { KubeObject } from "../../kube/kube.ts";
import { heldNote } from "../../pods/claim-use.ts";
import { names, objectLabels, objectMeta, type RenderContext } from "./context.ts";
import { modelPlace, workFolder } from "./model-place.ts";
import { modelPod, proxyEnv } from "./runtime-pod.ts";

const container = "downloader";
/** Failed pods before the Job fails; each retries for minutes and resumes the download. */
const backoffLimit = 6;
const graceSeconds = 30;

interface DownloadPlace {
  /** Work folders that must stay; undefined = the pod removes none. */
  readonly workInUse?: readonly string[] | undefined;
  /** The node that has the claim; undefined = any. */
  readonly node?: string | undefined;
}

export function downloadJob(context: RenderContext, jobName: string, { workInUse, node }: DownloadPlace = {}): KubeObject {
  const { deployment, settings } = context;
  const { metadata, spec } = deployment;
  const { name } = metadata;
  const { claim, folder } = modelPlace(spec);
  const facts = { deployment, folder, work: workFolder(deployment), workInUse, settingsMap: names.settings(name) };
  return {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: {
      ...objectMeta(context, jobName, downloaderComponent),
      annotations: { [annotations.model]: spec.model.uri, ...heldNote(node) },
    },
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
        metadata: { labels: objectLabels(name, downloaderComponent) },
        spec: {
          restartPolicy: "Never",
          ...modelPod(deployment, {
            container,
            role: "downloader",
            graceSeconds,
            node,
            image: spec.runtimeImage.image ?? settings.runtimeImage,
            pullPolicy: settings.pullPolicy,
            env: [...renderEnv(downloaderProcess, facts), ...proxyEnv(spec)],
            serves: { ports: [{ name: "progress", containerPort: ports.progress }] },
            model: { persistentVolumeClaim: { claimName: claim } },
          }),
        },
      },
    },
  };
}
