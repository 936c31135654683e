// NATS credentials from the spec's Secret or the operator's mounted folder. A Secret of another type than natsSecretType is not read:
// whoever names it may have no right to read it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import {
  type NatsAccess,
  natsAccessOf,
  natsCredentialEntries,
  natsEntries,
  natsSecretType,
  natsSourceOf,
} from "../../../crds/nats-access.ts";
import { type Kube, type Ref, resources } from "../../kube/kube.ts";

export type NatsEntries = Readonly<Record<string, string>>;

/** Codes of problems that wait for a person. */
export const credentialProblems: readonly string[] = ["CredentialsNotFound", "CredentialsRefused"];

export class NatsCredentials {
  readonly #kube: Pick<Kube, "get">;
  readonly #folder: string | undefined;

  /** `folder`: the operator's credentials; undefined where its server needs none. */
  constructor(kube: Pick<Kube, "get">, folder: string | undefined) {
    this.#kube = kube;
    this.#folder = folder;
  }

  source({ namespace }: Ref, spec: MoEDeploymentSpec): Ref | "operator" | undefined {
    const source = natsSourceOf(spec, this.#folder !== undefined);
    return typeof source === "object" ? { namespace, name: source.secret } : source;
  }

  /** Throws `CredentialsNotFound`, or `CredentialsRefused` for a Secret of another type. */
  async entries(source: Ref | "operator"): Promise<NatsEntries> {
    if (source === "operator") return this.#own(this.#folder ?? "");
    const field = "spec.telemetry.nats.credentialsSecretRef";
    const { name } = source;
    const secret = await this.#kube.get(resources.secrets, source);
    if (!secret) throw problem("CredentialsNotFound", `${field}: Secret ${name} is missing`);
    if (secret.type !== natsSecretType) {
      const remedy = `make it with: kubectl create secret generic ${name} --type=${natsSecretType} --from-file=…`;
      throw problem("CredentialsRefused", `${field}: Secret ${name} is not of type ${natsSecretType}, and is not read; ${remedy}`);
    }
    const data = (secret.data ?? {}) as Record<string, string>;
    const present = natsEntries.filter((entry) => data[entry]);
    const entries = Object.fromEntries(present.map((entry) => [entry, Buffer.from(data[entry] ?? "", "base64").toString("utf8")]));
    return complete(entries, `${field}: Secret ${name}`);
  }

  async access(source: Ref | "operator"): Promise<NatsAccess> {
    return natsAccessOf(await this.entries(source)) ?? {};
  }

  async #own(folder: string): Promise<NatsEntries> {
    const read = async (entry: string) => [entry, await readFile(join(folder, entry), "utf8").catch(() => "")] as const;
    const found = (await Promise.all(natsEntries.map(read))).filter(([, text]) => text !== "");
    return complete(Object.fromEntries(found), `ENODIA_NATS_CREDS: ${folder}`);
  }
}

function complete(entries: NatsEntries, where: string): NatsEntries {
  if (natsAccessOf(entries)) return entries;
  throw problem("CredentialsNotFound", `${where} has neither ${natsCredentialEntries.join(" nor ")}`);
}

function problem(code: string, message: string): AppError {
  return new AppError(message, { code, operation: "reading NATS credentials", retry: "backoff" });
}
