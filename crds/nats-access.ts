// Credentials and CA of a NATS server, as entries of a Secret or files of a folder.
import type { MoEDeploymentSpec } from "./moe-deployment.ts";

/** A spec may name only Secrets of this type, so that it cannot leak another one's token. */
export const natsSecretType = "enodia.dev/nats-credentials";

export const natsCredentialEntries = ["user.creds", "token"] as const;
/** When present, the server's certificate must come from this CA (PEM). */
export const natsCaEntry = "ca.crt";
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

/** The operator's own NATS. */
export interface OwnNats {
  /** The server of deployments that name none. */
  readonly natsUrl: string | undefined;
  /** A folder in the operator's pod with its credentials, its server's CA or both; undefined when the server needs none. */
  readonly natsCreds: string | undefined;
  /** Begin of the names of the Secrets by which the operator issues users; undefined for a server of others. */
  readonly natsSecrets: string | undefined;
}

interface NatsOf {
  readonly url: string;
  /** What ranks show: their own user, which the operator issues, or what a Secret of their namespace has. */
  readonly ranks: { readonly secret: string } | "issued" | undefined;
  readonly operator: { readonly secret: string } | "operator" | undefined;
}

/** Undefined where load comes on Control alone. The operator's credentials are for no rank, and for no server that a spec names. */
export function natsOf(
  { telemetry }: Pick<MoEDeploymentSpec, "telemetry">,
  { natsUrl, natsCreds, natsSecrets }: OwnNats,
): NatsOf | undefined {
  const { url = natsUrl, credentialsSecretRef } = telemetry.nats;
  if (url === undefined) return undefined;
  const secret = credentialsSecretRef && { secret: credentialsSecretRef.name };
  if (telemetry.nats.url !== undefined) return { url, ranks: secret, operator: secret };
  if (natsSecrets !== undefined) return { url, ranks: secret ?? "issued", operator: "operator" };
  if (natsCreds !== undefined) return secret && { url, ranks: secret, operator: "operator" };
  return { url, ranks: secret, operator: secret };
}
