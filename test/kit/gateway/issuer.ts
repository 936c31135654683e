// An OpenID Connect issuer on loopback, over HTTPS: it signs tokens, publishes its keys, and can change them, hang up or go away.
import { once } from "node:events";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { createLocalJWKSet, exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from "jose";
import type { TestCa } from "../network/certs.ts";

type Claims = Readonly<Record<string, unknown>>;
type Pair = Awaited<ReturnType<typeof generateKeyPair>>;

const audience = "enodia";

/** The keys of an issuer whose document was read, as a gateway has them. */
export const publishedKeys = (keys: readonly { readonly kty?: string }[]) =>
  createLocalJWKSet({ keys: keys.map((key) => ({ kty: "", ...key })) });

interface Answer {
  readonly status: number;
  readonly body?: string;
  readonly location?: string;
}

export class TestIssuer {
  readonly #server: Server;
  readonly #pairs = new Map<string, Pair>();
  /** Paths that were asked for, in order. */
  readonly asked: string[] = [];
  /** Answers before the issuer's own; undefined = its own. */
  answer: (path: string) => Answer | undefined = () => undefined;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** From now on this process trusts the certificates of `ca`. `port`: where an issuer was before. */
  static async start(ca: TestCa, port = 0): Promise<TestIssuer> {
    const { cert, key, ca: authority } = ca.local();
    setDefaultCACertificates([...getCACertificates("default"), authority.toString()]);
    const server = createServer({ cert, key });
    const issuer = new TestIssuer(server);
    server.on("request", (request, response) => {
      const path = request.url ?? "";
      issuer.asked.push(path);
      const { status, body = "", location } = issuer.answer(path) ?? issuer.#own(path);
      response.writeHead(status, { "content-type": "application/json", ...(location ? { location } : {}) }).end(body);
    });
    await issuer.rotate("first");
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    return issuer;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `https://127.0.0.1:${this.port}`;
  }

  #own(path: string): Answer {
    if (path === "/.well-known/openid-configuration")
      return { status: 200, body: JSON.stringify({ issuer: this.url, jwks_uri: `${this.url}/keys` }) };
    return path === "/keys" ? { status: 200, body: this.#published } : { status: 404 };
  }

  #published = "";

  /** Publishes a new key of this name, and no other any more. */
  async rotate(kid: string, alg = "ES256"): Promise<void> {
    this.#pairs.set(kid, await generateKeyPair(alg, { extractable: true }));
    const { publicKey } = this.#pairs.get(kid) as Pair;
    this.#published = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid, alg, use: "sig" }] });
  }

  /** The published document, as a confused verifier would take it for a secret. */
  get published(): string {
    return this.#published;
  }

  /** A token of this issuer for a minute, with these claims and header fields instead of its own; undefined leaves one out. */
  async sign(claims: Claims = {}, header: { kid?: string; alg?: string; key?: Uint8Array } = {}): Promise<string> {
    const { kid = [...this.#pairs.keys()].at(-1) ?? "", alg = "ES256", key } = header;
    const signer = key ?? this.#pairs.get(kid)?.privateKey ?? (await generateKeyPair(alg)).privateKey;
    return new SignJWT(this.#claims(claims)).setProtectedHeader({ alg, kid }).sign(signer);
  }

  unsigned(): string {
    return new UnsecuredJWT(this.#claims({})).encode();
  }

  #claims(claims: Claims): Claims {
    const now = Math.floor(Date.now() / 1000);
    const all = { iss: this.url, aud: audience, sub: "batch", exp: now + 60, ...claims };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  }

  async close(): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    if (this.#server.listening) await once(this.#server, "close");
  }
}
