// The access to a NATS server: the entries of a Secret, or the files of a folder, that hold its credentials and the CA of
// its certificate. The operator reads such a Secret and hands its entries on to the workers; both use them alike. Pure.
import type { MoEDeploymentSpec } from "./moe-deployment.ts";

/** The only type of Secret that is read for a deployment: whoever may name a Secret there cannot have another one's token sent away. */
export const natsSecretType = "enodia.dev/nats-credentials";

/** Entries with credentials; the first that is there counts. */
export const natsCredentialEntries = ["user.creds", "token"] as const;
/** The entry with the CA of the server's certificate, PEM. Where it is there, a server without that certificate is refused. */
const natsCaEntry = "ca.crt";
export const natsEntries: readonly string[] = [...natsCredentialEntries, natsCaEntry];

export interface NatsAccess {
  /** The text of a `.creds` file, or a token; unset where the server wants none. */
  readonly credentials?: string;
  /** PEM; unset: what the system trusts. */
  readonly ca?: string;
}

/** Undefined when there are no credentials among the entries. */
export function natsAccessOf(entries: Readonly<Record<string, string | undefined>>): NatsAccess | undefined {
  const credentials = natsCredentialEntries.map((entry) => entries[entry]).find((text) => text !== undefined && text.trim() !== "");
  const ca = entries[natsCaEntry];
  return credentials === undefined ? undefined : { credentials, ...(ca ? { ca } : {}) };
}

/** Where the credentials of a deployment's server come from: the Secret that its spec names, the operator's own, or from nowhere. The
 *  operator's are for the operator's server alone: one that a spec names never gets them. */
export function natsSourceOf(
  { telemetry }: MoEDeploymentSpec,
  operatorHasSome: boolean,
): { readonly secret: string } | "operator" | undefined {
  const { url, credentialsSecretRef } = telemetry.nats;
  if (credentialsSecretRef) return { secret: credentialsSecretRef.name };
  return url === undefined && operatorHasSome ? "operator" : undefined;
}
