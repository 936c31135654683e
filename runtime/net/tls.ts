// TLS material from a watched folder or from memory, and a peer's identity from its certificate's SAN.
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createSecureContext, type PeerCertificate, type SecureContext } from "node:tls";
import type { experimental } from "@grpc/grpc-js";
import { AppError } from "../../crds/common.ts";

/** PEM; two CAs during a renewal. */
export interface TlsMaterial {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
}

const contexts = new WeakMap<TlsMaterial, SecureContext>();

/** Shared, since a context takes 40 KiB and half a millisecond. */
export function secureContextOf(material: TlsMaterial): SecureContext {
  const known = contexts.get(material);
  if (known) return known;
  const { cert, key, ca } = material;
  const made = createSecureContext({ cert, key, ca });
  contexts.set(material, made);
  return made;
}

/** DECISIONS.md 9. */
export interface TlsSource {
  readonly provider: experimental.CertificateProvider;
  current(): TlsMaterial;
  close(): void;
}

/** kubelet renews a mounted Secret within about a minute. */
const tlsRefreshMs = 30_000;

class Provider implements experimental.CertificateProvider {
  #material: TlsMaterial;
  readonly #ca = new Set<experimental.CaCertificateUpdateListener>();
  readonly #identity = new Set<experimental.IdentityCertificateUpdateListener>();

  constructor(material: TlsMaterial) {
    this.#material = material;
  }
  get material(): TlsMaterial {
    return this.#material;
  }
  update(material: TlsMaterial): void {
    this.#material = material;
    for (const listener of this.#ca) listener({ caCertificate: material.ca });
    for (const listener of this.#identity) listener({ certificate: material.cert, privateKey: material.key });
  }
  addCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#ca.add(listener);
    process.nextTick(() => listener({ caCertificate: this.#material.ca }));
  }
  removeCaCertificateListener(listener: experimental.CaCertificateUpdateListener): void {
    this.#ca.delete(listener);
  }
  addIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identity.add(listener);
    process.nextTick(() => listener({ certificate: this.#material.cert, privateKey: this.#material.key }));
  }
  removeIdentityCertificateListener(listener: experimental.IdentityCertificateUpdateListener): void {
    this.#identity.delete(listener);
  }
}

export function fixedTls(material: TlsMaterial): TlsSource & { update(material: TlsMaterial): void } {
  const provider = new Provider(material);
  return { provider, current: () => provider.material, update: (next) => provider.update(next), close: () => {} };
}

/** The first failure throws `TlsUnreadable`; later ones keep the last good material. */
export function folderTls(dir: string, refreshMs = tlsRefreshMs): TlsSource {
  const provider = new Provider(readMaterial(dir));
  const timer = setInterval(() => {
    try {
      const next = readMaterial(dir);
      if (!sameMaterial(next, provider.material) && isPair(next)) provider.update(next);
    } catch {
      // absent or mixed during kubelet's swap: the next tick reads it again
    }
  }, refreshMs);
  timer.unref();
  return { provider, current: () => provider.material, close: () => clearInterval(timer) };
}

function readMaterial(dir: string): TlsMaterial {
  try {
    return { cert: readFileSync(join(dir, "tls.crt")), key: readFileSync(join(dir, "tls.key")), ca: readFileSync(join(dir, "ca.crt")) };
  } catch (cause) {
    throw new AppError(`TLS folder ${dir}: tls.crt, tls.key and ca.crt must be readable`, {
      code: "TlsUnreadable",
      operation: "reading TLS material",
      cause,
      retry: "backoff",
    });
  }
}

function isPair({ cert, key }: TlsMaterial): boolean {
  return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
}

function sameMaterial(a: TlsMaterial, b: TlsMaterial): boolean {
  return a.cert.equals(b.cert) && a.key.equals(b.key) && a.ca.equals(b.ca);
}

/** A pod as its certificate names it. */
export interface CertifiedPod {
  readonly podName: string | undefined;
  /** Unset in certificates of roles, and in a pod's of an older operator. */
  readonly podUid: string | undefined;
}

export type PeerIdentity = CertifiedPod & ({ readonly role: "worker"; readonly rank: number } | { readonly role: "gateway" | "operator" });

/** The certificate is this pod's own: not that of the one before it with its rank. */
export function isCertified({ podName, podUid }: CertifiedPod, pod: { readonly podName: string; readonly podUid: string }): boolean {
  return podUid === undefined ? podName === pod.podName : podUid === pod.podUid;
}

const sanPattern = /^(?:rank-(?<rank>\d{1,4})|(?<role>gateway|operator))\.(?<scope>.+)\.enodia$/;

/** Undefined = a stranger. */
export function peerIdentity(
  cert: PeerCertificate | X509Certificate | undefined,
  namespace: string,
  name: string,
): PeerIdentity | undefined {
  const text = cert === undefined ? undefined : "subjectaltname" in cert ? cert.subjectaltname : (cert as X509Certificate).subjectAltName;
  const entries = (text ?? "").split(", ");
  const prefix = `URI:spiffe://enodia/${namespace}/${name}/`;
  const after = (start: string) => entries.find((entry) => entry.startsWith(start))?.slice(start.length);
  const pod = { podName: after(prefix), podUid: after("URI:urn:uuid:") };
  for (const entry of entries) {
    const groups = entry.startsWith("DNS:") ? sanPattern.exec(entry.slice(4))?.groups : undefined;
    if (groups?.scope !== `${name}.${namespace}`) continue;
    if (groups.rank !== undefined) return { role: "worker", rank: Number(groups.rank), ...pod };
    return { role: groups.role === "gateway" ? "gateway" : "operator", ...pod };
  }
  return undefined;
}

export const serverNames = {
  rank: (rank: number, namespace: string, name: string) => `rank-${rank}.${name}.${namespace}.enodia`,
  gateway: (namespace: string, name: string) => `gateway.${name}.${namespace}.enodia`,
  operator: (namespace: string, name: string) => `operator.${name}.${namespace}.enodia`,
  /** It calls nobody, so its certificate grants no access. */
  weightServer: (namespace: string, name: string) => `weight-server.${name}.${namespace}.enodia`,
} as const;
