// TLS Secrets of a deployment: its CA, one leaf per worker pod, one for the gateways; and the operator's own leaf in memory.
// Worker Secrets are owned by their pod, the others by the MoEDeployment. A Secret without that owner is not touched: a deleted
// namesake's awaits collection, any other is a person's. One that a deleted namesake left without an owner is filled anew: anybody
// may have read or written it since. Never makes a second CA: the API server decides who was first.

import { AppError } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { type Kube, type KubeObject, keyOf, type OwnerReference, type Ref, refOf, resources } from "../kube/kube.ts";
import { authorityIsGood, createAuthority, issueLeaf, type KeyPairPem, type LeafNames, leafIsGood } from "../tls/authority.ts";
import { mayAdopt } from "./adoption.ts";
import { manager } from "./apply.ts";
import type { Informers } from "./informers.ts";
import { names, objectLabels, ownerOf } from "./objects/context.ts";
import { type Identity, workerServerName } from "./ports.ts";

/** A leaf that was found good is not checked again for this long. */
const recheckMs = 3600_000;
/** The pause while a person or the garbage collector has to mend a Secret; a change of one of ours ends it earlier. */
const secretRetryMs = 10_000;

/** Codes of what is wrong with a Secret that has a certificate's name. */
export const secretProblems: readonly string[] = ["AuthorityUnusable", "SecretForeign"];

export interface PodIdentity {
  readonly name: string;
  readonly uid: string;
  readonly rank: number;
}

export class Identities {
  readonly #kube: Kube;
  readonly #informers: Informers;
  readonly #now: () => Date;
  /** Authorities in memory, by the CA Secret's key. */
  readonly #authorities = new Map<string, { readonly uid: string; readonly pair: Promise<KeyPairPem> }>();
  /** The operator's own identities, by the deployment's uid. */
  readonly #operator = new Map<string, { readonly identity: Identity; readonly until: number }>();
  /** Leaves found good for this owner, under this CA, until then; by the leaf Secret's key. */
  readonly #checked = new Map<string, { readonly owner: string; readonly ca: string; readonly until: number }>();

  constructor(kube: Kube, informers: Informers, now: () => Date) {
    this.#kube = kube;
    this.#informers = informers;
    this.#now = now;
  }

