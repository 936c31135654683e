// The types that checks share (index.ts), and requests that several of them make. They post nothing but reviews of rights and dry runs.
import { AppError } from "../../../crds/common.ts";
import { isAllowed, type Right } from "../../kube/access-review.ts";
import type { Kube, KubeObject } from "../../kube/kube.ts";
import type { Transport } from "../../kube/transport.ts";

/** fail: it will not work. warn: something is missing, or soon will be. skip: unknown. */
export const levels = ["fail", "warn", "skip", "ok"] as const;
export type Level = (typeof levels)[number];

export interface Outcome {
  readonly level: Level;
  /** What was found, with numbers. */
  readonly what: string;
  /** What to do about it: a command, or a sentence. */
  readonly remedy?: string;
}

/** The operator's Deployment, as the chart made it. */
export interface OperatorFacts {
  readonly namespace: string;
  readonly name: string;
  readonly image: string;
  /** The chart's appVersion, from its label. */
  readonly version: string;
  readonly serviceAccount: string;
  readonly replicas: number;
  readonly ready: number;
  /** Namespaces that it watches; none: all. */
  readonly watched: readonly string[];
}

/** What a NATS server said of itself to who connected. */
export interface NatsServer {
  readonly version: string;
  readonly payloadBytesMax: number;
  readonly encrypted: boolean;
  /** Whether it asks for credentials. */
  readonly authenticated: boolean;
}

/** What a source has of a model. */
export interface ModelSource {
  readonly kind: "store" | "folder" | "gguf";
  readonly revision: string | undefined;
  readonly files: number;
  readonly bytes: number;
}

export interface Context {
  /** The model to download, and its claim. `ask` throws why it cannot be fetched. */
  readonly model?: { readonly uri: string; readonly claim: string | undefined; readonly ask: () => Promise<ModelSource> } | undefined;
  /** Your own NATS. `ask` throws why it cannot be used. */
  readonly nats?: { readonly host: string; readonly ask: () => Promise<NatsServer> } | undefined;
  readonly kube: Pick<Kube, "get" | "list">;
  readonly transport: Pick<Transport, "request">;
  /** The namespace in which deployments are to live. */
  readonly namespace: string;
  /** The operators that there are; undefined when Deployments may not be listed. */
  readonly operators: readonly OperatorFacts[] | undefined;
  /** The version of this command. */
  readonly version: string;
  readonly now: Date;
  /** Returns early once the signal is set. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  /** Set when nobody waits for the answers any more. */
  readonly signal: AbortSignal;
}

export interface Check {
  readonly name: string;
  /** before: of a cluster without an operator. after: of one with. */
  readonly when: "before" | "after" | "always";
  run(context: Context): Promise<readonly Outcome[]>;
}

export const ok = (what: string): Outcome => ({ level: "ok", what });
export const warn = (what: string, remedy: string): Outcome => ({ level: "warn", what, remedy });
export const fail = (what: string, remedy: string): Outcome => ({ level: "fail", what, remedy });
export const skip = (what: string, why: string): Outcome => ({ level: "skip", what: `${what}: ${why}` });

/** A JSON document; undefined where there is none. */
export async function read(transport: Context["transport"], path: string): Promise<unknown> {
  try {
    return JSON.parse(await transport.request({ method: "GET", path }));
  } catch (caught) {
    if (AppError.from(caught).code === "NotFound") return undefined;
    throw caught;
  }
}

export const rightText = ({ verb, resource, group, namespace }: Right): string =>
  `${verb} ${resource}${group === "" ? "" : `.${group}`}${namespace === undefined ? "" : ` in ${namespace}`}`;

/** So many reviews are under way at a time. */
const reviewsAtOnce = 8;

/** The rights that are not given: to `user`, or to whoever asks. */
export async function missingRights(transport: Context["transport"], rights: readonly Right[], user?: string): Promise<Right[]> {
  const missing = new Set<Right>();
  const queue = rights.values();
  const work = async (): Promise<void> => {
    for (const right of queue) if (!(await isAllowed(transport, right, user))) missing.add(right);
  };
  await Promise.all(Array.from({ length: reviewsAtOnce }, work));
  return rights.filter((right) => missing.has(right));
}

/** A condition of any object, by type. */
export function conditionOf(
  object: KubeObject,
  type: string,
): { readonly status: string; readonly reason: string; readonly message: string } {
  const { conditions } = (object.status ?? {}) as { conditions?: readonly Record<string, string>[] };
  const found = conditions?.find((one) => one.type === type);
  return { status: found?.status ?? "Unknown", reason: found?.reason ?? "", message: found?.message ?? "" };
}
