// The Kube interface over HTTPS; test/contract/kube.ts tests it.
import { AppError } from "../../crds/common.ts";
import { hasCode, kubeError } from "./errors.ts";
import type {
  ApplyOptions,
  DeleteOptions,
  Kube,
  KubeObject,
  ListOptions,
  ObjectList,
  Ref,
  Resource,
  WatchEvent,
  WriteOptions,
} from "./kube.ts";
import type { Transport } from "./transport.ts";

const pageSize = 500;
/** The next watch may reach another API server. */
const watchSeconds = 290;

type Query = Record<string, string | number | boolean | undefined>;

export function createKube(transport: Transport): Kube {
  const write = async (call: Parameters<Transport["request"]>[0]) => JSON.parse(await transport.request(call)) as KubeObject;
  const put = (resource: Resource, object: KubeObject, options: WriteOptions, sub = "") =>
    write({
      method: "PUT",
      path: path(resource, refOfObject(object), sub, writeQuery(options)),
      body: JSON.stringify(object),
      ...signalOf(options),
    });
  const apply = (resource: Resource, object: KubeObject, options: ApplyOptions, sub = "") =>
    write({
      method: "PATCH",
      path: path(resource, refOfObject(object), sub, { ...writeQuery(options), force: options.force ? true : undefined }),
      contentType: "application/apply-patch+yaml",
      body: JSON.stringify(object),
      ...signalOf(options),
    });
  const patch = (resource: Resource, ref: Ref, body: object, { sub = "", ...options }: WriteOptions & { readonly sub?: string }) =>
    write({
      method: "PATCH",
      path: path(resource, ref, sub, writeQuery(options)),
      contentType: "application/merge-patch+json",
      body: JSON.stringify(body),
      ...signalOf(options),
    });
  return {
    get: (resource, ref) => get(transport, resource, ref),
    list: (resource, options) => list(transport, resource, options ?? {}),
    watch: (resource, options) => watch(transport, resource, options),
    create: (resource, object, options) =>
      write({
        method: "POST",
        path: path(resource, { namespace: object.metadata.namespace ?? "", name: "" }, "", writeQuery(options)),
        body: JSON.stringify(object),
        ...signalOf(options),
      }),
    apply: (resource, object, options) => apply(resource, object, options),
    applyStatus: (resource, object, options) => apply(resource, object, { ...options, force: true }, "/status"),
    update: (resource, object, options) => put(resource, object, options),
    updateStatus: (resource, object, options) => put(resource, object, options, "/status"),
    patch: (resource, ref, body, options) => patch(resource, ref, body, options),
    scale: async (resource, ref, { replicas, resourceVersion }, options) => {
      await patch(resource, ref, { metadata: { resourceVersion }, spec: { replicas } }, { ...options, sub: "/scale" });
    },
    delete: (resource, ref, options) => remove(transport, resource, ref, options ?? {}),
  };
}

const signalOf = ({ signal }: { readonly signal?: AbortSignal }) => (signal ? { signal } : {});

const writeQuery = (options: WriteOptions): Query => ({
  fieldManager: options.manager,
  fieldValidation: "Strict",
  dryRun: options.dryRun ? "All" : undefined,
});

const refOfObject = (object: KubeObject): Ref => ({ namespace: object.metadata.namespace ?? "", name: object.metadata.name });

function path(resource: Resource, ref: Ref, sub: string, query: Query): string {
  const base = resource.apiVersion.includes("/") ? `/apis/${resource.apiVersion}` : `/api/${resource.apiVersion}`;
  const namespace = resource.namespaced && ref.namespace !== "" ? `/namespaces/${encodeURIComponent(ref.namespace)}` : "";
  const name = ref.name === "" ? "" : `/${encodeURIComponent(ref.name)}`;
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value !== undefined && value !== "") search.set(key, String(value));
  const text = search.toString();
  return `${base}${namespace}/${resource.plural}${name}${sub}${text === "" ? "" : `?${text}`}`;
}

async function get(transport: Transport, resource: Resource, ref: Ref): Promise<KubeObject | undefined> {
  try {
    return JSON.parse(await transport.request({ method: "GET", path: path(resource, ref, "", {}) })) as KubeObject;
  } catch (error) {
    if (hasCode(error, "NotFound")) return undefined;
    throw error;
  }
}

async function list(transport: Transport, resource: Resource, options: ListOptions): Promise<ObjectList> {
  const items: KubeObject[] = [];
  let next: string | undefined;
  let resourceVersion = "";
  do {
    const query = { labelSelector: options.labelSelector, limit: pageSize, continue: next };
    const text = await transport.request({
      method: "GET",
      path: path(resource, { namespace: options.namespace ?? "", name: "" }, "", query),
    });
    const page = JSON.parse(text) as { items?: KubeObject[]; metadata?: { continue?: string; resourceVersion?: string } };
    // Items of a list lack kind and apiVersion.
    for (const item of page.items ?? []) items.push({ ...item, apiVersion: resource.apiVersion, kind: resource.kind });
    next = page.metadata?.continue;
    resourceVersion = page.metadata?.resourceVersion ?? "";
  } while (next);
  return { items, resourceVersion };
}

async function* watch(
  transport: Transport,
  resource: Resource,
  options: ListOptions & { readonly resourceVersion: string; readonly signal: AbortSignal },
): AsyncIterable<WatchEvent> {
  const query = {
    watch: 1,
    allowWatchBookmarks: true,
    resourceVersion: options.resourceVersion,
    labelSelector: options.labelSelector,
    timeoutSeconds: watchSeconds,
  };
  const url = path(resource, { namespace: options.namespace ?? "", name: "" }, "", query);
  for await (const line of transport.stream({ method: "GET", path: url, signal: options.signal })) {
    const event = JSON.parse(line) as { type: string; object: KubeObject & { code?: number } };
    if (event.type === "ERROR") throw kubeError(event.object.code ?? 500, JSON.stringify(event.object), `watching ${resource.plural}`);
    if (event.type === "BOOKMARK") yield { type: "BOOKMARK", resourceVersion: event.object.metadata.resourceVersion ?? "" };
    else if (event.type === "ADDED" || event.type === "MODIFIED" || event.type === "DELETED")
      yield { type: event.type, object: event.object };
    else throw new AppError(`unknown watch event ${event.type}`, { code: "Unavailable", operation: `watching ${resource.plural}` });
  }
}

async function remove(transport: Transport, resource: Resource, ref: Ref, options: DeleteOptions): Promise<boolean> {
  const body = {
    apiVersion: "v1",
    kind: "DeleteOptions",
    propagationPolicy: "Background",
    ...(options.uid === undefined ? {} : { preconditions: { uid: options.uid } }),
    ...(options.graceSeconds === undefined ? {} : { gracePeriodSeconds: options.graceSeconds }),
  };
  try {
    await transport.request({ method: "DELETE", path: path(resource, ref, "", {}), body: JSON.stringify(body), ...signalOf(options) });
    return true;
  } catch (error) {
    if (hasCode(error, "NotFound")) return false;
    if (hasCode(error, "Conflict") && options.uid !== undefined) return false; // another object has the name
    throw error;
  }
}
