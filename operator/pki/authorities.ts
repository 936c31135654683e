// The CA of each deployment and job: a Secret in the operator's namespace, found by uid. The API server decides between two writers.
import { AppError, apiGroup, labels } from "../../crds/common.ts";
import { makerLabels, manager } from "../kube/adoption.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { authorityComponent } from "../kube/resources.ts";
import { authorityIsGood, createAuthority, isIssuedBy, type KeyPairPem, validityOf } from "./authority.ts";
import { type CertifiedKind, certifiedKind } from "./certified.ts";
import { tlsSecrets } from "./names.ts";

const secretRetryMs = 10_000;

const authorityLabels = {
  namespace: `${apiGroup}/authority-namespace`,
  name: `${apiGroup}/authority-deployment`,
  uid: `${apiGroup}/authority-uid`,
  kind: `${apiGroup}/authority-kind`,
} as const;
const standsSince = `${apiGroup}/stands-since`;

/** Neither part of the name contains a dot. */
export const authorityName = ({ namespace, name }: Ref, uid: string): string => `enodia-ca.${namespace}.${name}.${uid}`;

interface AuthoritySet {
  readonly signer: KeyPairPem;
  readonly next: KeyPairPem | undefined;
  /** Its key signs nothing any more. */
  readonly previous: string | undefined;
  readonly standsSinceMs: number | undefined;
}

export interface Authority {
  readonly signer: KeyPairPem;
  /** All trusted CAs, the signer's first. */
  readonly bundle: string;
}

interface Held extends Authority {
  readonly set: AuthoritySet;
  readonly object: KubeObject;
}

export interface Subject {
  readonly metadata: Ref & { readonly uid: string };
}

export interface AuthoritiesOptions {
  readonly of: CertifiedKind;
  readonly kube: Kube;
  readonly informers: Pick<Informers, "get">;
  readonly namespace: string;
  readonly event: (subject: Subject, type: "Normal" | "Warning", reason: string, note: string) => void;
  readonly now: () => Date;
}

export class Authorities {
  readonly #options: AuthoritiesOptions;
  readonly #held = new Map<string, Promise<Held>>();

  constructor(options: AuthoritiesOptions) {
    this.#options = options;
  }

  /** Reads or creates the CA, one call at a time per owner. */
  of(deployment: Subject): Promise<Authority> {
    return this.#of(deployment);
  }

  async advance(deployment: Subject, certified: Certified): Promise<void> {
    const { uid } = deployment.metadata;
    const held = await this.#of(deployment);
    const step = rotationStep(factsOf(held.set), certified, this.#options.now().getTime());
    if (step === undefined) return;
    try {
      const set = await this.#after(deployment, held.set, step);
      const object = await this.#options.kube.update(resources.secrets, withSet(held.object, set), { manager });
      this.#held.set(uid, Promise.resolve({ ...authorityOf(set), set, object }));
    } catch (error) {
      this.#held.delete(uid);
      throw error;
    }
    if (step.type !== "note") this.#options.event(deployment, "Normal", "AuthorityRenewal", step.why);
  }

  forget(uid: string): void {
    this.#held.delete(uid);
  }

  #of(deployment: Subject): Promise<Held> {
    const { uid } = deployment.metadata;
    const known = this.#held.get(uid);
    if (known) return known;
    const held = this.#readOrMake(deployment);
    this.#held.set(uid, held);
    held.catch(() => {
      if (this.#held.get(uid) === held) this.#held.delete(uid);
    });
    return held;
  }

  async #readOrMake(deployment: Subject): Promise<Held> {
    const { metadata } = deployment;
    const { kube, namespace, of } = this.#options;
    const ref = { namespace, name: authorityName(metadata, metadata.uid) };
    const live = await kube.get(resources.secrets, ref);
    if (live) return read(live);
    const set = { signer: await this.#make(metadata), next: undefined, previous: undefined, standsSinceMs: undefined };
    const secret = { apiVersion: "v1", kind: "Secret", metadata: { ...ref, labels: labelsOf(metadata, of) }, type: "Opaque" };
    // The next try reads the other writer's.
    const object = await kube.create(resources.secrets, withSet(secret, set), { manager });
    this.#tellOfLoss(deployment);
    return { ...authorityOf(set), set, object };
  }

  /** Leaves without a CA: pods distrust each other until they have the new one. */
  #tellOfLoss(deployment: Subject): void {
    const { informers, event } = this.#options;
    const { namespace, name, uid } = deployment.metadata;
    const leaf = informers.get("secrets", { namespace, name: tlsSecrets.gateway(name) });
    if (!leaf?.metadata.ownerReferences?.some((owner) => owner.uid === uid)) return;
    const text = "the Secret of the CA was not there, so a new CA signs: new connections fail until pods have it, a minute or two";
    event(deployment, "Warning", "AuthorityReplaced", text);
  }

