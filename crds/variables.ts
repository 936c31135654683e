// This file defines rows of an environment: a row says of one variable its name, its schema and what it is rendered from. The
// operator renders rows into containers, and the process parses the same rows into its settings. It holds no rows itself;
// those of workers and gateways are process.ts. Pure.
import { z } from "zod";
import { AppError } from "./common.ts";

/** A value that only the pod itself has, by the path of the field in it. */
interface PodField {
  readonly fieldPath: string;
}

/** A value that the pod takes from a ConfigMap when its process starts; unset where the entry is not there. */
interface MapEntry {
  readonly configMap: string;
  readonly key: string;
}

/** A schema that a variable may be parsed with: its input is text, and undefined only where the schema stands without a value. */
type TextSchema = z.ZodType<unknown, string | undefined>;

/** A variable that the operator sets. `undefined` leaves it out, which the schema has to allow. */
interface Rendered<Facts, S extends TextSchema> {
  readonly variable: string;
  readonly schema: S;
  /** An entry may not be there, so that the schema has to do without. */
  readonly render: (facts: Facts) => z.input<S> | PodField | (undefined extends z.input<S> ? MapEntry : never);
}

/** A variable that the operator leaves to the pod template. */
interface LeftToTemplate<S extends TextSchema> {
  readonly variable: string;
  readonly schema: S;
}

/** A variable that is set alike everywhere and that others than our own code read. */
interface Fixed {
  readonly variable: string;
  readonly value: string;
}

type Row<Facts> = Rendered<Facts, TextSchema> | LeftToTemplate<TextSchema> | Fixed;
/** Rows by the name that the setting has in the process, in the order in which they are rendered. */
type Rows<Facts> = Readonly<Record<string, Row<Facts>>>;

/** Constructors of rows for an environment that is rendered from `Facts`. */
export function rowsFrom<Facts>() {
  return {
    rendered: <S extends TextSchema>(variable: string, schema: S, render: Rendered<Facts, S>["render"]): Rendered<Facts, S> => ({
      variable,
      schema,
      render,
    }),
    leftToTemplate: <S extends TextSchema>(variable: string, schema: S): LeftToTemplate<S> => ({ variable, schema }),
    fixed: (variable: string, value: string): Fixed => ({ variable, value }),
  };
}

/** The settings that a process reads from its environment: the output of every row that has a schema. */
export type SettingsOf<R> = z.output<z.ZodObject<{ [F in keyof R as R[F] extends Fixed ? never : F]: SchemaOf<R[F]> }>>;
type SchemaOf<R> = R extends { readonly schema: infer S extends z.ZodType } ? S : never;

export type EnvVar =
  | { readonly name: string; readonly value: string }
  | { readonly name: string; readonly valueFrom: { readonly fieldRef: PodField } }
  | {
      readonly name: string;
      readonly valueFrom: { readonly configMapKeyRef: { readonly name: string; readonly key: string; readonly optional: true } };
    };

/** The environment of a container, without the variables that are left to the pod template. */
export function renderEnv<Facts>(rows: Rows<Facts>, facts: Facts): EnvVar[] {
  return Object.values(rows).flatMap((row): EnvVar[] => {
    const value = "render" in row ? row.render(facts) : "value" in row ? row.value : undefined;
    if (value === undefined) return [];
    const { variable: name } = row;
    if (typeof value === "string") return [{ name, value }];
    if ("fieldPath" in value) return [{ name, valueFrom: { fieldRef: value } }];
    return [{ name, valueFrom: { configMapKeyRef: { name: value.configMap, key: value.key, optional: true } } }];
  });
}

/** Variables that the operator does not set and the process reads. */
export function variablesLeft<Facts>(rows: Rows<Facts>): string[] {
  return Object.values(rows).flatMap((row) => ("render" in row || "value" in row ? [] : [row.variable]));
}

/** The settings of a process; throws `InvalidConfig` that names the variables at fault. */
export function parseEnv<R extends Rows<never>>(rows: R, env: Readonly<Record<string, string | undefined>>): SettingsOf<R> {
  const read = Object.entries(rows).flatMap(([setting, row]) => ("schema" in row ? [{ setting, ...row }] : []));
  const parsed = z.object(Object.fromEntries(read.map(({ variable, schema }) => [variable, schema]))).safeParse(env);
  if (!parsed.success) {
    throw new AppError(`environment: ${z.prettifyError(parsed.error)}`, { code: "InvalidConfig", operation: "reading the environment" });
  }
  return Object.fromEntries(read.map(({ setting, variable }) => [setting, parsed.data[variable]])) as SettingsOf<R>;
}
