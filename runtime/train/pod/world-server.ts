// The port on which a training pod receives its world and reports its state.
import type { IncomingMessage, ServerResponse } from "node:http";
import { AppError } from "../../../crds/common.ts";
import { type PodReport, type WorldOrder, worldBytesMax, worldOrderSchema, worldPath } from "../../../crds/training-world.ts";
import type { RefusalLog } from "../../net/connections.ts";
import { bodyOf, listenForOperator, type OperatorPort } from "../../net/operator-port.ts";
import type { TlsSource } from "../../net/tls.ts";

export interface WorldServerOptions {
  /** The namespace in the certificates. */
  readonly namespace: string;
  readonly scope: string;
  readonly tls: Pick<TlsSource, "current">;
  readonly host: string;
  readonly port: number;
  readonly log: RefusalLog;
  /** Takes an order; a throw becomes a refusal with its code. */
  take(order: WorldOrder): PodReport;
}

export function listenForWorlds(options: WorldServerOptions): Promise<OperatorPort> {
  const { namespace, scope, tls, host, port, log } = options;
  const place = { namespace, scope, tls, host, port, log };
  return listenForOperator({ ...place, name: "world", answer: (request, response) => void answer(request, response, options) });
}

async function answer(request: IncomingMessage, response: ServerResponse, options: WorldServerOptions): Promise<void> {
  try {
    if (request.url !== worldPath || request.method !== "POST")
      throw new AppError(`not found; here is POST ${worldPath}`, { code: "NotFound" });
    const parsed = worldOrderSchema.safeParse(JSON.parse(await bodyOf(request, worldBytesMax)));
    if (!parsed.success) throw new AppError(parsed.error.message, { code: "InvalidWorld" });
    reply(response, 200, options.take(parsed.data));
  } catch (caught) {
    const { code, message } = AppError.from(caught);
    reply(response, code === "NotFound" ? 404 : 409, { code, message });
  }
}

function reply(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent || response.destroyed) return;
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}
