// Tokens of an issuer as keys of a gateway: a real issuer over HTTPS on loopback, its keys read, changed, lost and found again.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, test } from "node:test";
import { gatewayJwt } from "../../../crds/gateway-jwt.ts";
import { chat, metric, post, useGateways } from "../../../test/kit/gateway/gateway-host.ts";
import { TestIssuer } from "../../../test/kit/gateway/issuer.ts";
import { createTestCa, type TestCa } from "../../../test/kit/network/certs.ts";
import { until } from "../../../test/kit/wait.ts";
import { issuerLimits } from "./issuer-keys.ts";

const { startAll, onEnd } = useGateways();
let ca: TestCa;
before(() => {
  ca = createTestCa();
});

const now = (): number => Math.floor(Date.now() / 1000);

async function issuerOf(port = 0): Promise<TestIssuer> {
  const issuer = await TestIssuer.start(ca, port);
  onEnd(() => issuer.close());
  return issuer;
}

const jwtOf = ({ url }: TestIssuer, more: object = {}) => gatewayJwt.parse({ issuer: url, audience: "enodia", ...more });
const models = (url: string, token?: string) =>
  fetch(`${url}/v1/models`, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });
const ready = async (probePort: number) => {
  const response = await fetch(`http://127.0.0.1:${probePort}/readyz`);
  return { ready: response.status === 200, text: await response.text() };
};

test("a token of the issuer lets its client in, with the limits and the priority that client and token have", async () => {
  const issuer = await issuerOf();
  const clients = [{ name: "batch", requestsPerMinute: 2, priority: 7 }];
  const { url, workers, gateway } = await startAll([{}], { jwt: jwtOf(issuer, { claims: { priority: "rank" } }), clients });
  const ask = async (claims: Record<string, unknown>, extra: object = {}) =>
    post(`${url}/v1/chat/completions`, chat(extra), { authorization: `Bearer ${await issuer.sign(claims)}` });
  assert.equal((await ask({})).status, 200);
  assert.equal((await ask({ rank: -2 }, { priority: -5 })).status, 200);
  const refused = await ask({});
  assert.equal(refused.status, 429, "the third request of one client in a minute");
  assert.equal((await ask({ sub: "system:serviceaccount:team:eval" })).status, 200, "who is not listed has no limits");
  assert.deepEqual(
    workers[0]!.requests.map(({ priority }) => priority),
    [7, -2, 0],
  );
  assert.equal((await ready(gateway.probePort)).ready, true);
  assert.deepEqual(issuer.asked, ["/.well-known/openid-configuration", "/keys"], "the keys were read once");
});

/** Tokens that are refused -> what is said, and those that differ from them in one point and are let in. */
const judged: readonly [what: string, token: (issuer: TestIssuer) => string | Promise<string>, says: RegExp | undefined][] = [
  ["one that expired", (i) => i.sign({ exp: now() - 40 }), /expired/],
  ["one that expired by a clock that is a little ahead", (i) => i.sign({ exp: now() - 15 }), undefined],
  ["one without an end", (i) => i.sign({ exp: undefined }), /never expires/],
  ["one that is not valid yet", (i) => i.sign({ nbf: now() + 60 }), /not valid yet/],
  ["one that begins by a clock that is a little ahead", (i) => i.sign({ nbf: now() + 15 }), undefined],
  ["one for others", (i) => i.sign({ aud: "other" }), /audience enodia/],
  ["one for others too", (i) => i.sign({ aud: ["other", "enodia"] }), undefined],
  ["one for nobody", (i) => i.sign({ aud: undefined }), /audience enodia/],
  ["one of another issuer", (i) => i.sign({ iss: "https://other.test" }), /issuer https:/],
  ["one without a signature", (i) => i.unsigned(), /signed in a way/],
  ["one signed with what is public", (i) => i.sign({}, { alg: "HS256", key: Buffer.from(i.published) }), /signed in a way/],
  ["one of a key that nobody published", (i) => i.sign({}, { kid: "unknown" }), /no key of/],
  ["one with a changed claim", async (i) => swapped(await i.sign({ sub: "a" }), await i.sign({ sub: "b" })), /signature/],
  ["one without a client", (i) => i.sign({ sub: undefined }), /claim sub/],
  ["one whose client is a number", (i) => i.sign({ sub: 5 }), /claim sub/],
  ["one whose client is too long", (i) => i.sign({ sub: "x".repeat(254) }), /claim sub/],
  ["one with a priority that is a text", (i) => i.sign({ rank: "high" }), /claim rank/],
  ["one with a priority out of bounds", (i) => i.sign({ rank: 1_001 }), /claim rank/],
  ["one that is too long", (i) => i.sign({ x: "x".repeat(9_000) }), /at most 8192/],
  ["something with two dots", () => "a.b.c", /cannot be read/],
];
const swapped = (a: string, b: string): string => [a.split(".")[0], b.split(".")[1], a.split(".")[2]].join(".");

