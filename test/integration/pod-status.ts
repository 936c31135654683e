// A pod as its kubelet tells of it, where a test plays the kubelet beside a scheduler that writes the status of pods too.
import { type Kube, type KubeObject, resources } from "../../operator/kube/kube.ts";

/** Writes the status of this pod and of none that has come in its place, whoever has written it meanwhile. */
export async function tellPod(kube: Kube, pod: KubeObject, status: object): Promise<void> {
  const { resourceVersion: _, ...metadata } = pod.metadata;
  await kube.updateStatus(resources.pods, { ...pod, metadata, status }, { manager: "test" });
}
