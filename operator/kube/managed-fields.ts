// Ownership of fields as metadata.managedFields has it: whether a manager applies a field, and how it gives the field up without the
// value going with it. To apply without the field would remove it, or set it back to its default. Pure.
import type { KubeObject } from "./kube.ts";

/** A field by the names that lead to it: `["spec", "replicas"]`. No lists. */
export type FieldPath = readonly string[];

/** A set of fields: the key of a field is `f:` and its name. */
interface FieldSet {
  readonly [key: string]: FieldSet;
}

interface Entry {
  readonly manager?: string;
  readonly operation?: string;
  readonly subresource?: string;
  readonly fieldsV1?: FieldSet;
}

/** All that have the field, by whatever subresource. */
export function managersOf(
  { metadata }: KubeObject,
  path: FieldPath,
): { readonly manager: string; readonly operation: "Apply" | "Update" }[] {
  return entriesOf(metadata.managedFields)
    .filter(({ fieldsV1 }) => has(fieldsV1, path))
    .map(({ manager = "", operation }) => ({ manager, operation: operation === "Apply" ? "Apply" : "Update" }));
}

/** True when the manager has the field by applying it. */
export function applies(manager: string, { metadata }: KubeObject, path: FieldPath): boolean {
  return entriesOf(metadata.managedFields).some((entry) => isApply(entry, manager) && has(entry.fieldsV1, path));
}

/** What is to become metadata.managedFields so that the manager does not have the field, and everybody else what they have. */
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

/** A set that has become empty goes with the field: left there it would mean the whole of what it is the set of. */
function without(fields: FieldSet, [name, ...rest]: FieldPath): FieldSet {
  const key = `f:${name}`;
  const below = fields[key];
  if (below === undefined) return fields;
  const { [key]: _, ...others } = fields;
  const left = rest.length === 0 ? {} : without(below, rest);
  return Object.keys(left).length === 0 ? others : { ...others, [key]: left };
}