  /** Reads or makes the CA. One look at a time per deployment, so that two callers do not make two. */
  authority(deployment: Pick<MoEDeployment, "metadata">): Promise<KeyPairPem> {
    const { uid, name, namespace } = deployment.metadata;
    const key = keyOf({ namespace, name: names.ca(name) });
    const known = this.#authorities.get(key);
    if (known?.uid === uid) return known.pair;
    const entry = { uid, pair: this.#readOrMake(deployment) };
    this.#authorities.set(key, entry);
    entry.pair.catch(() => {
      if (this.#authorities.get(key) === entry) this.#authorities.delete(key);
    });
    return entry.pair;
  }

  async #readOrMake(deployment: Pick<MoEDeployment, "metadata">): Promise<KeyPairPem> {
    const { uid, name, namespace } = deployment.metadata;
    const ref = { namespace, name: names.ca(name) };
    const live = await this.#kube.get(resources.secrets, ref);
    if (live && !(await mayAdopt(this.#kube, live, { namespace, name, uid }))) return readAuthority(live, uid, this.#now());
    const made = await createAuthority(`${name}.${namespace}.enodia`, this.#now());
    const owner = ownerOf(deployment as MoEDeployment);
    const secret = secretObject(ref, { "ca.crt": made.cert, "ca.key": made.key }, objectLabels(name, "tls"), owner);
    // AlreadyExists or Conflict: another writer was first, and the next try reads theirs.
    if (live) await this.#kube.patch(resources.secrets, ref, takenOver(live, secret), { manager });
    else await this.#kube.create(resources.secrets, secret, { manager });
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

  /** The operator's own certificate for one deployment; the same object while it and the CA stand. */
  async operator(ref: Ref, uid: string): Promise<Identity> {
    const ca = await this.authority({ metadata: { ...ref, uid, generation: 0, resourceVersion: "" } });
    const now = this.#now();
    const known = this.#operator.get(uid);
    if (known && known.identity.ca === ca.cert && known.until > now.getTime()) return known.identity;
    const leaf = { dns: [`operator.${ref.name}.${ref.namespace}.enodia`], uri: `spiffe://enodia/${ref.namespace}/${ref.name}/operator` };
    const identity = { ...(await issueLeaf(ca, leaf, now)), ca: ca.cert };
    this.#operator.set(uid, { identity, until: now.getTime() + 24 * recheckMs });
    return identity;
  }

  forget(uid: string): void {
    for (const [key, entry] of this.#authorities) if (entry.uid === uid) this.#authorities.delete(key);
    this.#operator.delete(uid);
  }

  /** A Secret of ours was made, deleted or changed by somebody: look again. */
  changed(secret: KubeObject): void {
    const key = keyOf(refOf(secret));
    this.#authorities.delete(key);
    this.#checked.delete(key);
  }

  async #ensure(deployment: MoEDeployment, secretName: string, leaf: LeafNames, owner: OwnerReference): Promise<void> {
    const { name, namespace } = deployment.metadata;
    const ref = { namespace, name: secretName };
    const key = keyOf(ref);
    const ca = await this.authority(deployment);
    const now = this.#now();
    const known = this.#checked.get(key);
    if (known && known.owner === owner.uid && known.ca === ca.cert && known.until > now.getTime()) return;
    // Noted before the look: a change during it means another one.
    this.#checked.set(key, { owner: owner.uid, ca: ca.cert, until: now.getTime() + recheckMs });
    try {
      const live = this.#informers.get("secrets", ref) ?? (await this.#kube.get(resources.secrets, ref));
      const orphan = live && (await mayAdopt(this.#kube, live, deployment.metadata));
      if (live && !orphan) refuseForeign(live, owner.uid);
      const have = live && !orphan && readPair(live, "tls.crt", "tls.key");
      if (have && (await leafIsGood(ca, have.cert, leaf, now))) return;
      const made = await issueLeaf(ca, leaf, now);
      const data = { "tls.crt": made.cert, "tls.key": made.key, "ca.crt": ca.cert };
      await this.#kube.apply(resources.secrets, secretObject(ref, data, objectLabels(name, "tls"), owner), { manager });
    } catch (error) {
      this.#checked.delete(key);
      throw error;
    }
  }
}

async function readAuthority(secret: KubeObject, uid: string, now: Date): Promise<KeyPairPem> {
  refuseForeign(secret, uid);
  const pair = readPair(secret, "ca.crt", "ca.key");
  if (pair && (await authorityIsGood(pair, now))) return pair;
  throw secretError(
    "AuthorityUnusable",
    `Secret ${secret.metadata.name}: ca.crt and ca.key are no CA that can be used; restore them, or delete the Secret to have all certificates made anew`,
  );
}

function refuseForeign({ metadata }: KubeObject, uid: string): void {
  if (metadata.ownerReferences?.some((owner) => owner.uid === uid)) return;
  throw secretError(
    "SecretForeign",
    `Secret ${metadata.name} has another owner or none; what a deleted MoEDeployment of this name left is waited for, any other has to be deleted or renamed`,
  );
}

function secretError(code: string, message: string): AppError {
  return new AppError(message, { code, operation: "reading certificates", retry: { afterMs: secretRetryMs } });
}

function secretObject(ref: Ref, data: Record<string, string>, labels: Record<string, string>, owner: OwnerReference): KubeObject {
  const encoded = Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value).toString("base64")]));
  return { apiVersion: "v1", kind: "Secret", metadata: { ...ref, labels, ownerReferences: [owner] }, type: "Opaque", data: encoded };
}

/** The patch that gives an orphan an owner and other data, unless somebody has changed it meanwhile. */
function takenOver({ metadata: { resourceVersion = "" } }: KubeObject, { metadata, data }: KubeObject): object {
  return { metadata: { resourceVersion, ownerReferences: metadata.ownerReferences }, data };
}

function readPair(secret: KubeObject, certKey: string, keyKey: string): KeyPairPem | undefined {
  const data = secret.data as Record<string, string> | undefined;
  const cert = data?.[certKey];
  const key = data?.[keyKey];
  if (!cert || !key) return undefined;
  return { cert: Buffer.from(cert, "base64").toString("utf8"), key: Buffer.from(key, "base64").toString("utf8") };
}
