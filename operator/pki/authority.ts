// Creates and verifies CAs and leaves of one deployment: EC P-256, PEM in and out. The only importer of @peculiar/x509.
import "./reflect.ts";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";

x509.cryptoProvider.set(webcrypto as never);

const dayMs = 24 * 3600 * 1000;
const caDays = 3650;
const leafDays = 1;
/** A leaf is renewed when less than a fraction between these of its life is left (DECISIONS.md 1). */
const renewBelow = { least: 1 / 3, most: 1 / 2 };
/** Pods whose clocks are behind by less accept a certificate at once. */
const backdateMs = 3600_000;

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

export interface KeyPairPem {
  readonly cert: string;
  readonly key: string;
}

export interface LeafNames {
  /** DNS names of the SAN. */
  readonly dns: readonly string[];
  /** URIs of the SAN: spiffe://enodia/<namespace>/<name>/<pod>, and of a pod's own leaf urn:uuid:<uid>. */
  readonly uris: readonly string[];
}

export async function createAuthority(commonName: string, now: Date): Promise<KeyPairPem> {
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `CN=${commonName}`,
    notBefore: new Date(now.getTime() - backdateMs),
    notAfter: new Date(now.getTime() + caDays * dayMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: cert.toString("pem"), key: await exportKey(keys.privateKey) };
}

/** A certificate for clients and servers, signed by `authority`. */
export async function issueLeaf(authority: KeyPairPem, names: LeafNames, now: Date): Promise<KeyPairPem> {
  const issuer = new x509.X509Certificate(authority.cert);
  const signingKey = await importKey(authority.key);
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: `CN=${names.dns[0] ?? "enodia"}`.slice(0, 66),
    issuer: issuer.subject,
    notBefore: new Date(now.getTime() - backdateMs),
    notAfter: new Date(Math.min(now.getTime() + leafDays * dayMs, issuer.notAfter.getTime())),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([
        ...names.dns.map((value) => ({ type: "dns" as const, value })),
        ...names.uris.map((value) => ({ type: "url" as const, value })),
      ]),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return { cert: cert.toString("pem"), key: await exportKey(keys.privateKey) };
}

/** It is readable, signed by this authority, has these names, is valid already, and is not near its end. */
export async function leafIsGood(authority: KeyPairPem, certPem: string, names: LeafNames, now: Date): Promise<boolean> {
  try {
    const issuer = new x509.X509Certificate(authority.cert);
    const cert = new x509.X509Certificate(certPem);
    const life = cert.notAfter.getTime() - cert.notBefore.getTime();
    if (cert.notBefore > now || cert.notAfter.getTime() - now.getTime() < life * renewBelowOf(cert)) return false;
    const san = cert.getExtension(x509.SubjectAlternativeNameExtension)?.names.toJSON() ?? [];
    const have = san.map((name) => name.value).sort();
    if (JSON.stringify(have) !== JSON.stringify([...names.dns, ...names.uris].sort())) return false;
    return await cert.verify({ publicKey: issuer.publicKey, signatureOnly: true });
  } catch {
    return false;
  }
}

/** Its random serial number spreads the renewals of leaves that were issued together. */
function renewBelowOf({ serialNumber }: x509.X509Certificate): number {
  const { least, most } = renewBelow;
  return least + ((most - least) * Number.parseInt(serialNumber.slice(-4), 16)) / 0xffff;
}

/** Checks the signature only, not names or expiry. */
export async function isIssuedBy(authorityPem: string, certPem: string): Promise<boolean> {
  try {
    const { publicKey } = new x509.X509Certificate(authorityPem);
    return await new x509.X509Certificate(certPem).verify({ publicKey, signatureOnly: true });
  } catch {
    return false;
  }
}

/** Both halves are readable and match. It may have expired. */
export async function authorityIsGood({ cert, key }: KeyPairPem): Promise<boolean> {
  try {
    const proof = webcrypto.getRandomValues(new Uint8Array(32));
    const signature = await webcrypto.subtle.sign(algorithm, await importKey(key), proof);
    const publicKey = await new x509.X509Certificate(cert).publicKey.export(algorithm, ["verify"], webcrypto as never);
    return (await isIssuedBy(cert, cert)) && (await webcrypto.subtle.verify(algorithm, publicKey as never, signature, proof));
  } catch {
    return false;
  }
}

/** Unix ms of its validity. */
export function validityOf(certPem: string): { readonly beginsMs: number; readonly endsMs: number } {
  const { notBefore, notAfter } = new x509.X509Certificate(certPem);
  return { beginsMs: notBefore.getTime(), endsMs: notAfter.getTime() };
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY");
}

function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  return webcrypto.subtle.importKey("pkcs8", x509.PemConverter.decodeFirst(pem), algorithm, true, ["sign"]);
}

function serial(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(16));
  bytes[0] = (bytes[0] ?? 0) & 0x7f;
  return Buffer.from(bytes).toString("hex");
}
