// The types of checks (index.ts) and their shared requests. They post only access reviews and dry runs.
import { AppError } from "../../../crds/common.ts";
import { isAllowed, type Right } from "../../kube/access-review.ts";
import type { Kube, KubeObject } from "../../kube/kube.ts";
import type { Transport } from "../../kube/transport.ts";

/** warn: something is missing or soon will be. skip: unknown. */
export const levels = ["fail", "warn", "skip", "ok"] as const;
export type Level = (typeof levels)[number];

export interface Outcome {
  readonly level: Level;
  readonly what: string;
  /** A command or a sentence. */
  readonly remedy?: string;
}

/** The operator's Deployment as the chart made it. */
export interface OperatorFacts {
  readonly namespace: string;
  readonly name: string;
  readonly image: string;
  readonly version: string;
  readonly serviceAccount: string;
  readonly replicas: number;
  readonly ready: number;
  /** Watched namespaces; empty: all. */
  readonly watched: readonly string[];
}

export interface NatsServer {
  readonly version: string;
  readonly payloadBytesMax: number;
  readonly encrypted: boolean;
  readonly authenticated: boolean;
}

export interface ModelSource {
  readonly kind: "store" | "folder" | "gguf";
  readonly revision: string | undefined;
  readonly files: number;
  readonly bytes: number;
}

export interface Context {
  /** The model to download, and its claim. `ask` throws why it cannot be fetched. */
  readonly model?: { readonly uri: string; readonly claim: string | undefined; readonly ask: () => Promise<ModelSource> } | undefined;
  /** The user's own NATS. `ask` throws why it cannot be used. */
  readonly nats?: { readonly host: string; readonly ask: () => Promise<NatsServer> } | undefined;
  readonly kube: Pick<Kube, "get" | "list">;
  readonly transport: Pick<Transport, "request">;
  readonly namespace: string;
  /** Undefined when Deployments may not be listed. */
  readonly operators: readonly OperatorFacts[] | undefined;
  /** The version of this command. */
  readonly version: string;
  readonly now: Date;
  /** Returns early once the signal is set. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly signal: AbortSignal;
}

export interface Check {
  readonly name: string;
  /** before, after: in a cluster without, with an operator. */
  readonly when: "before" | "after" | "always";
  run(context: Context): Promise<readonly Outcome[]>;
}

export const ok = (what: string): Outcome => ({ level: "ok", what });
export const warn = (what: string, remedy: string): Outcome => ({ level: "warn", what, remedy });
export const fail = (what: string, remedy: string): Outcome => ({ level: "fail", what, remedy });
export const skip = (what: string, why: string): Outcome => ({ level: "skip", what: `${what}: ${why}` });

/** Undefined where the server answers 404. */
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

const reviewsAtOnce = 8;

/** Rights that `user`, or the caller, lacks. */
export async function missingRights(transport: Context["transport"], rights: readonly Right[], user?: string): Promise<Right[]> {
  const missing = new Set<Right>();
  const queue = rights.values();
  const work = async (): Promise<void> => {
    for (const right of queue) if (!(await isAllowed(transport, right, user))) missing.add(right);
  };
  await Promise.all(Array.from({ length: reviewsAtOnce }, work));
  return rights.filter((right) => missing.has(right));
}

export function conditionOf(
  object: KubeObject,
  type: string,
): { readonly status: string; readonly reason: string; readonly message: string } {
  const { conditions } = (object.status ?? {}) as { conditions?: readonly Record<string, string>[] };
  const found = conditions?.find((one) => one.type === type);
  return { status: found?.status ?? "Unknown", reason: found?.reason ?? "", message: found?.message ?? "" };
}
