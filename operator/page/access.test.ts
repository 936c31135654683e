import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import type { PageAccess } from "../../crds/names.ts";
import { Access, cookieName, sessionMs } from "./access.ts";
import { freshMs, Readers } from "./readers.ts";
import { unbounded } from "./scope.ts";

const usersToken = "eyJh-bGciOi.JSUzI1_Ni+/~Iw==";
const secret = "correct-horse-battery";
const nobody = { address: "10.0.0.1", host: "page.example", authorization: undefined, cookie: undefined };

function made(access: PageAccess) {
  const state: { now: number; token: string | undefined; down: boolean } = { now: 1_000_000, token: secret, down: false };
  const known = new Set<string>();
  const readers = {
    knows: (token: string) => known.has(token),
    of: async (token: string) => {
      if (state.down) throw new AppError("connection refused", { code: "Unavailable" });
      known.add(token);
      return token === usersToken ? () => unbounded : undefined;
    },
  };
  const parts = { access, token: async () => state.token, readers, scope: unbounded, now: () => state.now };
  return { state, access: new Access(parts) };
}

const cookieOf = (answer: object): string => ("cookie" in answer ? String(answer.cookie).split(";", 1)[0]! : assert.fail("no cookie"));

test("a forwarded port is read at the reader's own machine, under no other name", async () => {
  const { access } = made("PortForward");
  for (const host of ["localhost:9466", "127.0.0.1:9466", "[::1]:9466", "localhost"])
    assert.equal((await access.ask({ ...nobody, host })).may, "read", host);
  for (const host of ["evil.example:9466", "localhost.evil.example", "", undefined])
    assert.equal((await access.ask({ ...nobody, host })).may, "nothing", host);
});

test("behind the API server's proxy whoever comes may read, and there is nothing to sign in with", async () => {
  const { access } = made("Proxy");
  assert.equal((await access.ask(nobody)).may, "read");
  assert.ok(!("cookie" in (await access.signIn(nobody.address, secret))));
});

test("the token lets in, by header or by a session that it began; another token does not", async () => {
  const { access } = made("Token");
  assert.equal((await access.ask(nobody)).may, "signIn");
  assert.equal((await access.ask({ ...nobody, authorization: `Bearer ${secret}` })).may, "read");
  assert.equal((await access.ask({ ...nobody, authorization: "Bearer wrong" })).may, "signIn");
  const cookie = cookieOf(await access.signIn(nobody.address, secret));
  assert.equal((await access.ask({ ...nobody, cookie: `a=1; ${cookie}; b=2` })).may, "read");
  assert.ok(!("cookie" in (await access.signIn(nobody.address, "wrong"))));
});

test("a session ends with its time and with its token, and cannot be lengthened", async () => {
  const { access, state } = made("Token");
  const cookie = cookieOf(await access.signIn(nobody.address, secret));
  const mark = cookie.split(".")[1];
  assert.equal((await access.ask({ ...nobody, cookie: `${cookieName}=${state.now + 10 * sessionMs}.${mark}` })).may, "signIn");
  state.now += sessionMs - 1;
  assert.equal((await access.ask({ ...nobody, cookie })).may, "read");
  state.token = "another-token-of-theirs";
  assert.equal((await access.ask({ ...nobody, cookie })).may, "signIn");
  state.token = secret;
  state.now += 1;
  assert.equal((await access.ask({ ...nobody, cookie })).may, "signIn");
});

test("without a token, or with one that could be guessed, nobody is let in", async () => {
  for (const token of [undefined, "", "short", " ".repeat(40)]) {
    const { access, state } = made("Token");
    state.token = token;
    const answer = await access.ask({ ...nobody, authorization: `Bearer ${token}` });
    assert.ok(answer.may === "nothing" && answer.status === 503, token);
    assert.ok(!("cookie" in (await access.signIn(nobody.address, token ?? ""))));
  }
});

