// Public keys of an OpenID Connect issuer, fetched periodically and when a token names an unknown key (DECISIONS.md 6).
import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from "jose";
import { z } from "zod";
import { AppError, messageOf } from "../../../crds/common.ts";
import type { GatewayJwt } from "../../../crds/gateway-jwt.ts";
import type { Log } from "../../observe/log.ts";

export interface IssuerLimits {
  /** Interval between successful reads. */
  readonly refreshMs: number;
  /** Minimum interval, whatever tokens name. */
  readonly gapMs: number;
  /** Older keys expire, since one may have been withdrawn. */
  readonly trustMs: number;
  /** Timeout per document. */
  readonly timeoutMs: number;
}

export const issuerLimits: IssuerLimits = { refreshMs: 300_000, gapMs: 10_000, trustMs: 86_400_000, timeoutMs: 5_000 };
const documentBytesMax = 256 * 1024;
const keysMax = 64;

const discoveryPath = "/.well-known/openid-configuration";
const discovery = z.looseObject({ issuer: z.string(), jwks_uri: z.url({ protocol: /^https$/ }) });
const keySet = z.looseObject({ keys: z.array(z.looseObject({ kty: z.string() })).max(keysMax) });

interface IssuerOptions {
  readonly log: Log;
  readonly limits?: IssuerLimits;
  /** Undefined after a good read, else why there are no trusted keys yet. */
  readonly onRead: (missing: string | undefined) => void;
}

export class IssuerKeys {
  readonly #issuer: Pick<GatewayJwt, "issuer" | "jwksUri">;
  readonly #options: IssuerOptions;
  readonly #limits: IssuerLimits;
  readonly #closed = new AbortController();
  #keys: JWTVerifyGetKey | undefined;
  #readAt = Number.NEGATIVE_INFINITY;
  #triedAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failure = "";

  constructor(issuer: Pick<GatewayJwt, "issuer" | "jwksUri">, options: IssuerOptions) {
    this.#issuer = issuer;
    this.#options = options;
    this.#limits = options.limits ?? issuerLimits;
    void this.#readNow();
  }

  close(): void {
    this.#closed.abort();
    clearTimeout(this.#timer);
  }

  /** Throws AppError `IssuerAway` while no trusted key is known. */
  readonly find: JWTVerifyGetKey = async (header, token) => {
    if (!this.#trusted()) await this.#readSoon();
    const keys = this.#trusted();
    if (keys === undefined) throw this.#away();
    try {
      return await keys(header, token);
    } catch (caught) {
      if (!(caught instanceof errors.JWKSNoMatchingKey)) throw caught;
      await this.#readSoon();
      if (this.#keys === undefined || this.#keys === keys) throw caught;
      return await this.#keys(header, token);
    }
  };

  #trusted(): JWTVerifyGetKey | undefined {
    return performance.now() - this.#readAt <= this.#limits.trustMs ? this.#keys : undefined;
  }

  #away(): AppError {
    const message = `the keys of ${this.#issuer.issuer} are not known: ${this.#failure || "they are being read"}`;
    return new AppError(message, { code: "IssuerAway", operation: "checking a token", retry: { afterMs: this.#limits.gapMs } });
  }

  /** Joins a running read, or starts one after `gapMs`. Never throws. */
  #readSoon(): Promise<void> {
    if (this.#reading !== undefined) return this.#reading;
    return performance.now() - this.#triedAt < this.#limits.gapMs ? Promise.resolve() : this.#readNow();
  }

  #readNow(): Promise<void> {
    this.#triedAt = performance.now();
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<void> {
    const { log, onRead } = this.#options;
    const { refreshMs, gapMs } = this.#limits;
    let good = false;
    try {
      const uri = this.#issuer.jwksUri ?? (await this.#discover());
      this.#keys = createLocalJWKSet((await this.#get(uri, keySet)) as JSONWebKeySet);
      this.#readAt = performance.now();
      if (this.#failure !== "") log.info({ issuer: this.#issuer.issuer }, "the issuer's keys can be read again");
      this.#failure = "";
      good = true;
    } catch (caught) {
      const { message } = AppError.from(caught);
      if (message !== this.#failure && !this.#closed.signal.aborted) log.error({ issuer: this.#issuer.issuer, reason: message }, failed);
      this.#failure = message;
    }
    if (this.#closed.signal.aborted) return;
    onRead(this.#trusted() ? undefined : this.#failure);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#readNow(), good ? refreshMs : gapMs).unref();
  }

  async #discover(): Promise<string> {
    const { issuer } = this.#issuer;
    const found = await this.#get(issuer.replace(/\/$/, "") + discoveryPath, discovery);
    if (found.issuer === issuer) return found.jwks_uri;
    throw new Error(`${discoveryPath} is of issuer ${found.issuer.slice(0, 200)}: set gateway.jwt.issuer to that if it is meant`);
  }

  /** Redirects are not followed, since nobody configured their target. */
  async #get<T>(url: string, schema: z.ZodType<T>): Promise<T> {
    const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(this.#limits.timeoutMs)]);
    try {
      const response = await fetch(url, { redirect: "error", signal, headers: { accept: "application/json" } });
      if (!response.ok) throw new Error(`status ${response.status}`);
      return schema.parse(JSON.parse(await boundedText(response)));
    } catch (caught) {
      throw new AppError(`${url}: ${why(caught)}`, { code: "IssuerAway", operation: "reading the issuer's keys", cause: caught });
    }
  }
}

const failed = "the issuer's keys cannot be read; the last ones stay valid for a day";

async function boundedText(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of response.body ?? []) {
    bytes += part.byteLength;
    if (bytes > documentBytesMax) throw new Error(`more than ${documentBytesMax} bytes`);
    parts.push(part);
  }
  return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts));
}

/** fetch() puts the reason into the error's cause. */
function why(caught: unknown): string {
  if (caught instanceof z.ZodError) return z.prettifyError(caught).slice(0, 500);
  return caught instanceof Error && caught.cause instanceof Error ? `${caught.message}: ${messageOf(caught.cause)}` : messageOf(caught);
}
