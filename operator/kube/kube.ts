// The Kubernetes API as types; client.ts and test/kit/kube/fake-kube.ts implement it, and test/contract/kube.ts tests both.
import type { Resource } from "./resources.ts";

export { type Resource, resources } from "./resources.ts";

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  deletionGracePeriodSeconds?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  finalizers?: string[];
  managedFields?: unknown[];
}

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  [field: string]: unknown;
}

export interface Ref {
  readonly namespace: string;
  readonly name: string;
}

export interface ListOptions {
  /** Unset = all namespaces. */
  readonly namespace?: string;
  readonly labelSelector?: string;
}

export interface ObjectList {
  readonly items: KubeObject[];
  readonly resourceVersion: string;
}

export type WatchEvent =
  | { readonly type: "ADDED" | "MODIFIED" | "DELETED"; readonly object: KubeObject }
  | { readonly type: "BOOKMARK"; readonly resourceVersion: string };

export interface WriteOptions {
  readonly manager: string;
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
}

export interface ApplyOptions extends WriteOptions {
  /** Takes over fields with other values; if unset they cause a `FieldConflict`. */
  readonly force?: boolean;
}

export interface DeleteOptions {
  readonly uid?: string;
  readonly graceSeconds?: number;
  readonly signal?: AbortSignal;
}

/**
 * Throws AppErrors: NotFound, AlreadyExists, Conflict, FieldConflict (errors.ts reads the managers), Invalid (422, 400 and other schema
 * errors), Forbidden, Unauthorized, Expired (410: relist), TooManyRequests, Unavailable (no answer, 5xx).
 */
export interface Kube {
  get(resource: Resource, ref: Ref): Promise<KubeObject | undefined>;
  /** Read in pages of 500. */
  list(resource: Resource, options?: ListOptions): Promise<ObjectList>;
  /** Ends when the server ends it; throws `Expired` for an old version. */
  watch(
    resource: Resource,
    options: ListOptions & { readonly resourceVersion: string; readonly signal: AbortSignal },
  ): AsyncIterable<WatchEvent>;
  /** Unknown fields are `Invalid`, never dropped. */
  create(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /** Server-side apply. A field that this manager gives up is removed unless another has it. */
  apply(resource: Resource, object: KubeObject, options: ApplyOptions): Promise<KubeObject>;
  /** Always forced, since the status has one writer. */
  applyStatus(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /** `Conflict` unless metadata.resourceVersion is current. */
  update(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  updateStatus(resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject>;
  /**
   * JSON merge patch, conditional on a metadata.uid or resourceVersion in it. Takes over changed fields, and may replace
   * metadata.managedFields.
   */
  patch(resource: Resource, ref: Ref, patch: object, options: WriteOptions): Promise<KubeObject>;
  /** Through the subresource; `Conflict` unless the version is current. */
  scale(
    resource: Resource,
    ref: Ref,
    to: { readonly replicas: number; readonly resourceVersion: string },
    options: WriteOptions,
  ): Promise<void>;
  /** False when the object is missing or has another uid. */
  delete(resource: Resource, ref: Ref, options?: DeleteOptions): Promise<boolean>;
}

export const keyOf = (ref: Ref): string => `${ref.namespace}/${ref.name}`;

export function parseKey(key: string): Ref {
  const slash = key.indexOf("/");
  return { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

export function refOf(object: KubeObject): Ref {
  return { namespace: object.metadata.namespace ?? "", name: object.metadata.name };
}