test("wrong tokens are answered so often in a minute and address, and the right one is let in at any time", async () => {
  const { access, state } = made("Token");
  const ask = (token: string, address = nobody.address) => access.ask({ ...nobody, address, authorization: `Bearer ${token}` });
  for (let n = 0; n < 60; n++) assert.equal((await ask("wrong")).may, "signIn");
  const answer = await ask("wrong");
  assert.ok(answer.may === "nothing" && answer.status === 429);
  assert.equal((await ask(secret)).may, "read");
  assert.ok("cookie" in (await access.signIn(nobody.address, secret)));
  assert.equal((await ask("wrong", "10.0.0.2")).may, "signIn");
  state.now += 60_001;
  assert.equal((await ask("wrong")).may, "signIn");
});

test("a token of the cluster lets its user in, by header or by the cookie that it becomes; no replica has to remember it", async () => {
  const { access } = made("ClusterToken");
  assert.equal((await access.ask(nobody)).may, "signIn");
  const cookie = cookieOf(await access.signIn(nobody.address, ` ${usersToken}\n`));
  const another = made("ClusterToken").access;
  assert.equal((await another.ask({ ...nobody, cookie: `a=1; ${cookie}; b=2` })).may, "read");
  assert.equal((await another.ask({ ...nobody, authorization: `Bearer ${usersToken}` })).may, "read");
  for (const wrong of ["wrong", "", secret, `${usersToken}\r\nx: y`, `${usersToken}; Path=/`, "x".repeat(3_801)]) {
    assert.equal((await access.ask({ ...nobody, authorization: `Bearer ${wrong}` })).may, "signIn", wrong);
    assert.ok(!("cookie" in (await access.signIn(nobody.address, wrong))), wrong);
  }
});

test("a user whose answer is old is asked about again and let in, however many wrong tokens others send meanwhile", async () => {
  const state = { now: 1_000_000, asked: 0, taken: false };
  const rightsOf = (token: string) => async () => {
    state.asked += 1;
    if (token !== usersToken || state.taken) throw new AppError("Unauthorized", { code: "Unauthorized" });
    return true;
  };
  const now = () => state.now;
  const readers = new Readers({ rightsOf, namespaces: () => ({ deployments: [], jobs: [] }), bound: "all", now });
  const access = new Access({ access: "ClusterToken", token: async () => undefined, readers, scope: unbounded, now });
  const ask = async (token: string) => (await access.ask({ ...nobody, authorization: `Bearer ${token}` })).may;
  assert.equal(await ask(usersToken), "read");
  state.now += freshMs;
  for (let n = 0; n < 60; n++) await ask(`wrong-${n}`);
  assert.equal(await ask("wrong-60"), "nothing");
  assert.equal(await ask(usersToken), "read");
  state.taken = true;
  state.now += freshMs;
  assert.equal(await ask(usersToken), "signIn", "the server's word counts, not the memory of it");
  state.now += freshMs;
  for (let n = 0; n < 60; n++) await ask(`wrong-again-${n}`);
  const { asked } = state;
  assert.equal(await ask(usersToken), "nothing", "a token that is none any more is as any other");
  assert.equal(state.asked, asked);
});

test("wrong tokens of the cluster are asked about so often in a minute; those that are known cost nothing", async () => {
  const { access, state } = made("ClusterToken");
  const ask = (token: string) => access.ask({ ...nobody, authorization: `Bearer ${token}` });
  for (let n = 0; n < 60; n++) assert.equal((await ask(`wrong-${n}`)).may, "signIn");
  const refused = await ask("wrong-60");
  assert.ok(refused.may === "nothing" && refused.status === 429);
  const elsewhere = { ...nobody, address: "10.0.0.2", authorization: `Bearer ${usersToken}` };
  assert.equal((await access.ask(elsewhere)).may, "read", "another address is not locked out, before its user is known");
  assert.equal((await ask("wrong-1")).may, "signIn");
  assert.equal((await ask(usersToken)).may, "read");
  state.down = true;
  state.now += 60_001;
  const unknown = await ask("a-new-one");
  assert.ok(unknown.may === "nothing" && unknown.status === 503 && /connection refused/.test(unknown.why));
});
