// NATS credentials from the spec's Secret, the operator's mounted folder or what the operator issues. A Secret of another type than
// natsSecretType is not read: whoever names it may have no right to read it.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import {
  type NatsAccess,
  natsAccessOf,
  natsCaEntry,
  natsCredentialEntries,
  natsEntries,
  natsOf,
  natsSecretType,
  type OwnNats,
} from "../../../crds/nats-access.ts";
import { loadSubject } from "../../../crds/telemetry.ts";
import { type Kube, type Ref, resources } from "../../kube/kube.ts";
import type { Deployments } from "../ports.ts";
import type { NatsIssuer } from "./nats-issuer.ts";

export type NatsEntries = Readonly<Record<string, string>>;

/** Codes of problems that wait for a person. */
export const credentialProblems: readonly string[] = ["CredentialsNotFound", "CredentialsRefused"];

export const issuedEntry = "user.creds";

export class NatsCredentials {
  readonly #kube: Pick<Kube, "get">;
  readonly #own: OwnNats;
  readonly #issuer: NatsIssuer | undefined;

  /** `issuer`: set with `natsSecrets`. */
  constructor(kube: Pick<Kube, "get">, own: OwnNats, issuer?: NatsIssuer) {
    this.#kube = kube;
    this.#own = own;
    this.#issuer = issuer;
  }

  /** What the operator connects with. */
  server({ namespace }: Ref, spec: MoEDeploymentSpec): ReturnType<Deployments["nats"]> {
    const { url, operator } = natsOf(spec, this.#own) ?? {};
    const credentials = typeof operator === "object" ? { namespace, name: operator.secret } : operator;
    return url === undefined ? undefined : { url, credentials };
  }

  /** What the ranks of a deployment connect with; `former` is what they have. Throws as `access` does. */
  async entries({ namespace, name }: Ref, spec: MoEDeploymentSpec, former: string | undefined): Promise<NatsEntries> {
    const ranks = natsOf(spec, this.#own)?.ranks;
    if (typeof ranks === "object") return this.#secret({ namespace, name: ranks.secret });
    if (ranks === undefined || !this.#issuer) return {};
    const subjects = [loadSubject(spec.telemetry.nats.subjectPrefix, namespace, name, "*")];
    const user = { name: `${namespace}/${name}`, publish: subjects, subscribe: subjects };
    return { [issuedEntry]: await this.#issuer.user(user, former), ...(await this.#ca()) };
  }

  /** Throws `CredentialsNotFound`, or `CredentialsRefused` for a Secret of another type. */
  async access(source: Ref | "operator"): Promise<NatsAccess> {
    return natsAccessOf(source === "operator" ? await this.#operators() : await this.#secret(source)) ?? {};
  }

  async #operators(): Promise<NatsEntries> {
    if (this.#issuer) return { [issuedEntry]: await this.#issuer.listener(), ...(await this.#ca()) };
    return complete(await this.#folder(natsEntries), `ENODIA_NATS_CREDS: ${this.#own.natsCreds}`);
  }

  #ca(): Promise<NatsEntries> {
    return this.#folder([natsCaEntry]);
  }

  async #folder(entries: readonly string[]): Promise<NatsEntries> {
    const folder = this.#own.natsCreds;
    if (folder === undefined) return {};
    const read = async (entry: string) => [entry, await readFile(join(folder, entry), "utf8").catch(() => "")] as const;
    return Object.fromEntries((await Promise.all(entries.map(read))).filter(([, text]) => text !== ""));
  }

  async #secret(source: Ref): Promise<NatsEntries> {
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
}

function complete(entries: NatsEntries, where: string): NatsEntries {
  if (natsAccessOf(entries)) return entries;
  throw problem("CredentialsNotFound", `${where} has neither ${natsCredentialEntries.join(" nor ")}`);
}

function problem(code: string, message: string): AppError {
  return new AppError(message, { code, operation: "reading NATS credentials", retry: "backoff" });
}
