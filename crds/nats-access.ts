// Credentials and CA of a NATS server, as entries of a Secret or files of a folder.
import type { MoEDeploymentSpec } from "./moe-deployment.ts";

/** A spec may name only Secrets of this type, so that it cannot leak another one's token. */
export const natsSecretType = "enodia.dev/nats-credentials";

export const natsCredentialEntries = ["user.creds", "token"] as const;
/** When present, the server's certificate must come from this CA (PEM). */
const natsCaEntry = "ca.crt";
export const natsEntries: readonly string[] = [...natsCredentialEntries, natsCaEntry];

export interface NatsAccess {
  /** A `.creds` file's text or a token; unset where the server needs none. */
  readonly credentials?: string;
  /** PEM; unset: the system's CAs. */
  readonly ca?: string;
}

/** Undefined without credentials. */
export function natsAccessOf(entries: Readonly<Record<string, string | undefined>>): NatsAccess | undefined {
  const credentials = natsCredentialEntries.map((entry) => entries[entry]).find((text) => text !== undefined && text.trim() !== "");
  const ca = entries[natsCaEntry];
  return credentials === undefined ? undefined : { credentials, ...(ca ? { ca } : {}) };
}

/** A server that a spec names never gets the operator's credentials. */
export function natsSourceOf(
  { telemetry }: MoEDeploymentSpec,
  operatorHasSome: boolean,
): { readonly secret: string } | "operator" | undefined {
  const { url, credentialsSecretRef } = telemetry.nats;
  if (credentialsSecretRef) return { secret: credentialsSecretRef.name };
  return url === undefined && operatorHasSome ? "operator" : undefined;
}
