// Names in certificates and of their Secrets. Pure.
import type { Ref } from "../kube/kube.ts";

export const tlsSecrets = {
  gateway: (name: string) => `${name}-gateway-tls`,
  downloader: (name: string) => `${name}-downloader-tls`,
  "weight-server": (name: string) => `${name}-weight-server-tls`,
  pod: (pod: string) => `${pod}-tls`,
} as const;

/** Pods without a rank; each role has one Secret per owner. */
export type Role = Exclude<keyof typeof tlsSecrets, "pod">;

export function roleServerName(role: Role, { namespace, name }: Ref): string {
  return `${role}.${name}.${namespace}.enodia`;
}

/** The operator polls a weight server by a downloader's name. */
export function roleServerNames(role: Role, ref: Ref): readonly string[] {
  return [role, ...(role === "weight-server" ? (["downloader"] as const) : [])].map((one) => roleServerName(one, ref));
}

/** What callers expect and servers check. */
export function workerServerName(ref: Ref, rank: number): string {
  return `rank-${rank}.${ref.name}.${ref.namespace}.enodia`;
}

/** Codes of problems with a certificate's Secret. */
export const secretProblems: readonly string[] = ["AuthorityUnusable", "SecretForeign"];
