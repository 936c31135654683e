// TLS Secrets of pods, signed by their owner's CA, and the operator's own leaf. Secrets of others stay; a deleted namesake's get new keys.

import { AppError, apiVersion, labels } from "../../crds/common.ts";
import { certificateGate } from "../../crds/pod-gates.ts";
import { makerLabels, manager, mayAdopt } from "../kube/adoption.ts";
import type { Identity } from "../kube/ask-pod.ts";
import { hasCode } from "../kube/errors.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, keyOf, type OwnerReference, type Ref, refOf, resources } from "../kube/kube.ts";
import { type Authorities, type Authority, encoded, pairIn, type Subject, secretError, subjectOf, textOf } from "./authorities.ts";
import { isIssuedBy, issueLeaf, type LeafNames, leafIsGood } from "./authority.ts";
import type { CertifiedKind } from "./certified.ts";
import { type Role, roleServerNames, tlsSecrets, workerServerName } from "./names.ts";

const recheckMs = 3600_000;
/** What was made or checked by a clock that was ahead by more counts no longer. */
const aheadMsMax = recheckMs;
const holds = (atMs: number, forMs: number, nowMs: number): boolean => nowMs > atMs - aheadMsMax && nowMs < atMs + forMs;

export interface PodIdentity {
  readonly name: string;
  readonly uid: string;
  readonly rank: number;
  /** Names of what its scheduler waits for. */
  readonly gates: readonly string[];
}

export interface IdentitiesOptions {
  readonly of: CertifiedKind;
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get">;
  readonly authorities: Authorities;
  readonly now: () => Date;
}

export class Identities {
  readonly #options: IdentitiesOptions;
  readonly #operator = new Map<string, { readonly identity: Identity; readonly atMs: number }>();
  /** Keys are those of the Secrets. */
  readonly #checked = new Map<string, { readonly owner: string; readonly bundle: string; readonly atMs: number }>();
  readonly #changed = new Set<string>();

  constructor(options: IdentitiesOptions) {
    this.#options = options;
  }

  async ensureRole(subject: Subject, role: Role): Promise<void> {
    const { name, namespace, uid } = subject.metadata;
    const leaf = { dns: [...roleServerNames(role, { namespace, name })], uris: [`spiffe://enodia/${namespace}/${name}/${role}`] };
    const owner = { apiVersion, kind: this.#options.of.kind, name, uid, controller: true, blockOwnerDeletion: false };
    await this.#ensure(subject, tlsSecrets[role](name), leaf, owner);
  }

  /** No scheduler takes the pod before. */
  async ensurePod(subject: Subject, pod: PodIdentity): Promise<void> {
    const { namespace } = subject.metadata;
    const scope = this.#options.of.scope(subject.metadata.name);
    const leaf = {
      dns: [workerServerName({ namespace, name: scope }, pod.rank)],
      uris: [`spiffe://enodia/${namespace}/${scope}/${pod.name}`, `urn:uuid:${pod.uid}`],
    };
    const owner = { apiVersion: "v1", kind: "Pod", name: pod.name, uid: pod.uid };
    await this.#ensure(subject, tlsSecrets.pod(pod.name), leaf, owner);
    if (pod.gates.includes(certificateGate)) await this.#open({ namespace, name: pod.name }, pod);
  }

  /** Gates of others stay. */
  async #open(ref: Ref, { uid, gates }: PodIdentity): Promise<void> {
    const schedulingGates = gates.filter((name) => name !== certificateGate).map((name) => ({ name }));
    try {
      await this.#options.kube.patch(resources.pods, ref, { metadata: { uid }, spec: { schedulingGates } }, { manager });
    } catch (error) {
      // The pod is gone, its name was reused, or another gate went meanwhile: the next pass sees which.
      if (!hasCode(error, "NotFound", "Conflict", ...(schedulingGates.length > 0 ? ["Invalid"] : []))) throw error;
    }
  }

  /** Certifies all pods and roles, then advances the CA's renewal. Returns the first error after trying everything. */
  async ensureAll(subject: Subject, pods: readonly PodIdentity[], { gateways, roles }: Roles): Promise<AppError | undefined> {
    const workers = await Promise.allSettled(pods.map((pod) => this.ensurePod(subject, pod)));
    // Reported where the gateways' objects are applied.
    const front = await Promise.allSettled(gateways === "certify" ? [this.ensureRole(subject, "gateway")] : []);
    const others = await Promise.allSettled(roles.map((role) => this.ensureRole(subject, role)));
    return this.#advance(subject, [...workers, ...others], gateways !== "wait" && front.every(fulfilled));
  }

