// Tokens that are shown to a gateway, by clients of the issuer and by those who would like to be one: forged, altered, of another's key, of
// another audience, out of time. Who is let in is judged by what the token was made of, with no code of the product or of its library.
import assert from "node:assert/strict";
import { constants, createHmac, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import { claimBounds, type GatewayJwt } from "../../../crds/gateway-jwt.ts";
import { checkToken, looksLikeToken } from "../../../runtime/gateway/auth/access-token.ts";
import { publishedKeys } from "../../kit/gateway/issuer.ts";
import type { Fuzzer } from "../fuzzer.ts";
import { damagedJson, type Random } from "../mutate.ts";
import { chance, json, number, pick, text, times } from "../words.ts";

type Pair = { readonly publicKey: KeyObject; readonly privateKey: KeyObject };
type Json = Readonly<Record<string, unknown>>;

/** Keys of an owner by the name under which the issuer publishes its own. */
const keyMakers = {
  rsa: (): Pair => generateKeyPairSync("rsa", { modulusLength: 2048 }),
  ec: (): Pair => generateKeyPairSync("ec", { namedCurve: "P-256" }),
  ed: (): Pair => generateKeyPairSync("ed25519"),
};
type KeyName = keyof typeof keyMakers;
type Keys = Readonly<Record<KeyName, Pair>>;
const keysOf = (): Keys => ({ rsa: keyMakers.rsa(), ec: keyMakers.ec(), ed: keyMakers.ed() });

const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
/** HS256 is by what everybody knows, the public key, and `none` by nothing. */
const ways = {
  RS256: { key: "rsa", sign: (data: Buffer, { privateKey }: Pair) => sign("sha256", data, privateKey) },
  PS256: { key: "rsa", sign: (data: Buffer, { privateKey }: Pair) => sign("sha256", data, { key: privateKey, ...pss }) },
  ES256: { key: "ec", sign: (data: Buffer, { privateKey }: Pair) => sign("sha256", data, { key: privateKey, dsaEncoding: "ieee-p1363" }) },
  EdDSA: { key: "ed", sign: (data: Buffer, { privateKey }: Pair) => sign(null, data, privateKey) },
  HS256: {
    key: "rsa",
    sign: (data: Buffer, { publicKey }: Pair) =>
      createHmac("sha256", publicKey.export({ type: "spki", format: "pem" }))
        .update(data)
        .digest(),
  },
  none: { key: "rsa", sign: () => Buffer.alloc(0) },
} as const;
type Way = keyof typeof ways;
const proving: readonly Way[] = ["ES256", "ES256", "EdDSA", "EdDSA", "RS256", "PS256"];

interface Input {
  readonly way: Way;
  readonly owner: "issuer" | "stranger";
  readonly header: Json;
  /** JSON mostly; `$exp` and `$nbf` in it stand for times this far from now. */
  readonly payload: string;
  readonly seconds: { readonly exp: number; readonly nbf: number };
  /** Made after the signature. */
  readonly edits: readonly { readonly at: number; readonly remove: number; readonly insert: string }[];
}

interface Subject {
  readonly keys: Readonly<Record<Input["owner"], Keys>>;
  readonly find: Parameters<typeof checkToken>[2];
  readonly check: typeof checkToken;
}

const issuer = "https://issuer.example/realms/a";
const audience = "enodia";
const claims = { client: "sub", priority: "prio" } as const;
const jwt: GatewayJwt = { issuer, audience, claims };
const tokenCharsMax = 8_192;
const messageCharsMax = 1_000;
/** Far from now and from the tolerance of clocks, whatever else the machine does. */
const past = [-300, -3_600, -1e9];
const future = [300, 3_600, 1e9];

const usually = <T>(random: Random, right: readonly T[], wrong: readonly (() => unknown)[]): unknown =>
  chance(random, 95) ? pick(random, right) : pick(random, wrong)();

function headerOf(random: Random, way: Way): Json {
  const algs = [() => pick(random, Object.keys(ways)), () => "Ed25519", () => "RS1", () => text(random), () => json(random, 1)];
  const header: Record<string, unknown> = { alg: usually(random, [way], algs) };
  if (chance(random, 90))
    header.kid = usually(random, [ways[way].key], [() => pick(random, Object.keys(keyMakers)), () => text(random), () => json(random, 1)]);
  if (chance(random, 50)) header.typ = usually(random, ["JWT", "at+jwt"], [() => json(random, 1)]);
  if (!chance(random, 12)) return header;
  const more: readonly Json[] = [
    { crit: ["b64"], b64: false },
    { crit: ["exp"], exp: 1 },
    { crit: [] },
    { b64: false },
    { jku: "https://evil.example/keys" },
    { jwk: { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" } },
    { x5c: ["MIIB"] },
    { zip: "DEF" },
    { enc: "A256GCM" },
    { [text(random, 4)]: json(random) },
  ];
  return { ...header, ...pick(random, more) };
}

function payloadOf(random: Random): string {
  const anything = () => json(random);
  const name = chance(random, 50) ? "a" : text(random) || "b";
  const payload: Record<string, unknown> = {
    iss: usually(random, [issuer], [() => `${issuer}/`, () => issuer.toUpperCase(), () => [issuer], anything]),
    aud: usually(
      random,
      [audience, [audience], ["x", audience]],
      [() => "x", () => [], () => [[audience]], () => `${audience}x`, anything],
    ),
    sub: usually(random, [name, "x".repeat(claimBounds.clientLength)], [() => "", () => "x".repeat(254), () => "é".repeat(253), anything]),
    exp: usually(random, ["$exp"], [() => "2999", () => undefined, anything]),
  };
  if (chance(random, 40)) payload.prio = usually(random, [random(2_001) - 1_000], [() => 1_001, () => 0.5, () => number(random), anything]);
  if (chance(random, 30)) payload.nbf = usually(random, ["$nbf"], [anything]);
  if (chance(random, 20)) for (const key of times(random, 3, () => text(random, 4))) payload[key] = json(random);
  if (chance(random, 2)) payload.long = "x".repeat(random(8_000));
  const written = JSON.stringify(payload);
  const others = [
    () => text(random),
    () => JSON.stringify(anything()),
    () => JSON.stringify(damagedJson(payload, random)) ?? "",
    () => written.slice(0, random(written.length)),
    () => `{"aud":"x","sub":"b","__proto__":{"iss":"${issuer}"},${written.slice(1)}`,
    () => `${written.slice(0, -1)},"iss":"https://evil.example","toString":null}`,
    () => `[${written}]`,
  ];
  return chance(random, 94) ? written : pick(random, others)();
}

/** The text of the payload at this time. */
const timed = ({ payload, seconds }: Input, now: number): string =>
  payload.replaceAll('"$exp"', String(now + seconds.exp)).replaceAll('"$nbf"', String(now + seconds.nbf));

interface Made {
  readonly token: string;
  /** What was signed is as it was, and the signature stands for the same bytes, of which base64 has several texts. */
  readonly intact: boolean;
  readonly edited: boolean;
}

function madeOf({ keys }: Subject, input: Input, now: number): Made {
  const { sign: signed, key } = ways[input.way];
  const said = [JSON.stringify(input.header), timed(input, now)].map((part) => Buffer.from(part).toString("base64url")).join(".");
  const signature = signed(Buffer.from(said), keys[input.owner][key]);
  const whole = `${said}.${signature.toString("base64url")}`;
  let token = whole;
  for (const { at, remove, insert } of input.edits) {
    const place = at % (token.length + 1);
    token = token.slice(0, place) + insert + token.slice(place + remove);
  }
  const end = token.lastIndexOf(".");
  const intact = token.slice(0, end) === said && Buffer.from(token.slice(end + 1), "base64url").equals(signature);
  return { token, intact, edited: token !== whole };
}

interface Worth {
  /** The client and the priority that it may be let in with; undefined: it may not. */
  readonly caller: { readonly client: string; readonly priority?: number } | undefined;
  /** There is nothing in it that somebody could stumble over: if it may be let in, it has to be. */
  readonly plain: boolean;
}

function worthOf(input: Input, { token, intact, edited }: Made, now: number): Worth {
  const none = { caller: undefined, plain: true };
  const { header, way, owner } = input;
  const { key } = ways[way];
  if (!intact || !proving.includes(way) || owner !== "issuer" || token.length > tokenCharsMax) return none;
  const alsoEd = way === "EdDSA" && header.alg === "Ed25519";
  if ((header.alg !== way && !alsoEd) || (header.kid !== undefined && header.kid !== key)) return none;
  let said: any;
  try {
    said = JSON.parse(Buffer.from(timed(input, now)).toString());
  } catch {
    return none;
  }
  const { iss, aud, exp, nbf, sub, prio } = said ?? {};
  const meant = iss === issuer && (Array.isArray(aud) ? aud.includes(audience) : aud === audience);
  const inTime = typeof exp === "number" && exp > now && (nbf === undefined || (typeof nbf === "number" && nbf <= now));
  const named = typeof sub === "string" && sub !== "" && sub.length <= claimBounds.clientLength;
  const ranked = prio === undefined || (Number.isInteger(prio) && Math.abs(prio) <= claimBounds.priority);
  if (!meant || !inTime || !named || !ranked) return none;
  const plain = !edited && Object.keys(header).every((one) => ["alg", "kid", "typ"].includes(one)) && !("iat" in said);
  return { caller: prio === undefined ? { client: sub } : { client: sub, priority: prio }, plain };
}

const refusal = (message: string) => new AppError(message, { code: "BadToken", operation: "showing a token" });

export const tokens: Fuzzer<Subject, Input> = {
  name: "tokens",
  share: 60,
  deadlineMs: 5_000,
  refusals: ["BadToken"],
  start() {
    const keys = { issuer: keysOf(), stranger: keysOf() };
    const published = Object.entries(keys.issuer).map(([kid, { publicKey }]) => ({ ...publicKey.export({ format: "jwk" }), kid }));
    return { keys, find: publishedKeys(published), check: checkToken };
  },
  input(random) {
    const way = chance(random, 95) ? pick(random, proving) : pick(random, ["HS256", "none"] as const);
    const owner = chance(random, 95) ? "issuer" : "stranger";
    const seconds = {
      exp: chance(random, 95) ? pick(random, future) : pick(random, past),
      nbf: chance(random, 90) ? pick(random, past) : pick(random, future),
    };
    const edit = () => ({ at: random(2 ** 20), remove: random(3), insert: pick(random, ["", "A", "_", ".", "=", text(random, 3)]) });
    const edits = chance(random, 88) ? [] : times(random, 3, edit);
    return { way, owner, header: headerOf(random, way), payload: payloadOf(random), seconds, edits };
  },
  async attempt(tried, input) {
    const now = Math.floor(Date.now() / 1000);
    const made = madeOf(tried, input, now);
    const { caller, plain } = worthOf(input, made, now);
    if (!looksLikeToken(made.token)) {
      assert.ok(caller === undefined || !plain, "a good token does not look like one");
      throw refusal("it is no token");
    }
    const told = await tried.check(made.token, jwt, tried.find);
    if (!("problem" in told)) {
      assert.ok(caller, "somebody is let in who has no right to be");
      assert.deepEqual(told, caller);
      return;
    }
    const { status, message, challenge = "" } = told.problem;
    assert.ok(caller === undefined || !plain, `a good token is refused: ${message}`);
    assert.equal(status, 401);
    assert.ok(message.length <= messageCharsMax && !message.includes(made.token), message);
    assert.match(challenge, /^error="invalid_token", error_description="[ !#-[\]-~]+"$/);
    throw refusal(message);
  },
  /** Takes tokens that the issuer made for somebody else. */
  plant(tried) {
    const audienceOf = (token: string): unknown => {
      try {
        return JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()).aud;
      } catch {
        return undefined;
      }
    };
    const any = (token: string): string => [audienceOf(token) ?? audience].flat().find((one) => typeof one === "string") ?? audience;
    return { ...tried, check: (token, known, find) => checkToken(token, { ...known, audience: any(token) }, find) };
  },
};
