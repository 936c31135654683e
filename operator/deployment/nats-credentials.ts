// The credentials of a NATS server from the Secret that a deployment names; workers read the same keys from its mounted folder.
import { AppError } from "../../crds/common.ts";
import { natsCredentialKeys } from "../../crds/telemetry.ts";
import { type Kube, type Ref, resources } from "../kube/kube.ts";

/** Throws `CredentialsNotFound` when the Secret or its keys are missing. */
export async function natsCredentials(kube: Pick<Kube, "get">, ref: Ref): Promise<string> {
  const secret = await kube.get(resources.secrets, ref);
  const data = (secret?.data ?? {}) as Record<string, string>;
  const key = natsCredentialKeys.find((one) => data[one]);
  if (key) return Buffer.from(data[key] ?? "", "base64").toString("utf8");
  const what = secret ? `has neither ${natsCredentialKeys.join(" nor ")}` : "is missing";
  throw new AppError(`spec.telemetry.nats.credentialsSecretRef: Secret ${ref.name} ${what}`, {
    code: "CredentialsNotFound",
    operation: "reading NATS credentials",
    retry: "backoff",
  });
}
