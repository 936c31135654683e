// An in-memory Kubernetes API for tests: the semantics the operator relies on, as test/contract/kube.ts states them.
// Not a scheduler, not a kubelet, no admission: tests play those parts through setStatus() and remove().
import { randomUUID } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type FieldConflict, FieldConflictError } from "../../../operator/kube/errors.ts";
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
} from "../../../operator/kube/kube.ts";
import { managersOf } from "../../../operator/kube/managed-fields.ts";
import { afterApply, afterUpdate, conflictsOf, type Entry, entriesOf, entry, isEntryOf, pathsOf, prune } from "./field-owners.ts";

type Json = any;
interface Stored {
  object: KubeObject;
  resource: Resource;
}
interface Change {
  readonly version: number;
  readonly kind: string;
  readonly event: Extract<WatchEvent, { object: KubeObject }>;
}

const firstVersion = 1000;
const fail = (code: string, message: string) =>
  new AppError(message, {
    code,
    operation: "fake kube",
    retry: code === "Conflict" || code === "AlreadyExists" ? "backoff" : "never",
  });

export class FakeKube implements Kube {
  readonly #objects = new Map<string, Stored>();
  readonly #log: Change[] = [];
  readonly #watchers = new Set<() => void>();
  readonly #now: () => number;
  #version = firstVersion;
  #oldest = firstVersion;
  /** Called before every write; may throw, such as a test's crash or a lost network. */
  onWrite: (verb: string, resource: Resource, name: string) => void = () => {};
  /** Judges pods as admission would; throws to refuse. */
  admit: (resource: Resource, object: KubeObject) => void = () => {};
  writes = 0;
  /** When true, what an object owns goes with it at once; otherwise collect() plays the garbage collector, as late as a test wants. */
  collectsAtOnce = true;
  readonly #departed = new Set<string>();

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  get = async (resource: Resource, ref: Ref): Promise<KubeObject | undefined> => clone(this.#objects.get(idOf(resource, ref))?.object);

  list = async (resource: Resource, options: ListOptions = {}): Promise<ObjectList> => ({
    items: this.#of(resource, options).map((stored) => clone(stored.object)),
    resourceVersion: String(this.#version),
  });

  watch = (resource: Resource, options: ListOptions & { readonly resourceVersion: string; readonly signal: AbortSignal }) =>
    this.#watch(resource, options);

  create = async (resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject> => {
    this.#write("create", resource, object.metadata.name);
    const ref = refOf(object);
    if (this.#objects.has(idOf(resource, ref))) throw fail("AlreadyExists", `${resource.plural} "${ref.name}" already exists`);
    this.admit(resource, object);
    const { status: _, ...rest } = clone(object);
    const made = defaulted({ ...rest, metadata: { ...rest.metadata, ...this.#birth() } } as KubeObject);
    made.metadata.managedFields = [entry(made, updateBy(options), pathsOf(rest))];
    return options.dryRun ? made : this.#store(resource, made, "ADDED");
  };

  apply = async (resource: Resource, object: KubeObject, options: ApplyOptions): Promise<KubeObject> =>
    this.#apply(resource, object, options, "");

  applyStatus = async (resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject> =>
    this.#apply(resource, object, { ...options, force: true }, "status");

  update = async (resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject> => {
    const stored = this.#forUpdate("update", resource, object);
    const { status: _s, ...rest } = clone(object);
    const status = stored.object.status === undefined ? {} : { status: stored.object.status };
    // One that is sent without managers keeps those it has.
    const { managedFields = stored.object.metadata.managedFields } = rest.metadata;
    const metadata = { ...rest.metadata, ...fixedMeta(stored.object), ...(managedFields ? { managedFields: clone(managedFields) } : {}) };
    return this.#update(stored, { ...rest, ...status, metadata } as KubeObject, updateBy(options));
  };

  updateStatus = async (resource: Resource, object: KubeObject, options: WriteOptions): Promise<KubeObject> => {
    const stored = this.#forUpdate("updateStatus", resource, object);
    return this.#update(stored, { ...clone(stored.object), status: clone(object.status) }, updateBy(options, "status"));
  };

  scale = async (
    resource: Resource,
    ref: Ref,
    to: { readonly replicas: number; readonly resourceVersion: string },
    options: WriteOptions,
  ): Promise<void> => {
    this.#write("scale", resource, ref.name);
    const stored = this.#existing(resource, ref);
    if (to.resourceVersion !== stored.object.metadata.resourceVersion) throw fail("Conflict", "modified");
    const next = mergePatch(clone(stored.object), { spec: { replicas: to.replicas } });
    // Who sets so what nobody has is not noted.
    if (managersOf(stored.object, ["spec", "replicas"]).length > 0) this.#update(stored, next, updateBy(options, "scale"));
    else this.#replace(stored, next);
  };

  patch = async (resource: Resource, ref: Ref, patch: object, options: WriteOptions): Promise<KubeObject> => {
    this.#write("patch", resource, ref.name);
    const stored = this.#existing(resource, ref);
    const meta = (patch as Json).metadata ?? {};
    if (meta.uid !== undefined && meta.uid !== stored.object.metadata.uid) throw fail("Invalid", "metadata.uid: field is immutable");
    if (meta.resourceVersion !== undefined && meta.resourceVersion !== stored.object.metadata.resourceVersion)
      throw fail("Conflict", "modified");
    return this.#update(stored, mergePatch(clone(stored.object), patch), updateBy(options));
  };

  delete = async (resource: Resource, ref: Ref, options: DeleteOptions = {}): Promise<boolean> => {
    this.#write("delete", resource, ref.name);
    const stored = this.#objects.get(idOf(resource, ref));
    if (!stored || (options.uid !== undefined && options.uid !== stored.object.metadata.uid)) return false;
    // A pod that runs on a node leaves when its kubelet says so, or at once with grace 0.
    const graceful = resource.kind === "Pod" && (stored.object.spec as Json)?.nodeName !== undefined && options.graceSeconds !== 0;
    if (!graceful) this.remove(resource, ref);
    else if (stored.object.metadata.deletionTimestamp === undefined) {
      const grace = options.graceSeconds ?? (stored.object.spec as Json)?.terminationGracePeriodSeconds ?? 30;
      const deletionTimestamp = new Date(this.#now() + grace * 1000).toISOString();
      const metadata = { ...stored.object.metadata, deletionTimestamp, deletionGracePeriodSeconds: grace };
      this.#replace(stored, { ...clone(stored.object), metadata });
    }
    return true;
  };

  // ---- what tests do in the place of the rest of Kubernetes

  /** Takes an object away at once, and what it owns. */
  remove(resource: Resource, ref: Ref): void {
    const id = idOf(resource, ref);
    const stored = this.#objects.get(id);
    if (!stored) return;
    this.#objects.delete(id);
    this.#publish(resource, "DELETED", stored.object);
    this.#departed.add(stored.object.metadata.uid ?? "");
    if (this.collectsAtOnce) this.collect();
  }

  /** Takes away what removed objects owned. */
  collect(): void {
    for (const { resource, object } of [...this.#objects.values()]) {
      if (object.metadata.ownerReferences?.some((owner) => this.#departed.has(owner.uid))) this.remove(resource, refOf(object));
    }
  }

  /** Changes an object as a controller or kubelet would, through a subresource where one is named. */
  mutate(resource: Resource, ref: Ref, change: (object: Json) => void, by: { manager?: string; subresource?: string } = {}): void {
    const stored = this.#existing(resource, ref);
    const next = clone(stored.object);
    change(next);
    this.#update(stored, next, updateBy({ manager: by.manager ?? "somebody" }, by.subresource));
  }

  all(resource: Resource): KubeObject[] {
    return this.#of(resource, {}).map((stored) => clone(stored.object));
  }

  /** Forgets the past: watches from before get Expired. */
  compact(): void {
    this.#oldest = this.#version;
    this.#log.length = 0;
    for (const wake of this.#watchers) wake();
  }

  /** Ends all running watches, as a restarting API server does. */
  dropWatches(): void {
    this.#epoch += 1;
    for (const wake of this.#watchers) wake();
  }
  #epoch = 0;

  #birth() {
    return { uid: randomUUID(), generation: 1, creationTimestamp: new Date(this.#now()).toISOString().replace(/\.\d+Z/, "Z") };
  }

  #write(verb: string, resource: Resource, name: string): void {
    this.onWrite(verb, resource, name);
    this.writes += 1;
  }

  #existing(resource: Resource, ref: Ref): Stored {
    const stored = this.#objects.get(idOf(resource, ref));
    if (!stored) throw fail("NotFound", `${resource.plural} "${ref.name}" not found`);
    return stored;
  }

  #forUpdate(verb: string, resource: Resource, object: KubeObject): Stored {
    this.#write(verb, resource, object.metadata.name);
    const stored = this.#existing(resource, refOf(object));
    if (object.metadata.resourceVersion !== stored.object.metadata.resourceVersion) throw fail("Conflict", "the object has been modified");
    return stored;
  }

  #apply(resource: Resource, object: KubeObject, options: ApplyOptions, sub: "" | "status"): KubeObject {
    this.#write("apply", resource, object.metadata.name);
    const ref = refOf(object);
    const stored = this.#objects.get(idOf(resource, ref));
    if (sub === "" && stored && object.metadata.uid !== undefined && object.metadata.uid !== stored.object.metadata.uid)
      throw fail("Conflict", "another uid");
    const wanted = sub === "" ? withoutStatus(object) : { status: object.status };
    const by = { manager: options.manager, operation: "Apply", ...(sub === "" ? {} : { subresource: sub }) } as const;
    if (!stored) {
      if (sub !== "") throw fail("NotFound", `${resource.plural} "${ref.name}" not found`);
      this.admit(resource, object);
      const made = defaulted({ ...(clone(wanted) as KubeObject), metadata: { ...clone(object.metadata), ...this.#birth() } });
      made.metadata.managedFields = [entry(made, by, pathsOf(wanted))];
      return options.dryRun ? made : this.#store(resource, made, "ADDED");
    }
    const live = managed(stored.object);
    const mine = (one: Entry) => isEntryOf(one, options.manager, "Apply", sub);
    const conflicts = conflictsOf(live, wanted, mine);
    if (conflicts.length > 0 && !options.force) throw new FieldConflictError(textOf(conflicts), conflicts, "fake kube");
    if (sub !== "" && empties(live, wanted)) throw fail("Invalid", 'Invalid value: "null": must be of type object');
    const next = clone(live);
    prune(next, wanted, mine);
    merge(next, clone(wanted));
    next.metadata = { ...next.metadata, ...fixedMeta(stored.object), managedFields: afterApply(live, wanted, by) };
    return options.dryRun ? next : this.#replace(stored, defaulted(next));
  }

  #update(stored: Stored, next: KubeObject, by: Parameters<typeof afterUpdate>[2]): KubeObject {
    const cleared = isDeepStrictEqual(next.metadata.managedFields, [{}]);
    next.metadata.managedFields = cleared ? [] : afterUpdate(stored.object, next, by);
    return this.#replace(stored, next);
  }

  /** No change, no version: as the API server does. */
  #replace(stored: Stored, next: KubeObject): KubeObject {
    const { resourceVersion, generation = 1 } = stored.object.metadata;
    next.metadata = { ...next.metadata, ...(resourceVersion ? { resourceVersion } : {}) };
    if (isDeepStrictEqual(next, stored.object)) return clone(next);
    const bump = isDeepStrictEqual(next.spec, stored.object.spec) ? generation : generation + 1;
    next.metadata.generation = bump;
    return this.#store(stored.resource, next, "MODIFIED");
  }

  #store(resource: Resource, object: KubeObject, type: "ADDED" | "MODIFIED"): KubeObject {
    this.#version += 1;
    const stored = { ...object, metadata: { ...object.metadata, resourceVersion: String(this.#version) } };
    this.#objects.set(idOf(resource, refOf(stored)), { object: stored, resource });
    this.#publish(resource, type, stored, this.#version);
    return clone(stored);
  }

  #publish(resource: Resource, type: "ADDED" | "MODIFIED" | "DELETED", object: KubeObject, version = ++this.#version): void {
    const published = { ...clone(object), metadata: { ...clone(object.metadata), resourceVersion: String(version) } };
    this.#log.push({ version, kind: kindOf(resource), event: { type, object: published } });
    for (const wake of this.#watchers) wake();
  }

  #of(resource: Resource, options: ListOptions): Stored[] {
    return [...this.#objects.values()].filter((stored) => kindOf(stored.resource) === kindOf(resource) && matches(stored.object, options));
  }

  async *#watch(
    resource: Resource,
    options: ListOptions & { readonly resourceVersion: string; readonly signal: AbortSignal },
  ): AsyncIterable<WatchEvent> {
    const epoch = this.#epoch;
    let at = Number(options.resourceVersion);
    while (!options.signal.aborted && epoch === this.#epoch) {
      if (at < this.#oldest) throw fail("Expired", `too old resource version: ${at}`);
      const due = this.#log.filter((change) => change.version > at);
      for (const change of due) {
        at = Math.max(at, change.version);
        if (change.kind === kindOf(resource) && matches(change.event.object, options))
          yield { type: change.event.type, object: clone(change.event.object) };
      }
      if (due.length === 0) await this.#change(options.signal);
    }
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#watchers.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#watchers.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}

function clone<T>(value: T): T {
  return value === undefined ? value : structuredClone(value);
}

/** Two APIs may have a plural in common. */
const kindOf = ({ apiVersion, plural }: Resource): string => `${apiVersion}/${plural}`;
const idOf = (resource: Resource, ref: Ref): string => `${kindOf(resource)}/${resource.namespaced ? ref.namespace : ""}/${ref.name}`;
const refOf = (object: KubeObject): Ref => ({ namespace: object.metadata.namespace ?? "", name: object.metadata.name });

function fixedMeta(object: KubeObject) {
  const { uid, creationTimestamp, generation, deletionTimestamp, deletionGracePeriodSeconds } = object.metadata;
  return {
    uid,
    creationTimestamp,
    generation,
    ...(deletionTimestamp ? { deletionTimestamp, deletionGracePeriodSeconds } : {}),
  } as KubeObject["metadata"];
}

function withoutStatus(object: KubeObject): Json {
  const { status: _, ...rest } = object;
  return rest;
}

function matches(object: KubeObject, options: ListOptions): boolean {
  if (options.namespace !== undefined && object.metadata.namespace !== options.namespace) return false;
  return (options.labelSelector ?? "").split(",").every((term) => {
    if (term === "") return true;
    const [key = "", value] = term.split("=");
    const have = object.metadata.labels?.[key];
    return value === undefined ? have !== undefined : have === value;
  });
}

const isMap = (value: Json): boolean => typeof value === "object" && value !== null && !Array.isArray(value);

const updateBy = ({ manager }: { manager: string }, subresource = "") =>
  ({ manager, operation: "Update", ...(subresource === "" ? {} : { subresource }) }) as const;

/** What the API server fills in, as far as anybody here relies on it; nobody has such a field. */
function defaulted(object: KubeObject): KubeObject {
  const spec = object.spec as { replicas?: number } | undefined;
  if (object.kind === "Deployment" && spec && spec.replicas === undefined) spec.replicas = 1;
  return object;
}

/** The object as an apply takes it: what is there without any manager has this one. */
function managed(object: KubeObject): KubeObject {
  if (entriesOf(object).length > 0) return object;
  const managedFields = [entry(object, updateBy({ manager: "before-first-apply" }), pathsOf(object))];
  return { ...object, metadata: { ...object.metadata, managedFields } };
}

/** As the API server words it. */
function textOf(conflicts: readonly FieldConflict[]): string {
  const texts = conflicts.map(({ manager, field }) => `conflict with "${manager}": ${field}`);
  return `Apply failed with ${conflicts.length} conflict${conflicts.length === 1 ? "" : "s"}: ${texts.join(", ")}`;
}

/** True when a map that had entries is applied without any: the server makes it null. */
function empties(before: Json, now: Json): boolean {
  if (!isMap(before) || !isMap(now)) return false;
  if (Object.keys(now).length === 0) return Object.keys(before).length > 0;
  return Object.entries(now).some(([key, value]) => empties(before[key], value));
}

function merge(target: Json, source: Json): void {
  for (const [key, value] of Object.entries(source)) {
    if (isMap(value) && isMap(target[key])) merge(target[key], value);
    else target[key] = value;
  }
}

function mergePatch(target: Json, patch: Json): Json {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete target[key];
    else if (isMap(value)) target[key] = mergePatch(isMap(target[key]) ? target[key] : {}, value);
    else target[key] = value;
  }
  return target;
}
