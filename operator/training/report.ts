// The question to a training pod how far it is, over HTTP within the cluster. The answer is shown and decides nothing: the end of a pod
// comes from the kubelet. It is read as a stranger's, with a deadline and a limit of bytes.
import { ports } from "../../crds/common.ts";
import { reportBytesMax, reportPath, type TrainingReport, trainingReportSchema } from "../../crds/training-report.ts";

const askMsMax = 2_000;

/** Undefined where the pod does not answer, or says what cannot be read: it is asked again. */
export async function askPod(ip: string, port: number = ports.probes): Promise<TrainingReport | undefined> {
  const host = ip.includes(":") ? `[${ip}]` : ip;
  try {
    const response = await fetch(`http://${host}:${port}${reportPath}`, { signal: AbortSignal.timeout(askMsMax), redirect: "error" });
    if (!response.ok || response.body === null) return undefined;
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    for await (const piece of response.body) {
      bytes += piece.byteLength;
      if (bytes > reportBytesMax) return undefined; // leaving the loop ends the request
      pieces.push(piece);
    }
    return trainingReportSchema.safeParse(JSON.parse(Buffer.concat(pieces).toString("utf8"))).data;
  } catch {
    return undefined; // not there yet, or gone: what was known stays
  }
}