  async #advance(subject: Subject, pods: readonly PromiseSettledResult<void>[], others: boolean): Promise<AppError | undefined> {
    const { uid } = subject.metadata;
    const all = others && pods.every(fulfilled);
    const certified = { all, changed: this.#changed.has(uid) };
    if (all) this.#changed.delete(uid);
    const [renewal] = await Promise.allSettled([this.#options.authorities.advance(subject, certified)]);
    const failed = [...pods, ...(all ? [renewal] : [])].find((result) => result.status === "rejected");
    return failed ? AppError.from(failed.reason, "writing certificates") : undefined;
  }

  /** The same object until it or the CAs change. */
  async operator(ref: Ref, uid: string): Promise<Identity> {
    const { authorities, now, of } = this.#options;
    const { signer, bundle } = await authorities.of({ metadata: { ...ref, uid } });
    const at = now();
    const known = this.#operator.get(uid);
    if (known && known.identity.ca === bundle && holds(known.atMs, 12 * recheckMs, at.getTime())) return known.identity;
    const scope = of.scope(ref.name);
    const leaf = { dns: [`operator.${scope}.${ref.namespace}.enodia`], uris: [`spiffe://enodia/${ref.namespace}/${scope}/operator`] };
    const identity = { ...(await issueLeaf(signer, leaf, at)), ca: bundle };
    this.#operator.set(uid, { identity, atMs: at.getTime() });
    return identity;
  }

  forget(uid: string): void {
    this.#options.authorities.forget(uid);
    this.#operator.delete(uid);
    this.#changed.delete(uid);
  }

  changed(secret: KubeObject): void {
    const subject = subjectOf(secret);
    if (subject) this.#options.authorities.forget(subject.uid);
    this.#checked.delete(keyOf(refOf(secret)));
  }

  async #ensure(subject: Subject, secretName: string, leaf: LeafNames, owner: OwnerReference): Promise<void> {
    const { authorities, now } = this.#options;
    const key = keyOf({ namespace: subject.metadata.namespace, name: secretName });
    const authority = await authorities.of(subject);
    const { bundle } = authority;
    const atMs = now().getTime();
    const known = this.#checked.get(key);
    if (known && known.owner === owner.uid && known.bundle === bundle && holds(known.atMs, recheckMs, atMs)) return;
    // This is recorded before the check, so that a change during it counts.
    this.#checked.set(key, { owner: owner.uid, bundle, atMs });
    try {
      await this.#write(subject, authority, { secretName, leaf, owner });
    } catch (error) {
      this.#checked.delete(key);
      throw error;
    }
  }

  async #write({ metadata }: Subject, { signer, bundle }: Authority, { secretName, leaf, owner }: Wanted): Promise<void> {
    const { kube, informers, now, of } = this.#options;
    const ref = { namespace: metadata.namespace, name: secretName };
    const live = informers.get(of.secrets, ref) ?? (await kube.get(resources.secrets, ref));
    const orphan = live && (await mayAdopt(kube, live, metadata));
    if (live && !orphan) refuseForeign(live, owner.uid, of);
    const have = live && !orphan ? pairIn(live, "tls.crt", "tls.key") : undefined;
    const good = have !== undefined && (await leafIsGood(signer, have.cert, leaf, now()));
    const trusts = live !== undefined && textOf(live, "ca.crt") === bundle;
    if (good && trusts) return;
    if (live && !(trusts && have && (await isIssuedBy(signer.cert, have.cert)))) this.#changed.add(metadata.uid);
    const { cert, key } = good ? have : await issueLeaf(signer, leaf, now());
    const data = encoded({ "tls.crt": cert, "tls.key": key, "ca.crt": bundle });
    const meta = {
      ...ref,
      labels: { ...makerLabels, [of.label]: metadata.name, [labels.component]: "tls" },
      ownerReferences: [owner],
    };
    await kube.apply(
      resources.secrets,
      { apiVersion: "v1", kind: "Secret", metadata: meta, type: "Opaque", data },
      { manager, force: true },
    );
  }
}

export interface Roles {
  /** `wait`: they serve with a deleted namesake's Secret, so that the CA stays. */
  readonly gateways: "certify" | "none" | "wait";
  readonly roles: readonly Role[];
}

interface Wanted {
  readonly secretName: string;
  readonly leaf: LeafNames;
  readonly owner: OwnerReference;
}

const fulfilled = ({ status }: PromiseSettledResult<void>): boolean => status === "fulfilled";

function refuseForeign({ metadata }: KubeObject, uid: string, { kind }: CertifiedKind): void {
  if (metadata.ownerReferences?.some((owner) => owner.uid === uid)) return;
  throw secretError(
    "SecretForeign",
    `Secret ${metadata.name} has another owner or none; what a deleted ${kind} of this name left is waited for, any other has to be deleted or renamed`,
  );
}