test("a token that is not good is refused with the reason, as OpenAI's clients and RFC 6750 have it", async () => {
  const issuer = await issuerOf();
  const { url, gateway } = await startAll([{}], { jwt: jwtOf(issuer, { claims: { priority: "rank" } }) });
  for (const [what, token, says] of judged) {
    const response = await models(url, await token(issuer));
    const { error }: any = await response.json();
    assert.equal(response.status, says ? 401 : 200, `${what}: ${error?.message}`);
    if (says === undefined) continue;
    assert.match(error.message, says, what);
    assert.deepEqual([error.type, error.code, error.param], ["invalid_request_error", "invalid_token", null], what);
    assert.match(response.headers.get("www-authenticate") ?? "", /^Bearer error="invalid_token", error_description="[^"\\]+"$/, what);
  }
  const bare = await models(url);
  assert.deepEqual([bare.status, bare.headers.get("www-authenticate")], [401, "Bearer"]);
  assert.match(((await bare.json()) as any).error.message, new RegExp(`token of ${issuer.url}`));
  assert.equal(
    await metric(gateway, 'enodia_gateway_rejected_total{reason="unauthorized"'),
    judged.filter(([, , says]) => says).length + 1,
  );
});

test("keys and tokens stand beside each other, and a wrong one of either is refused", async () => {
  const issuer = await issuerOf();
  const dir = await mkdtemp(join(tmpdir(), "enodia-key-"));
  onEnd(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, "key"), "secret\nlooks.like.one\n");
  const { url } = await startAll([{}], { jwt: jwtOf(issuer), apiKeyFile: join(dir, "key") });
  const status = async (shown: string) => (await models(url, shown)).status;
  assert.deepEqual([await status("secret"), await status("looks.like.one"), await status(await issuer.sign())], [200, 200, 200]);
  assert.deepEqual([await status("wrong"), await status("looks.like.two"), await status(`${await issuer.sign()}x`)], [401, 401, 401]);
});

test("a new key of the issuer counts at its first token, and tokens with made-up keys cost one reading in each gap", async () => {
  const issuer = await issuerOf();
  const gapMs = 1_000;
  const { url } = await startAll([{}], { jwt: jwtOf(issuer) }, { issuerLimits: { ...issuerLimits, gapMs } });
  const old = await issuer.sign();
  assert.equal((await models(url, old)).status, 200);
  await issuer.rotate("second", "RS256");
  await new Promise((resolve) => setTimeout(resolve, gapMs));
  assert.equal((await models(url, await issuer.sign({}, { alg: "RS256" }))).status, 200);
  assert.equal((await models(url, old)).status, 401, "the withdrawn key counts no longer");
  await new Promise((resolve) => setTimeout(resolve, gapMs));
  const before = issuer.asked.length;
  const begun = performance.now();
  const made = await issuer.sign({}, { kid: "made-up" });
  const answers = await Promise.all(Array.from({ length: 50 }, () => models(url, made)));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [401]);
  const readings = issuer.asked.slice(before).filter((path) => path === "/keys").length;
  const most = 1 + Math.floor((performance.now() - begun) / gapMs);
  assert.ok(readings >= 1 && readings <= most, `${readings} readings, at most ${most}`);
});

