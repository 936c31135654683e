// The declaration of a command: arguments, options and action. program.ts builds commander's tree from it.

/** Kinds whose object names complete an argument, as in operator/kube/kube.ts. */
export type NamedKind = "moeDeployments" | "moeTrainingJobs";

/** Prefix per kind: "job/" for logs. */
export type Names = Readonly<Partial<Record<NamedKind, string>>>;

export interface Option<T> {
  /** In commander's form: "-n, --namespace <name>". */
  readonly flags: string;
  readonly about: string;
  /** The value without the option. */
  readonly fallback: T;
  readonly choices?: readonly string[];
  /** Throws AppError for an invalid text. `before`: the value so far of a repeated option. */
  parse?(text: string, before: T): T;
  readonly hidden?: boolean;
}
// biome-ignore lint/suspicious/noExplicitAny: values of unlike types in one table
export type Options = Readonly<Record<string, Option<any>>>;
export type Values<O extends Options> = { readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never };

export interface Argument<F extends string = string> {
  /** "<name>" is required, "[name]" is not, "<name...>" takes several. */
  readonly form: F;
  readonly about: string;
  readonly names?: Names;
}
type ArgumentValue<F extends string> = F extends `${string}...${string}`
  ? readonly string[]
  : F extends `<${string}`
    ? string
    : string | undefined;
type ArgumentValues<A extends readonly Argument[]> = { readonly [K in keyof A]: A[K] extends Argument<infer F> ? ArgumentValue<F> : never };

export interface Declaration<A extends readonly Argument[] = readonly Argument[], O extends Options = Options> {
  /** Paragraphs above the options. */
  readonly about: string;
  readonly arguments?: A;
  readonly options: O;
  /** Text below the options. */
  readonly notes?: string;
  /** Nothing after the first argument is an option. */
  readonly passThrough?: boolean;
  /** Returns the exit code. */
  action(values: Values<O>, ...args: ArgumentValues<A>): Promise<number> | number;
}

export interface Entry {
  readonly summary: string;
  readonly load?: () => Promise<Declaration>;
  readonly commands?: Entries;
  /** Text below the list of commands. */
  readonly notes?: string;
}
export type Entries = Readonly<Record<string, Entry>>;

export const declare = <const A extends readonly Argument[], O extends Options>(declared: Declaration<A, O>): Declaration =>
  declared as unknown as Declaration;

export const argument = <F extends string>(form: F, about: string, names?: Names): Argument<F> =>
  names === undefined ? { form, about } : { form, about, names };

export const flag = (flags: string, about: string): Option<boolean> => ({ flags, about, fallback: false });
export const hidden = <T>(option: Option<T>): Option<T> => ({ ...option, hidden: true });

export function text(flags: string, about: string): Option<string | undefined>;
export function text(flags: string, about: string, fallback: string): Option<string>;
export function text(flags: string, about: string, fallback?: string): Option<string | undefined> {
  return { flags, about, fallback };
}

/** A repeatable option. */
export const texts = (flags: string, about: string): Option<readonly string[]> => ({
  flags,
  about,
  fallback: [],
  parse: (one, before) => [...before, one],
});

export function value<T>(flags: string, about: string, parse: (text: string) => T): Option<T | undefined>;
export function value<T>(flags: string, about: string, parse: (text: string) => T, fallback: T): Option<T>;
export function value<T>(flags: string, about: string, parse: (text: string) => T, fallback?: T): Option<T> | Option<T | undefined> {
  return { flags, about, fallback, parse };
}

export function choice<N extends string>(flags: string, about: string, choices: readonly N[]): Option<N | undefined>;
export function choice<N extends string>(flags: string, about: string, choices: readonly N[], fallback: N): Option<N>;
export function choice<N extends string>(flags: string, about: string, choices: readonly N[], fallback?: N): Option<N | undefined> {
  return { flags, about, choices, fallback };
}
