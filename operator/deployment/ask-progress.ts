// A pod that downloads a model is asked how far it is: HTTPS with certificates of the deployment's CA on both sides. The answer is read as
// a stranger's, with a deadline and a limit of bytes. Its end comes from the kubelet, not from here.
import { type RequestOptions, request } from "node:https";
import type { ConnectionOptions } from "node:tls";
import { ports } from "../../crds/common.ts";
import { type DownloadWords, downloadWordsSchema, progressBytesMax, progressPath } from "../../crds/download.ts";
import type { Ref } from "../kube/kube.ts";
import { downloaderServerName, type Identity } from "./ports.ts";

const askMsMax = 5_000;

/** How a pod is reached. */
export interface ProgressQuestion {
  readonly ref: Ref;
  readonly uid: string;
  readonly ip: string;
  readonly identity: Identity;
}

/** Undefined where the pod does not answer, or says what cannot be read: it is asked again. */
export async function askProgress(question: ProgressQuestion, port: number = ports.progress): Promise<DownloadWords | undefined> {
  try {
    const text = await get(question, port);
    const words = text === undefined ? undefined : downloadWordsSchema.safeParse(JSON.parse(text)).data;
    return words?.pod === question.uid ? words : undefined;
  } catch {
    return undefined; // not there yet, or gone: what was known stays
  }
}

function get({ ip, ref, identity }: ProgressQuestion, port: number): Promise<string | undefined> {
  const { cert, key, ca } = identity;
  const options: RequestOptions & Pick<ConnectionOptions, "ALPNProtocols"> = {
    host: ip,
    port,
    path: progressPath,
    agent: false,
    servername: downloaderServerName(ref),
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
        if (bytes <= progressBytesMax) pieces.push(piece);
        else asked.destroy(new Error(`an answer of more than ${progressBytesMax} bytes`));
      });
      response.once("error", reject);
      response.once("end", () => resolve(response.statusCode === 200 ? Buffer.concat(pieces).toString("utf8") : undefined));
    });
    asked.once("error", reject);
    asked.end();
  });
}
