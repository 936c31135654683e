// Sends a training pod its world and reads its report; its end comes from the kubelet.
import { ports } from "../../crds/common.ts";
import { type PodReport, podReportSchema, trainingScope, worldBytesMax, worldPath } from "../../crds/training-world.ts";
import { serverNames } from "../../runtime/net/tls.ts";
import { askPod } from "../kube/ask-pod.ts";
import type { Question } from "./pod-talks.ts";

/** Undefined where the pod refuses, does not answer, or unreadably. */
export async function tellPod(question: Question, port: number = ports.world): Promise<PodReport | undefined> {
  const { ip, rank, namespace, job, order, identity, uid } = question;
  const servername = serverNames.rank(rank, namespace, trainingScope(job));
  try {
    const body = JSON.stringify(order);
    const text = await askPod({ ip, port, path: worldPath, servername, identity, bytesMax: worldBytesMax, body });
    const report = text === undefined ? undefined : podReportSchema.safeParse(JSON.parse(text)).data;
    return report?.pod === uid ? report : undefined;
  } catch {
    return undefined; // the last report stays
  }
}
