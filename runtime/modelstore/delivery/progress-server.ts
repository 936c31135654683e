// Serves a download pod's progress. It accepts no body, so a caller can hold only a connection.
import type { IncomingMessage, ServerResponse } from "node:http";
import { type DownloadProgress, progressPath } from "../../../crds/download.ts";
import type { RefusalLog } from "../../net/connections.ts";
import { listenForOperator, type OperatorPort } from "../../net/operator-port.ts";
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
}

export function serveProgress({ deployment, message, ...place }: ProgressServerOptions): Promise<OperatorPort> {
  return listenForOperator({
    ...place,
    name: "progress",
    scope: deployment,
    answer: (request, response) => answer(request, response, message),
  });
}

function answer(request: IncomingMessage, response: ServerResponse, message: () => DownloadProgress): void {
  const found = request.url === progressPath && request.method === "GET";
  response.writeHead(found ? 200 : 404, { "content-type": "application/json", connection: "close" });
  response.end(JSON.stringify(found ? message() : { message: `not found; here is GET ${progressPath}` }));
}
