// The in-memory Kubernetes API behind HTTP on loopback, for a whole operator as a process: it can be away, and refuse a namespace.
// It has no credentials and no admission; what a request means is FakeKube's.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { AppError } from "../../../crds/common.ts";
import { type FieldConflict, FieldConflictError } from "../../../operator/kube/errors.ts";
import { type KubeObject, type Resource, resources } from "../../../operator/kube/kube.ts";
import type { FakeKube } from "./fake-kube.ts";

const host = "127.0.0.1";
const statusOf: Readonly<Record<string, number>> = {
  NotFound: 404,
  AlreadyExists: 409,
  Conflict: 409,
  FieldConflict: 409,
  Invalid: 422,
  Expired: 410,
};
const applied = "application/apply-patch+yaml";
const path = /^\/(?:api\/v1|apis\/([^/]+\/[^/]+))(?:\/namespaces\/([^/]+))?\/([^/]+)(?:\/([^/]+))?(\/status)?$/;

interface Call {
  readonly method: string;
  readonly resource: Resource;
  readonly namespace: string | undefined;
  readonly name: string | undefined;
  readonly status: boolean;
  readonly query: URLSearchParams;
  readonly body: KubeObject;
  readonly contentType: string;
}

export class FakeApiServer {
  readonly kube: FakeKube;
  /** Namespaces in which every request is refused. */
  readonly forbidden = new Set<string>();
  #server: Server | undefined;
  #port = 0;

  constructor(kube: FakeKube) {
    this.kube = kube;
  }

  get url(): string {
    return `http://${host}:${this.#port}`;
  }

  /** Listens, the second time on the port of the first. */
  async listen(): Promise<void> {
    const server = createServer((request, response) => void this.#serve(request, response));
    await new Promise<void>((resolve) => server.listen(this.#port, host, resolve));
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Breaks every connection and takes no more. */
  async away(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    await new Promise<void>((resolve) => {
      server?.close(() => resolve());
      server?.closeAllConnections();
      if (!server) resolve();
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const call = await callOf(request);
      if (call.namespace && this.forbidden.has(call.namespace)) return answer(response, 403, { message: `forbidden: ${call.namespace}` });
      if (call.query.get("watch")) return await this.#watch(call, response);
      answer(response, 200, await this.#answer(call));
    } catch (caught) {
      const { code, message } = AppError.from(caught);
      const causes = caught instanceof FieldConflictError ? caught.conflicts.map(causeOf) : [];
      answer(response, statusOf[code] ?? 500, { message, reason: code, details: { causes } });
    }
  }

  async #answer({ method, resource, namespace = "", name, status, query, body, contentType }: Call): Promise<unknown> {
    const { kube } = this;
    const options = { manager: query.get("fieldManager") ?? "", dryRun: query.get("dryRun") !== null, force: query.get("force") !== null };
    const ref = { namespace, name: name ?? "" };
    if (method === "POST") return kube.create(resource, body, options);
    if (method === "PUT") return status ? kube.updateStatus(resource, body, options) : kube.update(resource, body, options);
    if (method === "PATCH" && contentType === applied)
      return status ? kube.applyStatus(resource, body, options) : kube.apply(resource, body, options);
    if (method === "PATCH") return kube.patch(resource, ref, body, options);
    const only = (body as { preconditions?: { uid?: string } }).preconditions?.uid;
    if (method === "DELETE")
      return (await kube.delete(resource, ref, only === undefined ? {} : { uid: only }))
        ? {}
        : fail("NotFound", `${resource.plural} ${ref.name}`);
    if (name !== undefined) return (await kube.get(resource, ref)) ?? fail("NotFound", `${resource.plural} ${name}`);
    const { items, resourceVersion } = await kube.list(resource, within(namespace, query));
    return { items, metadata: { resourceVersion } };
  }

  async #watch({ resource, namespace = "", query }: Call, response: ServerResponse): Promise<void> {
    const ended = new AbortController();
    response.once("close", () => ended.abort());
    response.writeHead(200, { "content-type": "application/json" }).flushHeaders();
    const from = { resourceVersion: query.get("resourceVersion") ?? "", signal: ended.signal };
    for await (const event of this.kube.watch(resource, { ...within(namespace, query), ...from }))
      response.write(`${JSON.stringify(event)}\n`);
    response.end();
  }
}

const within = (namespace: string, query: URLSearchParams) => ({
  ...(namespace === "" ? {} : { namespace }),
  labelSelector: query.get("labelSelector") ?? "",
});

const causeOf = ({ field, manager, subresource, operation }: FieldConflict) => ({
  reason: "FieldManagerConflict",
  message:
    `conflict with "${manager}"${subresource === "" ? "" : ` with subresource "${subresource}"`}` +
    (operation === "Update" ? " using v1 at 2026-03-01T10:00:00Z" : ""),
  field,
});

function fail(code: string, message: string): never {
  throw new AppError(`${message} not found`, { code });
}

async function callOf(request: IncomingMessage): Promise<Call> {
  const url = new URL(request.url ?? "/", "http://fake");
  const [, apiVersion = "v1", namespace, plural, name, status] = path.exec(url.pathname) ?? [];
  const resource = Object.values<Resource>(resources).find((one) => one.plural === plural && one.apiVersion === apiVersion);
  if (!resource) fail("NotFound", url.pathname);
  const { method = "GET" } = request;
  const body = (method === "GET" ? {} : await json(request)) as KubeObject;
  const contentType = request.headers["content-type"] ?? "";
  return { method, resource, namespace, name, status: status !== undefined, query: url.searchParams, body, contentType };
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent) return void response.end();
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}
