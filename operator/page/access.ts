// The door of the page, by three kinds of access. PortForward: the server listens on the pod's loopback, for whoever may forward ports.
// Token: whoever knows the token of a Secret. Proxy: whoever reaches the port. Decided for each request; the token is read each time.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import type { PageAccess } from "../../crds/names.ts";

export const cookieName = "enodia-page";
/** A browser signs in again after this. */
export const sessionMs = 12 * 3_600_000;
/** A shorter token would be found by trying. */
const tokenCharsMin = 16;
export const tokenCharsMax = 1024;
/** Wrong tokens that are answered in a minute, of all callers together. */
const wrongMax = 60;
const wrongWindowMs = 60_000;

interface Asking {
  readonly host: string | undefined;
  readonly authorization: string | undefined;
  readonly cookie: string | undefined;
}

export type Answer =
  | { readonly may: "read" }
  | { readonly may: "signIn" }
  | { readonly may: "nothing"; readonly status: 403 | 429 | 503; readonly why: string };

interface AccessParts {
  readonly access: PageAccess;
  /** The token as it is now; undefined where there is none. */
  readonly token: () => Promise<string | undefined>;
  /** Unix ms. */
  readonly now: () => number;
}

const read = { may: "read" } as const;
const local: readonly string[] = ["localhost", "127.0.0.1", "[::1]"];

const same = (a: string, b: string): boolean =>
  timingSafeEqual(createHash("sha256").update(a).digest(), createHash("sha256").update(b).digest());

export class Access {
  readonly #parts: AccessParts;
  #wrong: readonly number[] = [];

  constructor(parts: AccessParts) {
    this.#parts = parts;
  }

  async ask({ host, authorization, cookie }: Asking): Promise<Answer> {
    switch (this.#parts.access) {
      case "Proxy":
        return read;
      case "PortForward":
        // A site whose name is made to point to the reader's own machine would else be answered by its browser.
        if (local.includes((host ?? "").replace(/:\d+$/, ""))) return read;
        return { may: "nothing", status: 403, why: "the page is read at localhost, through kubectl port-forward" };
      case "Token": {
        const token = await this.#token();
        if (typeof token !== "string") return token;
        const bearer = /^Bearer (.+)$/i.exec(authorization ?? "")?.[1];
        if (bearer !== undefined) return this.#judge(bearer, token);
        return this.#isSession(cookie, token) ? read : { may: "signIn" };
      }
    }
  }

  /** The cookie of a session, or why there is none. */
  async signIn(given: string): Promise<{ readonly cookie: string } | Exclude<Answer, { may: "read" }>> {
    if (this.#parts.access !== "Token") return { may: "nothing", status: 403, why: "there is no token to sign in with" };
    const token = await this.#token();
    if (typeof token !== "string") return token;
    const judged = this.#judge(given, token);
    if (judged.may !== "read") return judged;
    const until = this.#parts.now() + sessionMs;
    return { cookie: `${cookieName}=${until}.${sign(token, until)}; HttpOnly; SameSite=Strict; Max-Age=${sessionMs / 1000}` };
  }

  async #token(): Promise<string | Exclude<Answer, { may: "read" }>> {
    const token = (await this.#parts.token())?.trim();
    if (token !== undefined && token.length >= tokenCharsMin && token.length <= tokenCharsMax) return token;
    const why = `the Secret of the page has no key "token" of ${tokenCharsMin} to ${tokenCharsMax} characters`;
    return { may: "nothing", status: 503, why };
  }

  #judge(given: string, token: string): Answer {
    const now = this.#parts.now();
    this.#wrong = this.#wrong.filter((at) => now - at < wrongWindowMs);
    if (this.#wrong.length >= wrongMax) return { may: "nothing", status: 429, why: "too many wrong tokens: try again in a minute" };
    if (same(given, token)) return read;
    this.#wrong = [...this.#wrong, now];
    return { may: "signIn" };
  }

  /** A session ends with its time, and with the token that it was begun by. */
  #isSession(cookie: string | undefined, token: string): boolean {
    const found = new RegExp(`(?:^|; *)${cookieName}=(\\d{1,15})\\.([\\w-]{1,64})(?:;|$)`).exec(cookie ?? "");
    const until = Number(found?.[1] ?? 0);
    return found?.[2] !== undefined && this.#parts.now() < until && same(found[2], sign(token, until));
  }
}

const sign = (token: string, until: number): string => createHmac("sha256", token).update(`${cookieName} ${until}`).digest("base64url");
