// Names in certificates, and of the Secrets that hold them. Pure.
import type { Ref } from "../kube/kube.ts";

export const tlsSecrets = {
  gateway: (name: string) => `${name}-gateway-tls`,
  downloader: (name: string) => `${name}-downloader-tls`,
  "weight-server": (name: string) => `${name}-weight-server-tls`,
  pod: (pod: string) => `${pod}-tls`,
} as const;

/** Pods that are no rank; each has a Secret of its owner. */
export type Role = Exclude<keyof typeof tlsSecrets, "pod">;

export function roleServerName(role: Role, { namespace, name }: Ref): string {
  return `${role}.${name}.${namespace}.enodia`;
}

/** The operator asks a weight server how far a download is by the name of a downloader. */
export function roleServerNames(role: Role, ref: Ref): readonly string[] {
  return [role, ...(role === "weight-server" ? (["downloader"] as const) : [])].map((one) => roleServerName(one, ref));
}

/** Name of rank r's certificate: what callers expect and servers check. */
export function workerServerName(ref: Ref, rank: number): string {
  return `rank-${rank}.${ref.name}.${ref.namespace}.enodia`;
}

/** Codes of what is wrong with a Secret that has a certificate's name. */
export const secretProblems: readonly string[] = ["AuthorityUnusable", "SecretForeign"];
