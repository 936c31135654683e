// The registry of constraints: the only place that lists them. Pure.
import type { ConstraintName } from "../../../../crds/names.ts";
import { jsonObject } from "./json-object.ts";
import type { Language } from "./language.ts";

export const constraints = { json_object: jsonObject } as const satisfies Readonly<Record<ConstraintName, Language>>;
