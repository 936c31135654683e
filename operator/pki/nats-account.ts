// The account of the chart's NATS, and the users that it signs. The server knows operator and account by its configuration, which has no
// secret, so that users come and go without it.
import { createAccount, createOperator, createUser, fromSeed, type KeyPair } from "@nats-io/nkeys";
import { AppError } from "../../crds/common.ts";

/** Nobody but the operator has them. */
export type NatsSeeds = Readonly<Record<"operator" | "account", string>>;

export interface NatsUser {
  readonly name: string;
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

const lifeSeconds = 60 * 24 * 3600;
const unlimited = -1;
const userLimits = { subs: unlimited, data: unlimited, payload: unlimited };
const accountLimits = { ...userLimits, imports: unlimited, exports: unlimited, wildcards: true, conn: unlimited, leaf: unlimited };

export const freshSeeds = (): NatsSeeds => ({ operator: seedOf(createOperator()), account: seedOf(createAccount()) });

export class NatsAccount {
  /** What a nats-server is started with; the same for the same seeds. */
  readonly serverConfig: string;
  readonly #sign: (claims: object) => string;
  readonly #name: string;

  constructor({ operator, account }: NatsSeeds) {
    const [above, own] = [keysOf(operator), keysOf(account)];
    const [aboveName, name] = [above.getPublicKey(), own.getPublicKey()];
    this.#name = name;
    this.#sign = (claims) => signed(own, { iss: name, ...claims });
    const known = (sub: string, claims: object) => signed(above, { iss: aboveName, sub, ...claims });
    const self = known(aboveName, { name: "enodia", nats: { type: "operator", version: 2 } });
    const load = known(name, { name: "load", nats: { type: "account", version: 2, limits: accountLimits } });
    this.serverConfig = `operator: ${self}\nresolver: MEMORY\nresolver_preload: { ${name}: ${load} }\n`;
  }

  /** A credentials file: `former` while half of its time is left and it grants the same. */
  credentials(user: NatsUser, now: Date, former = ""): string {
    const seconds = Math.floor(now.getTime() / 1000);
    const grant = grantOf(user);
    if (this.#secondsLeft(former, grant, seconds) > lifeSeconds / 2) return former;
    const keys = createUser();
    const jwt = this.#sign({ sub: keys.getPublicKey(), exp: seconds + lifeSeconds, ...grant });
    return `${block("NATS USER JWT", jwt)}\n${block("USER NKEY SEED", seedOf(keys))}`;
  }

  /** 0 for another account or grant. Its signature is left to the server: JavaScript takes milliseconds for it. */
  #secondsLeft(credentials: string, grant: object, seconds: number): number {
    const [, claims = ""] = claimsOfJwt.exec(credentials) ?? [];
    try {
      const { iss, sub: _, exp, ...granted } = JSON.parse(Buffer.from(claims, "base64url").toString());
      return iss === this.#name && JSON.stringify(granted) === JSON.stringify(grant) ? exp - seconds : 0;
    } catch {
      return 0;
    }
  }
}

const block = (what: string, text: string): string => `-----BEGIN ${what}-----\n${text}\n------END ${what}------\n`;
const claimsOfJwt = /^-----BEGIN NATS USER JWT-----\n[\w-]+\.([\w-]+)\.[\w-]+\n/;

function grantOf({ name, publish, subscribe }: NatsUser) {
  const to = (subjects: readonly string[]) => (subjects.length > 0 ? { allow: subjects } : { deny: [">"] });
  return { name, nats: { type: "user", version: 2, pub: to(publish), sub: to(subscribe), ...userLimits } };
}

function signed(by: KeyPair, claims: object): string {
  const parts = [{ typ: "JWT", alg: "ed25519-nkey" }, claims];
  const body = parts.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  return `${body}.${Buffer.from(by.sign(Buffer.from(body))).toString("base64url")}`;
}

const seedOf = (keys: KeyPair): string => Buffer.from(keys.getSeed()).toString();

function keysOf(seed: string): KeyPair {
  try {
    return fromSeed(Buffer.from(seed));
  } catch {
    throw new AppError("a seed of the NATS keys cannot be read: delete their Secret, and new ones are made", {
      code: "NatsKeysUnusable",
      operation: "issuing NATS users",
    });
  }
}
