// A training pod is told its world and answers how it stands: HTTPS with certificates of the job's CA on both sides. The answer is read as
// a stranger's, with a deadline and a limit of bytes. Its end comes from the kubelet, not from here.
import { type RequestOptions, request } from "node:https";
import type { ConnectionOptions } from "node:tls";
import { ports } from "../../crds/common.ts";
import { type PodWords, podWordsSchema, trainingScope, worldBytesMax, worldPath } from "../../crds/training-world.ts";
import { serverNames } from "../../runtime/wire/tls.ts";
import type { Question } from "./pod-talks.ts";

const askMsMax = 5_000;

/** Undefined where the pod does not answer, refuses, or says what cannot be read: it is asked again. */
export async function tellPod(question: Question, port: number = ports.world): Promise<PodWords | undefined> {
  try {
    const text = await post(question, port);
    const words = text === undefined ? undefined : podWordsSchema.safeParse(JSON.parse(text)).data;
    return words?.pod === question.uid ? words : undefined;
  } catch {
    return undefined; // not there yet, or gone: what was known stays
  }
}

function post({ ip, rank, namespace, job, order, identity }: Question, port: number): Promise<string | undefined> {
  const { cert, key, ca } = identity;
  const body = JSON.stringify(order);
  const options: RequestOptions & Pick<ConnectionOptions, "ALPNProtocols"> = {
    host: ip,
    port,
    path: worldPath,
    method: "POST",
    headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
    agent: false,
    servername: serverNames.rank(rank, namespace, trainingScope(job)),
    ALPNProtocols: ["http/1.1"],
    cert,
    key,
    ca,
    signal: AbortSignal.timeout(askMsMax),
  };
  return new Promise((resolve, reject) => {
    const asked = request(options, (response) => {
      const pieces: Uint8Array[] = [];
      let bytes = 0;
      response.on("data", (piece: Uint8Array) => {
        bytes += piece.byteLength;
        if (bytes <= worldBytesMax) pieces.push(piece);
        else asked.destroy(new Error(`an answer of more than ${worldBytesMax} bytes`));
      });
      response.once("error", reject);
      response.once("end", () => resolve(response.statusCode === 200 ? Buffer.concat(pieces).toString("utf8") : undefined));
    });
    asked.once("error", reject);
    asked.end(body);
  });
}
