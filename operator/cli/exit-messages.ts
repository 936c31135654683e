// Exit messages of containers: the end of their log, where the kubelet kept no message.
import type { Transport } from "../kube/transport.ts";
import type { ContainerFacts, PodFacts } from "../views/pods.ts";

/** Pods of one look that are asked; their like say the same. */
const podsMax = 8;
/** Lines and bytes of a log's end. */
const linesMax = 3;
const bytesMax = 16_384;
const answerMsMax = 3_000;
/** A kubelet answers with this text, and no error, once the log of an ended container is gone. */
const goneLog = "unable to retrieve container logs for ";

const isSilent = ({ ended }: ContainerFacts): boolean => ended !== undefined && ended.exitCode !== 0 && ended.message === "";

/** The pods with the exit messages that can be read. */
export async function withExitMessages(transport: Pick<Transport, "request">, pods: readonly PodFacts[]): Promise<PodFacts[]> {
  const silent = new Set(pods.filter(({ containers }) => containers.some(isSilent)).slice(0, podsMax));
  return Promise.all(
    pods.map(async (pod) => {
      if (!silent.has(pod)) return pod;
      const containers = await Promise.all(pod.containers.map((container) => withMessage(transport, pod, container)));
      return { ...pod, containers };
    }),
  );
}

async function withMessage(transport: Pick<Transport, "request">, pod: PodFacts, container: ContainerFacts): Promise<ContainerFacts> {
  const { ended, name } = container;
  if (!ended || !isSilent(container)) return container;
  const query = new URLSearchParams({ container: name, previous: "true", tailLines: String(linesMax), limitBytes: String(bytesMax) });
  const path = `/api/v1/namespaces/${encodeURIComponent(pod.namespace)}/pods/${encodeURIComponent(pod.name)}/log?${query}`;
  try {
    const message = await transport.request({ method: "GET", path, signal: AbortSignal.timeout(answerMsMax) });
    return message.startsWith(goneLog) ? container : { ...container, ended: { ...ended, message } };
  } catch {
    return container; // the finding tells its exit code, and the command that shows the log
  }
}