test("the last keys count while the issuer is away, for a time; then tokens wait for it with 503, and it may come back", async () => {
  const first = await issuerOf();
  const { port } = first;
  const limits = { ...issuerLimits, refreshMs: 100, gapMs: 100, trustMs: 2_000 };
  const { url, gateway } = await startAll([{}], { jwt: jwtOf(first) }, { issuerLimits: limits });
  const token = await first.sign();
  assert.equal((await models(url, token)).status, 200);
  first.answer = () => ({ status: 500 });
  const seen = first.asked.length;
  await until("it was asked and failed", () => first.asked.length > seen + 2);
  assert.equal((await models(url, token)).status, 200, "the issuer is away, its keys are known");
  await first.close();
  await until("nobody trusts them any more", async () => (await models(url, token)).status === 503);
  const refused = await models(url, token);
  const { error }: any = await refused.json();
  assert.deepEqual([refused.status, error.code, refused.headers.get("retry-after")], [503, "issuer_unavailable", "1"]);
  await until("it is warned of", async () => /issuer/.test((await ready(gateway.probePort)).text));
  assert.equal((await ready(gateway.probePort)).ready, true, "a gateway that knew the keys once stays in the Service");
  assert.ok((await metric(gateway, 'enodia_gateway_rejected_total{reason="issuer_away"')) >= 1);
  const again = await issuerOf(port);
  await until("it is asked again", async () => (await models(url, await again.sign())).status === 200);
});

/** Answers that are no keys -> what readiness says. */
const unusable: readonly [what: string, answer: TestIssuer["answer"], says: RegExp][] = [
  ["a page that is not there", () => ({ status: 404 }), /status 404/],
  ["no JSON", () => ({ status: 200, body: "<html>" }), /JSON/],
  [
    "another issuer",
    () => ({ status: 200, body: `{"issuer":"https://x.test","jwks_uri":"https://x.test/k"}` }),
    /is of issuer https:\/\/x.test/,
  ],
  ["keys in plain HTTP", () => ({ status: 200, body: `{"issuer":"https://x.test","jwks_uri":"http://x.test/k"}` }), /jwks_uri/],
  ["a way to elsewhere", () => ({ status: 302, location: "/keys" }), /redirect/],
  ["too much", () => ({ status: 200, body: `{"x":"${"x".repeat(300_000)}"}` }), /more than 262144 bytes/],
  ["too many keys", keys({ keys: Array.from({ length: 65 }, () => ({ kty: "EC" })) }), /keys/],
  ["no list of keys", keys({ keys: "none" }), /keys/],
];
function keys(body: object): TestIssuer["answer"] {
  return (path) => (path === "/keys" ? { status: 200, body: JSON.stringify(body) } : undefined);
}

test("a gateway that has not read the keys is not ready, says why, lets nobody in, and goes on by itself", async () => {
  for (const [what, answer, says] of unusable) {
    const issuer = await issuerOf();
    issuer.answer = answer;
    const { url, gateway } = await startAll([{}], { jwt: jwtOf(issuer) }, { issuerLimits: { ...issuerLimits, gapMs: 200 } });
    await until(what, async () => says.test((await ready(gateway.probePort)).text));
    assert.equal((await ready(gateway.probePort)).ready, false, what);
    assert.equal((await models(url, await issuer.sign())).status, 503, what);
    issuer.answer = () => undefined;
    await until(`ready after ${what}`, async () => (await ready(gateway.probePort)).ready);
    assert.equal((await models(url, await issuer.sign())).status, 200, what);
  }
});

test("keys whose place is given are read there, and nothing is discovered", async () => {
  const issuer = await issuerOf();
  const { url } = await startAll([{}], { jwt: jwtOf(issuer, { jwksUri: `${issuer.url}/keys` }) });
  assert.equal((await models(url, await issuer.sign())).status, 200);
  assert.deepEqual(issuer.asked, ["/keys"]);
});
