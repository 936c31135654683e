// The managers of fields in the in-memory Kubernetes: metadata.managedFields and the rules of server-side apply about it. A list is one
// field here, while the API server knows some by the keys of their items.
import { isDeepStrictEqual } from "node:util";
import type { FieldConflict } from "../../../operator/kube/errors.ts";
import type { KubeObject } from "../../../operator/kube/kube.ts";

type Json = any;
type Path = readonly string[];

export interface Entry {
  readonly manager: string;
  readonly operation: "Apply" | "Update";
  readonly subresource?: string;
  readonly apiVersion: string;
  readonly fieldsType: "FieldsV1";
  readonly fieldsV1: Json;
}

/** Fields of an object that nobody has: its name and what the server gives it. */
const identity = ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields"];

const replicas: Path = ["spec", "replicas"];

export const entriesOf = (object: KubeObject): Entry[] => (object.metadata.managedFields ?? []) as Entry[];

export function entry(object: KubeObject, by: Pick<Entry, "manager" | "operation" | "subresource">, paths: readonly Path[]): Entry {
  return { ...by, apiVersion: object.apiVersion, fieldsType: "FieldsV1", fieldsV1: fieldsOf(paths) };
}

/** The fields of an object, or of a part of one, that can have a manager. */
export function pathsOf(object: Json): Path[] {
  const { apiVersion: _, kind: __, metadata, ...rest } = object;
  const named = Object.entries(metadata ?? {}).filter(([key]) => !identity.includes(key));
  return leaves({ ...rest, ...(named.length > 0 ? { metadata: Object.fromEntries(named) } : {}) }, []);
}

const ownedBy = ({ fieldsV1 }: Entry): Path[] => pathsIn(fieldsV1, []);

export const isEntryOf = (one: Entry, manager: string, operation: string, subresource: string): boolean =>
  one.manager === manager && one.operation === operation && (one.subresource ?? "") === subresource;

/** Fields that would change, each with a manager other than the one that applies. */
export function conflictsOf(live: KubeObject, wanted: Json, mine: (one: Entry) => boolean): FieldConflict[] {
  const changed = pathsOf(wanted).filter((path) => at(live, path) !== undefined && !isDeepStrictEqual(at(live, path), at(wanted, path)));
  return changed.flatMap((path) =>
    entriesOf(live)
      .filter((one) => !mine(one) && ownedBy(one).some((owned) => same(owned, path)))
      .map(({ manager, operation, subresource = "" }) => ({ field: `.${path.join(".")}`, manager, operation, subresource })),
  );
}

/** The entries after `next` has come in the place of `before` by an update: changed fields are the updater's, and nobody else's. */
export function afterUpdate(before: KubeObject, next: KubeObject, by: Pick<Entry, "manager" | "operation" | "subresource">): Entry[] {
  const changed = pathsOf(next).filter((path) => !isDeepStrictEqual(at(before, path), at(next, path)));
  const gone = pathsOf(before).filter((path) => at(next, path) === undefined);
  // Of a Scale the server takes 0 for a field that is left out: it is set, and nobody has it.
  const unnoted = by.subresource === "scale" && at(next, replicas) === 0;
  const mine = changed.filter((path) => !(unnoted && same(path, replicas)));
  return claimed(entriesOf(next), { object: next, by, mine, lost: [...changed, ...gone] });
}

/** The entries in which the manager has the fields `mine` beside those it has, and nobody else has the lost ones. */
function claimed(entries: Entry[], to: { object: KubeObject; by: Parameters<typeof entry>[1]; mine: Path[]; lost: Path[] }): Entry[] {
  const { by, mine, lost, object } = to;
  const own = (one: Entry) => isEntryOf(one, by.manager, by.operation, by.subresource ?? "");
  const left = entries.map((one) => ({
    ...one,
    fieldsV1: fieldsOf(ownedBy(one).filter((path) => !lost.some((each) => same(each, path)))),
  }));
  const before = left.find(own);
  const all = [...(before ? ownedBy(before) : []), ...mine];
  return [...left.filter((one) => !own(one)), ...(all.length > 0 ? [entry(object, by, all)] : [])].filter((one) => ownedBy(one).length > 0);
}

/** The entries after an apply: the manager has what it applied, and of that nobody else what they had otherwise. */
export function afterApply(live: KubeObject, wanted: Json, by: Pick<Entry, "manager" | "operation" | "subresource">): Entry[] {
  const paths = pathsOf(wanted);
  const taken = paths.filter((path) => !isDeepStrictEqual(at(live, path), at(wanted, path)));
  const others = entriesOf(live).filter((one) => !isEntryOf(one, by.manager, by.operation, by.subresource ?? ""));
  return claimed(others, { object: live, by, mine: paths, lost: taken });
}

/** Takes away what the manager had applied, applies no more, and nobody else has. */
export function prune(target: KubeObject, wanted: Json, mine: (one: Entry) => boolean): void {
  const kept = new Set(pathsOf(wanted).map((path) => path.join("\0")));
  const others = entriesOf(target).filter((one) => !mine(one));
  for (const path of entriesOf(target).filter(mine).flatMap(ownedBy)) {
    if (kept.has(path.join("\0")) || others.some((one) => ownedBy(one).some((owned) => same(owned, path)))) continue;
    remove(target, path);
  }
}

/** Maps that empty out go with the field. */
function remove(target: Json, [name = "", ...rest]: Path): void {
  if (target === undefined || target === null) return;
  if (rest.length === 0) delete target[name];
  else {
    remove(target[name], rest);
    if (isMap(target[name]) && Object.keys(target[name]).length === 0) delete target[name];
  }
}

const isMap = (value: Json): boolean => typeof value === "object" && value !== null && !Array.isArray(value);
const same = (a: Path, b: Path): boolean => a.length === b.length && a.every((name, i) => name === b[i]);
const at = (object: Json, path: Path): Json => path.reduce((value, name) => value?.[name], object);

function leaves(value: Json, path: string[]): Path[] {
  if (!isMap(value) || (Object.keys(value).length === 0 && path.length > 0)) return value === undefined ? [] : [path];
  return Object.entries(value).flatMap(([name, child]) => leaves(child, [...path, name]));
}

function fieldsOf(paths: readonly Path[]): Json {
  const fields: Json = {};
  for (const path of paths) {
    let into = fields;
    for (const name of path) into = into[`f:${name}`] ??= {};
  }
  return fields;
}

function pathsIn(fields: Json, path: string[]): Path[] {
  const children = Object.entries(fields);
  if (children.length === 0) return path.length === 0 ? [] : [path];
  return children.flatMap(([key, child]) => pathsIn(child, [...path, key.slice(2)]));
}
