// Field ownership in metadata.managedFields: who applies a field, and how a manager gives it up while its value stays. Applying without the
// field would remove it. Pure.
import type { KubeObject } from "./kube.ts";

/** The names that lead to a field: `["spec", "replicas"]`. No lists. */
export type FieldPath = readonly string[];

/** A key is `f:` and the field's name. */
interface FieldSet {
  readonly [key: string]: FieldSet;
}

interface Entry {
  readonly manager?: string;
  readonly operation?: string;
  readonly subresource?: string;
  readonly fieldsV1?: FieldSet;
}

/** Managers of the field through any subresource. */
export function managersOf(
  { metadata }: KubeObject,
  path: FieldPath,
): { readonly manager: string; readonly operation: "Apply" | "Update" }[] {
  return entriesOf(metadata.managedFields)
    .filter(({ fieldsV1 }) => has(fieldsV1, path))
    .map(({ manager = "", operation }) => ({ manager, operation: operation === "Apply" ? "Apply" : "Update" }));
}

export function applies(manager: string, { metadata }: KubeObject, path: FieldPath): boolean {
  return entriesOf(metadata.managedFields).some((entry) => isApply(entry, manager) && has(entry.fieldsV1, path));
}

/** New managedFields in which only this manager lacks the field. */
export function givenUp(manager: string, { metadata }: KubeObject, path: FieldPath): unknown[] {
  return entriesOf(metadata.managedFields).flatMap((entry) => {
    if (!isApply(entry, manager)) return [entry];
    const fieldsV1 = without(entry.fieldsV1 ?? {}, path);
    return Object.keys(fieldsV1).length === 0 ? [] : [{ ...entry, fieldsV1 }];
  });
}

const entriesOf = (managedFields: unknown): readonly Entry[] => (Array.isArray(managedFields) ? (managedFields as Entry[]) : []);

const isApply = (entry: Entry, manager: string): boolean =>
  entry.manager === manager && entry.operation === "Apply" && (entry.subresource ?? "") === "";

function has(fields: FieldSet | undefined, [name, ...rest]: FieldPath): boolean {
  if (name === undefined || fields === undefined) return name === undefined && fields !== undefined;
  return has(fields[`f:${name}`], rest);
}

/** An emptied set is removed, since an empty set means its whole field. */
function without(fields: FieldSet, [name, ...rest]: FieldPath): FieldSet {
  const key = `f:${name}`;
  const below = fields[key];
  if (below === undefined) return fields;
  const { [key]: _, ...others } = fields;
  const left = rest.length === 0 ? {} : without(below, rest);
  return Object.keys(left).length === 0 ? others : { ...others, [key]: left };
}
