// Identifies the client by an API key or the issuer's token, as the deployment has it; with neither configured, everybody may ask.
import type { GatewayJwt } from "../../../crds/gateway-jwt.ts";
import type { Health } from "../../observe/health.ts";
import type { Log } from "../../observe/log.ts";
import { type Problem, problems } from "../problem.ts";
import { type Caller, checkToken, looksLikeToken } from "./access-token.ts";
import { ApiKeys, sha256 } from "./api-key.ts";
import { IssuerKeys, type IssuerLimits, issuerLimits } from "./issuer-keys.ts";

const bearer = /^Bearer +(\S+)$/i;

interface Identified extends Caller {
  /** Who may come back to an answer: the holder of one key, or one client of the issuer. */
  readonly tenant: string;
}

interface Tokens {
  readonly jwt: GatewayJwt;
  readonly keys: IssuerKeys;
}

export interface AuthenticatorOptions {
  readonly apiKeyFile?: string | undefined;
  readonly jwt?: GatewayJwt | undefined;
  readonly limits?: IssuerLimits | undefined;
  readonly health: Health;
  readonly log: Log;
}

export class Authenticator {
  readonly #apiKeys: ApiKeys | undefined;
  readonly #tokens: Tokens | undefined;

  constructor(apiKeys: ApiKeys | undefined, tokens: Tokens | undefined) {
    this.#apiKeys = apiKeys;
    this.#tokens = tokens;
  }

  /** Throws `ApiKeyUnreadable`. Health names the issuer until its keys were read once. */
  static async open({ apiKeyFile, jwt, limits = issuerLimits, health, log }: AuthenticatorOptions): Promise<Authenticator> {
    const apiKeys = apiKeyFile ? await ApiKeys.open(apiKeyFile, log) : undefined;
    return new Authenticator(apiKeys, jwt && { jwt, keys: issuerKeys(jwt, { log, limits, health }) });
  }

  async caller(authorization: string | undefined): Promise<Identified | { readonly problem: Problem }> {
    if (this.#apiKeys === undefined && this.#tokens === undefined) return { client: "", tenant: "" };
    const credential = bearer.exec(authorization ?? "")?.[1];
    if (credential === undefined) return { problem: this.#unauthorized() };
    const client = await this.#apiKeys?.clientOf(credential);
    if (client !== undefined) return { client, tenant: `key:${sha256(credential).toString("hex")}` };
    if (this.#tokens === undefined || !looksLikeToken(credential)) return { problem: this.#unauthorized() };
    const caller = await checkToken(credential, this.#tokens.jwt, this.#tokens.keys.find);
    return "problem" in caller ? caller : { ...caller, tenant: `client:${caller.client}` };
  }

  close(): void {
    this.#tokens?.keys.close();
  }

  #unauthorized(): Problem {
    return problems.unauthorized({ apiKey: this.#apiKeys !== undefined, issuer: this.#tokens?.jwt.issuer });
  }
}

/** Blocks readiness until the first successful read (DECISIONS.md 6). */
function issuerKeys(
  jwt: GatewayJwt,
  { health, ...options }: { readonly log: Log; readonly limits: IssuerLimits; readonly health: Health },
) {
  let known = false;
  health.notReady("issuer", `the keys of ${jwt.issuer} are being read`);
  const onRead = (missing: string | undefined) => {
    known ||= missing === undefined;
    if (known) health.ready("issuer");
    else health.notReady("issuer", missing ?? "");
    if (known && missing !== undefined) health.warn("issuer", missing);
  };
  return new IssuerKeys(jwt, { ...options, onRead });
}
