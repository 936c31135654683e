// Typed rows of a container environment, which the operator renders and the process parses.
import { z } from "zod";
import { AppError } from "./common.ts";

/** A field of the pod, by path. */
interface PodField {
  readonly fieldPath: string;
}

/** A ConfigMap entry, read when the process starts; the variable is unset without it. */
interface MapEntry {
  readonly configMap: string;
  readonly key: string;
}

/** A schema with text input, or undefined if it has a default. */
type TextSchema = z.ZodType<unknown, string | undefined>;

/** The schema has to allow `undefined`, which omits the variable. */
interface Rendered<Facts, S extends TextSchema> {
  readonly variable: string;
  readonly schema: S;
  /** The entry may be missing, so the schema must accept undefined. */
  readonly render: (facts: Facts) => z.input<S> | PodField | (undefined extends z.input<S> ? MapEntry : never);
}

interface LeftToTemplate<S extends TextSchema> {
  readonly variable: string;
  readonly schema: S;
}

/** A constant that foreign code reads. */
interface Fixed {
  readonly variable: string;
  readonly value: string;
}

type Row<Facts> = Rendered<Facts, TextSchema> | LeftToTemplate<TextSchema> | Fixed;
/** Rows by setting name, in rendering order. */
type Rows<Facts> = Readonly<Record<string, Row<Facts>>>;

const whole = (min: number, max: number) => z.coerce.number<string>().int().min(min).max(max);

/** What settings of several processes are. */
export const settings = {
  name: z.string().min(1).max(253),
  uid: z.string().min(1).max(64),
  path: z.string().max(1024),
  whole,
  port: whole(0, 65_535),
  bytes: whole(0, Number.MAX_SAFE_INTEGER),
  /** Separated by commas. */
  texts: (charsMax: number) =>
    z
      .string()
      .max(charsMax)
      .transform((text) => text.split(",")),
  optional: <S extends z.ZodType>(schema: S) =>
    z.preprocess((text: string | undefined) => (text === "" ? undefined : text), schema.optional()),
  json: z
    .string()
    .max(65_536)
    .transform((text, context): unknown => {
      try {
        return JSON.parse(text);
      } catch {
        context.issues.push({ code: "custom", message: "must be JSON", input: text });
        return z.NEVER;
      }
    }),
};

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

/** The output of every row that has a schema. */
export type SettingsOf<R> = z.output<z.ZodObject<{ [F in keyof R as R[F] extends Fixed ? never : F]: SchemaOf<R[F]> }>>;
type SchemaOf<R> = R extends { readonly schema: infer S extends z.ZodType } ? S : never;

export type EnvVar =
  | { readonly name: string; readonly value: string }
  | { readonly name: string; readonly valueFrom: { readonly fieldRef: PodField } }
  | {
      readonly name: string;
      readonly valueFrom: { readonly configMapKeyRef: { readonly name: string; readonly key: string; readonly optional: true } };
    };

/** Omits variables that are left to the pod template. */
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

export function variablesLeft<Facts>(rows: Rows<Facts>): string[] {
  return Object.values(rows).flatMap((row) => ("render" in row || "value" in row ? [] : [row.variable]));
}

/** Throws `InvalidConfig` that names the wrong variables. */
export function parseEnv<R extends Rows<never>>(rows: R, env: Readonly<Record<string, string | undefined>>): SettingsOf<R> {
  const read = Object.entries(rows).flatMap(([setting, row]) => ("schema" in row ? [{ setting, ...row }] : []));
  const parsed = z.object(Object.fromEntries(read.map(({ variable, schema }) => [variable, schema]))).safeParse(env);
  if (!parsed.success) {
    throw new AppError(`environment: ${z.prettifyError(parsed.error)}`, { code: "InvalidConfig", operation: "reading the environment" });
  }
  return Object.fromEntries(read.map(({ setting, variable }) => [setting, parsed.data[variable]])) as SettingsOf<R>;
}
