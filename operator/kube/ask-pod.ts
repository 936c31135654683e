// A request to a pod over mutual TLS, with a deadline and a limit of bytes. Callers parse the answer.
import { type RequestOptions, request } from "node:https";
import type { ConnectionOptions } from "node:tls";

const askMsMax = 5_000;

/** The operator's certificate and key for one owner, PEM. Valid for its CA only. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

export interface PodQuestion {
  readonly ip: string;
  readonly port: number;
  readonly path: string;
  /** The name in the pod's certificate. */
  readonly servername: string;
  readonly identity: Identity;
  readonly bytesMax: number;
  /** JSON to post; undefined: GET. */
  readonly body?: string;
}

/** The body; undefined where the pod refuses. Rejects on timeout or too long an answer. */
export function askPod({ ip, servername, identity, bytesMax, body, ...address }: PodQuestion): Promise<string | undefined> {
  const { cert, key, ca } = identity;
  const posted = body !== undefined && { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  const options: RequestOptions & Pick<ConnectionOptions, "ALPNProtocols"> = {
    ...address,
    host: ip,
    method: posted ? "POST" : "GET",
    headers: posted || {},
    agent: false,
    servername,
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
        if (bytes <= bytesMax) pieces.push(piece);
        else asked.destroy(new Error(`an answer of more than ${bytesMax} bytes`));
      });
      response.once("error", reject);
      response.once("end", () => resolve(response.statusCode === 200 ? Buffer.concat(pieces).toString("utf8") : undefined));
    });
    asked.once("error", reject);
    asked.end(body);
  });
}
