// Serves a download pod's progress, and takes the list of members for a weight server.
import type { IncomingMessage, ServerResponse } from "node:http";
import { type DownloadProgress, membersBytesMax, membersSchema, progressPath } from "../../../crds/download.ts";
import type { RefusalLog } from "../../net/connections.ts";
import { bodyOf, listenForOperator, type OperatorPort } from "../../net/operator-port.ts";
import type { TlsSource } from "../../net/tls.ts";

export interface ProgressServerOptions {
  /** The certificates' namespace. */
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: Pick<TlsSource, "current">;
  readonly host: string;
  readonly port: number;
  readonly log: RefusalLog;
  readonly message: () => DownloadProgress;
  /** Given: the operator says with each question which pods are members. */
  readonly onMembers?: (podUids: readonly string[]) => void;
}

export function serveProgress(options: ProgressServerOptions): Promise<OperatorPort> {
  const { namespace, deployment: scope, tls, host, port, log } = options;
  const place = { namespace, scope, tls, host, port, log };
  return listenForOperator({ ...place, name: "progress", answer: (request, response) => void answer(request, response, options) });
}

async function answer(request: IncomingMessage, response: ServerResponse, { message, onMembers }: ProgressServerOptions): Promise<void> {
  const { method } = request;
  const tells = onMembers !== undefined && method === "POST";
  // An operator of a release before asks a weight server without a list.
  const found = request.url === progressPath && (tells || method === "GET");
  let status = found ? 200 : 404;
  try {
    if (tells && found) onMembers(membersSchema.parse(JSON.parse(await bodyOf(request, membersBytesMax))).members);
  } catch {
    status = 400;
  }
  const text =
    status === 200
      ? message()
      : { message: status === 400 ? "no list of members" : `not found; here is ${onMembers ? "GET and POST" : "GET"} ${progressPath}` };
  if (response.destroyed) return;
  response.writeHead(status, { "content-type": "application/json", connection: "close" });
  response.end(JSON.stringify(text));
}
