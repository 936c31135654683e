// Access to the page, decided per request. DECISIONS.md 2.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import type { PageAccess } from "../../crds/names.ts";
import type { Look, Readers } from "./readers.ts";
import type { Scope } from "./scope.ts";

export const cookieName = "enodia-page";
export const sessionMs = 12 * 3_600_000;
/** A shorter token could be guessed. */
const tokenCharsMin = 16;
const tokenCharsMax = 1024;
/** A token must fit into a cookie. */
export const clusterTokenCharsMax = 3_800;
const clusterToken = /^[\w.~+/-]+=*$/;
/** Wrong tokens per minute, of one address. */
const wrongMax = 60;
const wrongWindowMs = 60_000;
/** Addresses whose wrong tokens are counted; the one that was wrong longest ago goes. */
const addressesMax = 1_024;

interface Asking {
  readonly address: string;
  readonly host: string | undefined;
  readonly authorization: string | undefined;
  readonly cookie: string | undefined;
}

export type Answer =
  | { readonly may: "read"; readonly look: Look }
  | { readonly may: "signIn" }
  | { readonly may: "nothing"; readonly status: 403 | 429 | 503; readonly why: string };

interface AccessParts {
  readonly access: PageAccess;
  /** The current token; undefined without one. */
  readonly token: () => Promise<string | undefined>;
  readonly readers: Pick<Readers, "knows" | "of">;
  /** What everybody else with access sees. */
  readonly scope: Scope;
  readonly now: () => number;
}

type Refusal = Exclude<Answer, { may: "read" }>;

const tooMany: Refusal = { may: "nothing", status: 429, why: "too many wrong tokens: try again in a minute" };
const local: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];

const same = (a: string, b: string): boolean =>
  timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());

export class Access {
  readonly #parts: AccessParts;
  /** Times of wrong tokens. */
  readonly #wrong = new Map<string, readonly number[]>();

  constructor(parts: AccessParts) {
    this.#parts = parts;
  }

  get form(): { readonly charsMax: number; readonly help: string } {
    return this.#parts.access === "ClusterToken"
      ? { charsMax: clusterTokenCharsMax, help: "A token of the cluster, such as of kubectl create token. You see what its user may list." }
      : { charsMax: tokenCharsMax, help: "The token is in the Secret that the chart's value page.tokenSecret names." };
  }

  async ask({ address, host, authorization, cookie }: Asking): Promise<Answer> {
    switch (this.#parts.access) {
      case "Proxy":
        return this.#read();
      case "PortForward":
        // Otherwise a site whose name resolves to the reader's own machine could read the page through the browser.
        if (local.includes((host ?? "").replace(/:\d+$/, ""))) return this.#read();
        return { may: "nothing", status: 403, why: "the page is read at localhost, through kubectl port-forward" };
      case "Token": {
        const token = await this.#token();
        if (typeof token !== "string") return token;
        const bearer = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1];
        if (bearer !== undefined) return this.#compare(address, bearer, token);
        return this.#isSession(cookie, token) ? this.#read() : { may: "signIn" };
      }
      case "ClusterToken": {
        const candidate = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1] ?? clusterTokenOf(cookie);
        return candidate === undefined ? { may: "signIn" } : this.#user(address, candidate);
      }
    }
  }

  async signIn(address: string, candidate: string): Promise<{ readonly cookie: string } | Refusal> {
    if (this.#parts.access === "ClusterToken") {
      const user = await this.#user(address, candidate.trim());
      return user.may === "read" ? { cookie: cookieOf(candidate.trim()) } : user;
    }
    if (this.#parts.access !== "Token") return { may: "nothing", status: 403, why: "there is no token to sign in with" };
    const token = await this.#token();
    if (typeof token !== "string") return token;
    const compared = this.#compare(address, candidate, token);
    if (compared.may !== "read") return compared;
    const until = this.#parts.now() + sessionMs;
    return { cookie: cookieOf(`${until}.${sign(token, until)}`) };
  }

  #read(): Answer {
    const { scope } = this.#parts;
    return { may: "read", look: () => scope };
  }

  /** The cookie holds the token itself, since any replica may answer. */
  async #user(address: string, token: string): Promise<Answer> {
    if (token.length > clusterTokenCharsMax || !clusterToken.test(token)) return { may: "signIn" };
    const { readers } = this.#parts;
    const known = readers.knows(token);
    if (!known && this.#wrongOf(address).length >= wrongMax) return tooMany; // each unknown one costs the API server a question
    try {
      const look = await readers.of(token);
      if (look) return { may: "read", look };
    } catch (caught) {
      return { may: "nothing", status: 503, why: `whose token this is cannot be asked: ${AppError.from(caught).message}` };
    }
    return known ? { may: "signIn" } : this.#wasWrong(address);
  }

  async #token(): Promise<string | Refusal> {
    const token = (await this.#parts.token())?.trim();
    if (token !== undefined && token.length >= tokenCharsMin && token.length <= tokenCharsMax) return token;
    const why = `the Secret of the page has no key "token" of ${tokenCharsMin} to ${tokenCharsMax} characters`;
    return { may: "nothing", status: 503, why };
  }

  /** The right one is let in, however many wrong ones came. */
  #compare(address: string, candidate: string, token: string): Answer {
    return same(candidate, token) ? this.#read() : this.#wasWrong(address);
  }

  #wasWrong(address: string): Answer {
    const before = this.#wrongOf(address);
    if (before.length >= wrongMax) return tooMany;
    this.#wrong.delete(address);
    this.#wrong.set(address, [...before, this.#parts.now()]);
    for (const oldest of this.#wrong.keys()) {
      if (this.#wrong.size <= addressesMax) break;
      this.#wrong.delete(oldest);
    }
    return { may: "signIn" };
  }

  #wrongOf(address: string): readonly number[] {
    const now = this.#parts.now();
    return (this.#wrong.get(address) ?? []).filter((at) => now - at < wrongWindowMs);
  }

  /** A session ends with its time or its token. */
  #isSession(cookie: string | undefined, token: string): boolean {
    const found = new RegExp(`(?:^|; *)${cookieName}=(\\d{1,15})\\.([\\w-]{1,64})(?:;|$)`).exec(cookie ?? "");
    const until = Number(found?.[1] ?? 0);
    return found?.[2] !== undefined && this.#parts.now() < until && same(found[2], sign(token, until));
  }
}

const cookieOf = (value: string): string => `${cookieName}=${value}; HttpOnly; SameSite=Strict; Max-Age=${sessionMs / 1000}`;

const clusterTokenOf = (cookie: string | undefined): string | undefined =>
  new RegExp(`(?:^|; *)${cookieName}=([^;]+)(?:;|$)`).exec(cookie ?? "")?.[1];

const sign = (token: string, until: number): string => createHmac("sha256", token).update(`${cookieName} ${until}`).digest("base64url");