  async #after({ metadata }: Subject, set: AuthoritySet, { type }: RotationStep): Promise<AuthoritySet> {
    if (type === "announce") return { ...set, next: await this.#make(metadata), standsSinceMs: undefined };
    if (type === "note") return { ...set, standsSinceMs: this.#options.now().getTime() };
    if (type === "drop" || !set.next) return { ...set, previous: undefined, standsSinceMs: undefined };
    return { signer: set.next, next: undefined, previous: set.signer.cert, standsSinceMs: undefined };
  }

  #make({ namespace, name }: Ref): Promise<KeyPairPem> {
    return createAuthority(`${this.#options.of.scope(name)}.${namespace}.enodia`, this.#options.now());
  }
}

export function secretError(code: string, message: string): AppError {
  return new AppError(message, { code, operation: "reading certificates", retry: { afterMs: secretRetryMs } });
}

/** Undefined for any other Secret. */
export function subjectOf({ metadata }: KubeObject): { readonly ref: Ref; readonly uid: string; readonly of: CertifiedKind } | undefined {
  const { [authorityLabels.namespace]: namespace, [authorityLabels.name]: name, [authorityLabels.uid]: uid } = metadata.labels ?? {};
  const of = certifiedKind(metadata.labels?.[authorityLabels.kind]);
  return namespace && name && uid && of ? { ref: { namespace, name }, uid, of } : undefined;
}

export function certificatesIn(secret: KubeObject): string[] {
  return ["ca.crt", "next.crt", "previous.crt"].map((entry) => textOf(secret, entry)).filter((text) => text !== undefined);
}

export function textOf(secret: KubeObject, entry: string): string | undefined {
  const text = (secret.data as Record<string, string> | undefined)?.[entry];
  return text ? Buffer.from(text, "base64").toString("utf8") : undefined;
}

export function encoded(entries: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const given = Object.entries(entries).flatMap(([entry, text]) =>
    text === undefined ? [] : [[entry, Buffer.from(text).toString("base64")]],
  );
  return Object.fromEntries(given);
}

export function pairIn(secret: KubeObject, certEntry: string, keyEntry: string): KeyPairPem | undefined {
  const [cert, key] = [textOf(secret, certEntry), textOf(secret, keyEntry)];
  return cert && key ? { cert, key } : undefined;
}

function labelsOf({ namespace, name, uid }: Subject["metadata"], { kind }: CertifiedKind): Record<string, string> {
  return {
    [authorityLabels.kind]: kind,
    ...makerLabels,
    [labels.component]: authorityComponent,
    [authorityLabels.namespace]: namespace,
    [authorityLabels.name]: name,
    [authorityLabels.uid]: uid,
  };
}

function withSet(secret: KubeObject, { signer, next, previous, standsSinceMs }: AuthoritySet): KubeObject {
  const { [standsSince]: _, ...others } = secret.metadata.annotations ?? {};
  const annotations = standsSinceMs === undefined ? others : { ...others, [standsSince]: new Date(standsSinceMs).toISOString() };
  const entries = { "ca.crt": signer.cert, "ca.key": signer.key, "next.crt": next?.cert, "next.key": next?.key, "previous.crt": previous };
  return { ...secret, metadata: { ...secret.metadata, annotations }, data: encoded(entries) };
}

async function read(object: KubeObject): Promise<Held> {
  const signer = pairIn(object, "ca.crt", "ca.key");
  const next = pairIn(object, "next.crt", "next.key");
  const previous = textOf(object, "previous.crt");
  const { namespace, name, annotations } = object.metadata;
  const good = await Promise.all([
    signer !== undefined && authorityIsGood(signer),
    next === undefined || authorityIsGood(next),
    previous === undefined || isIssuedBy(previous, previous),
  ]);
  if (!signer || good.includes(false))
    throw secretError(
      "AuthorityUnusable",
      `Secret ${name} in namespace ${namespace}: its certificates and keys are no CA that can be used; restore them, or delete the Secret to have all certificates made anew`,
    );
  const since = Date.parse(annotations?.[standsSince] ?? "");
  const set = { signer, next, previous, standsSinceMs: Number.isNaN(since) ? undefined : since };
  return { ...authorityOf(set), set, object };
}

function authorityOf({ signer, next, previous }: AuthoritySet): Authority {
  const trusted = [signer.cert, next?.cert, previous].filter((cert) => cert !== undefined);
  return { signer, bundle: `${trusted.map((cert) => cert.trim()).join("\n")}\n` };
}

function factsOf({ signer, next, previous, standsSinceMs }: AuthoritySet): AuthorityFacts {
  const stage = next ? "Announced" : previous !== undefined ? "Succeeded" : "Steady";
  return { stage, ...validityOf(signer.cert), standsSinceMs };
}

const hourMs = 3600_000;
const dayMs = 24 * hourMs;

/** Far more than the life of a leaf, so that no leaf outlives its CA. */
export const renewBeforeMs = 730 * dayMs;
/**
 * Time for Secrets to reach pods: kubelets need about two minutes and pods another half (runtime/net/tls.ts). A node that is away longer
 * has its pods replaced.
 */
export const overlapMs = dayMs;
/** The next CA signs at once when less is left of the signing one. */
export const endingMs = hourMs;

export interface AuthorityFacts {
  readonly stage: "Steady" | "Announced" | "Succeeded";
  /** Later than now where a clock was ahead: nobody accepts the signing CA yet. */
  readonly beginsMs: number;
  readonly endsMs: number;
  /** Unix ms since which every Secret matches the stage; undefined where unknown. */
  readonly standsSinceMs: number | undefined;
}

export interface Certified {
  /** Every Secret matches the stage now. */
  readonly all: boolean;
  /** An existing Secret had to be updated. */
  readonly changed: boolean;
}

export interface RotationStep {
  /** announce: create the next CA. note: the Secrets match from now on. succeed: the next CA signs. drop: the previous CA goes. */
  readonly type: "announce" | "note" | "succeed" | "drop";
  readonly why: string;
}

export function rotationStep(
  { stage, beginsMs, endsMs, standsSinceMs }: AuthorityFacts,
  certified: Certified,
  nowMs: number,
): RotationStep | undefined {
  const early = beginsMs > nowMs;
  const validity = early ? `begins at ${new Date(beginsMs).toISOString()}` : `ends at ${new Date(endsMs).toISOString()}`;
  const due = early || endsMs - nowMs < renewBeforeMs;
  if (stage === "Steady")
    return due
      ? { type: "announce", why: `the CA ${validity}: the next one is trusted from now on, and signs when all pods had it for a day` }
      : undefined;
  if (stage === "Announced" && (early || endsMs - nowMs < endingMs))
    return { type: "succeed", why: `the CA ${validity}: the next one signs at once, whether or not all pods have it` };
  if (stage === "Succeeded" && due) return { type: "drop", why: `the CA ${validity}: the one before goes, since the next renewal is due` };
  if (!certified.all) return undefined;
  // A time in the future comes from a wrong clock.
  if (standsSinceMs === undefined || certified.changed || standsSinceMs > nowMs)
    return { type: "note", why: "all Secrets stand as they are to be" };
  if (nowMs - standsSinceMs < overlapMs) return undefined;
  return stage === "Announced"
    ? { type: "succeed", why: "all pods trust the next CA: it signs from now on, and the one before stays trusted for a day" }
    : { type: "drop", why: "all pods have certificates of the new CA: the one before is not trusted any more" };
}
