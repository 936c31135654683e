// TLS Secrets of a deployment: its CA, one leaf per worker pod, one for the gateways; and the operator's own leaf in memory.
// Worker Secrets are owned by their pod, the others by the MoEDeployment. Never makes a second CA: the API server decides who was first.

import { AppError } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { authorityIsGood, createAuthority, issueLeaf, type KeyPairPem, type LeafNames, leafIsGood } from "../tls/authority.ts";
import type { Informers } from "./informers.ts";
import { names, objectLabels, ownerOf } from "./objects/context.ts";
import { type Identity, workerServerName } from "./ports.ts";

const manager = "enodia-operator";
/** A leaf that was found good is not checked again for this long. */
const recheckMs = 3600_000;

export interface PodIdentity {
  readonly name: string;
  readonly uid: string;
  readonly rank: number;
}

export class Identities {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #now: () => Date;
  readonly #authorities = new Map<string, KeyPairPem>();
  readonly #operator = new Map<string, { identity: Identity; until: number }>();
  readonly #checked = new Map<string, number>();

  constructor(kube: Kube, informers: Informers, now: () => Date) {
    this.#kube = kube;
    this.#informers = informers;
    this.#now = now;
  }

  /** Reads or makes the CA. */
  async authority(deployment: Pick<MoEDeployment, "metadata">): Promise<KeyPairPem> {
    const { uid, name, namespace } = deployment.metadata;
    const known = this.#authorities.get(uid);
    if (known) return known;
    const ref = { namespace, name: names.ca(name) };
    const found = readPair(await this.#kube.get(resources.secrets, ref), "ca.crt", "ca.key");
    if (found) {
      if (!(await authorityIsGood(found, this.#now()))) {
        throw new AppError(`Secret ${ref.name}: ca.crt and ca.key are no usable CA: delete the Secret and all pods to get a new one`, {
          code: "AuthorityUnusable",
          operation: "reading the CA",
          retry: { afterMs: 30_000 },
        });
      }
      this.#authorities.set(uid, found);
      return found;
    }
    const made = await createAuthority(`${name}.${namespace}.enodia`, this.#now());
    const secret = secretObject(ref, { "ca.crt": made.cert, "ca.key": made.key }, objectLabels(name, "tls"), [
      ownerOf(deployment as MoEDeployment),
    ]);
    try {
      await this.#kube.create(resources.secrets, secret, { manager });
    } catch (error) {
      if (hasCode(error, "AlreadyExists")) return this.authority(deployment); // another writer was first: use theirs
      throw error;
    }
    this.#authorities.set(uid, made);
    return made;
  }

  async ensureGateway(deployment: MoEDeployment): Promise<void> {
    const { name, namespace } = deployment.metadata;
    const leaf = { dns: [`gateway.${name}.${namespace}.enodia`], uri: `spiffe://enodia/${namespace}/${name}/gateway` };
    await this.#ensure(deployment, names.gatewayTls(name), leaf, ownerOf(deployment));
  }

  async ensureWorker(deployment: MoEDeployment, pod: PodIdentity): Promise<void> {
    const { name, namespace } = deployment.metadata;
    const leaf = { dns: [workerServerName({ namespace, name }, pod.rank)], uri: `spiffe://enodia/${namespace}/${name}/${pod.name}` };
    const owner = { apiVersion: "v1", kind: "Pod", name: pod.name, uid: pod.uid };
    await this.#ensure(deployment, names.podTls(pod.name), leaf, owner);
  }

  /** The operator's own certificate for one deployment. */
  async operator(ref: Ref, uid: string): Promise<Identity> {
    const known = this.#operator.get(uid);
    const now = this.#now();
    if (known && known.until > now.getTime()) return known.identity;
    const ca = await this.authority({ metadata: { ...ref, uid, generation: 0, resourceVersion: "" } });
    const leaf = { dns: [`operator.${ref.name}.${ref.namespace}.enodia`], uri: `spiffe://enodia/${ref.namespace}/${ref.name}/operator` };
    const identity = { ...(await issueLeaf(ca, leaf, now)), ca: ca.cert };
    this.#operator.set(uid, { identity, until: now.getTime() + 24 * recheckMs });
    return identity;
  }

  forget(uid: string): void {
    this.#authorities.delete(uid);
    this.#operator.delete(uid);
  }

  async #ensure(
    deployment: MoEDeployment,
    secretName: string,
    leaf: LeafNames,
    owner: NonNullable<KubeObject["metadata"]["ownerReferences"]>[number],
  ) {
    const { name, namespace } = deployment.metadata;
    const now = this.#now();
    const key = `${namespace}/${secretName}/${owner.uid}`;
    if ((this.#checked.get(key) ?? 0) > now.getTime()) return;
    const ref = { namespace, name: secretName };
    const ca = await this.authority(deployment);
    const live = this.#informers.get("secrets", ref) ?? (await this.#kube.get(resources.secrets, ref));
    const have = readPair(live, "tls.crt", "tls.key");
    if (!have || !(await leafIsGood(ca, have.cert, leaf, now))) {
      const made = await issueLeaf(ca, leaf, now);
      const data = { "tls.crt": made.cert, "tls.key": made.key, "ca.crt": ca.cert };
      await this.#kube.apply(resources.secrets, secretObject(ref, data, objectLabels(name, "tls"), [owner]), { manager });
    }
    this.#checked.set(key, now.getTime() + recheckMs);
  }

  /** A Secret of ours was deleted or changed by somebody: look again. */
  changed(secret: KubeObject): void {
    for (const owner of secret.metadata.ownerReferences ?? []) {
      this.#checked.delete(`${secret.metadata.namespace}/${secret.metadata.name}/${owner.uid}`);
    }
  }
}

function secretObject(
  ref: Ref,
  data: Record<string, string>,
  labels: Record<string, string>,
  ownerReferences: KubeObject["metadata"]["ownerReferences"],
): KubeObject {
  const encoded = Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value).toString("base64")]));
  return {
    apiVersion: "v1",
    kind: "Secret",
    metadata: { ...ref, labels, ...(ownerReferences ? { ownerReferences } : {}) },
    type: "Opaque",
    data: encoded,
  };
}

function readPair(secret: KubeObject | undefined, certKey: string, keyKey: string): KeyPairPem | undefined {
  const data = secret?.data as Record<string, string> | undefined;
  const cert = data?.[certKey];
  const key = data?.[keyKey];
  if (!cert || !key) return undefined;
  return { cert: Buffer.from(cert, "base64").toString("utf8"), key: Buffer.from(key, "base64").toString("utf8") };
}
