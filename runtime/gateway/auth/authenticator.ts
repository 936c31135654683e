// The door of a gateway: who asks, by an API key or by a token of the issuer, whichever a deployment has. Without either everybody may ask.
import type { GatewayJwt } from "../../../crds/gateway-jwt.ts";
import { type Problem, problems } from "../problem.ts";
import { type Caller, checkToken, looksLikeToken } from "./access-token.ts";
import type { ApiKeys } from "./api-key.ts";
import type { IssuerKeys } from "./issuer-keys.ts";

const bearer = /^Bearer +(\S+)$/i;

export interface Tokens {
  readonly jwt: GatewayJwt;
  readonly keys: IssuerKeys;
}

export class Door {
  readonly #apiKeys: ApiKeys | undefined;
  readonly #tokens: Tokens | undefined;

  constructor(apiKeys: ApiKeys | undefined, tokens: Tokens | undefined) {
    this.#apiKeys = apiKeys;
    this.#tokens = tokens;
  }

  /** Who sends this header, or why nobody whom it lets in. */
  async caller(authorization: string | undefined): Promise<Caller | { readonly problem: Problem }> {
    if (this.#apiKeys === undefined && this.#tokens === undefined) return { client: "" };
    const shown = bearer.exec(authorization ?? "")?.[1];
    if (shown === undefined) return { problem: problems.unauthorized(this.#wanted()) };
    const client = await this.#apiKeys?.clientOf(shown);
    if (client !== undefined) return { client };
    if (this.#tokens === undefined || !looksLikeToken(shown)) return { problem: problems.unauthorized(this.#wanted()) };
    return checkToken(shown, this.#tokens.jwt, this.#tokens.keys.find);
  }

  #wanted(): { readonly apiKey: boolean; readonly issuer: string | undefined } {
    return { apiKey: this.#apiKeys !== undefined, issuer: this.#tokens?.jwt.issuer };
  }
}
