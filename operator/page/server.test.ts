// The server over real sockets: who is let in, that it is read-only, what it sends to browsers, and the bounds of its streams.

import assert from "node:assert/strict";
import { get, type IncomingMessage, request } from "node:http";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { PageAccess } from "../../crds/names.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { until } from "../../test/kit/wait.ts";
import { servePage } from "./server.ts";
import { PageState } from "./state.ts";
import { clientsMax } from "./streams.ts";

const secret = "correct-horse-battery";
const moed = (message: string) => {
  const conditions = [{ type: "Ready", status: "True", reason: "Fine", message, lastTransitionTime: "2026-03-01T10:00:00Z" }];
  return {
    apiVersion: "x",
    kind: "MoEDeployment",
    metadata: { namespace: "ns", name: "a", uid: "u" },
    spec: { model: { uri: "pvc://m/x" } },
    status: { conditions },
  };
};

async function served(access: PageAccess, run: (made: Made) => Promise<void>): Promise<void> {
  const state = { now: 1_700_000_000_000, message: "it is well" };
  const pageState = new PageState({
    cache: { list: (name) => (name === "moeDeployments" ? [moed(state.message)] : []) },
    warnings: { of: () => ({ events: [], unread: [] }) },
    now: () => state.now,
  });
  const stop = pageState.lead({ placement: () => undefined });
  const server = await servePage({
    pageState,
    access,
    port: 0,
    token: async () => secret,
    rightsOf: () => async () => false,
    log: silentLog,
    now: () => state.now,
  });
  try {
    await run({ pageState, state, stop, port: server.port });
  } finally {
    await server.close();
  }
}

interface Made {
  readonly pageState: PageState;
  readonly state: { now: number; message: string };
  readonly stop: () => void;
  readonly port: number;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

async function bodyOf(response: IncomingMessage): Promise<string> {
  let body = "";
  for await (const chunk of response) body += chunk;
  return body;
}

const ask = (
  port: number,
  path: string,
  more: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const { body, ...options } = more;
    const asked = request({ port, path, ...options }, (response) => {
      bodyOf(response).then((text) => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }), reject);
    });
    asked.on("error", reject);
    asked.end(body);
  });

/** The events of a stream as they come. */
async function stream(port: number, path = "/events"): Promise<{ readonly events: string[]; readonly response: IncomingMessage }> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => get({ port, path, agent: false }, resolve).on("error", reject));
  const events: string[] = [];
  response.on("data", (chunk) => events.push(String(chunk)));
  response.on("error", () => {});
  return { events, response };
}

test("each answer is closed to other origins, scripts and frames", async () => {
  await served("Proxy", async ({ port }) => {
    for (const path of ["/", "/deployment?namespace=ns&name=a", "/page.js", "/page.css", "/nothing", "/job"]) {
      const { headers } = await ask(port, path);
      assert.match(String(headers["content-security-policy"]), /^default-src 'none'; script-src 'self';/, path);
      assert.equal(headers["x-content-type-options"], "nosniff");
      assert.equal(headers["access-control-allow-origin"], undefined);
    }
    const { headers, response } = await stream(port).then(({ response }) => ({ headers: response.headers, response }));
    assert.match(String(headers["content-security-policy"]), /frame-ancestors 'none'/);
    response.destroy();
  });
});

test("it is read-only, and knows its pages alone", async () => {
  await served("Proxy", async ({ port }) => {
    for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
      assert.equal((await ask(port, "/", { method })).status, 405, method);
    for (const path of ["/nothing", "/static/page.js", "/..%2fmain.ts", "/constructor", "/__proto__"])
      assert.equal((await ask(port, path)).status, 404, path);
    assert.equal((await ask(port, `/?search=${"x".repeat(4_000)}`)).status, 414);
    assert.deepEqual(await ask(port, "/", { method: "HEAD" }).then(({ status, body }) => [status, body]), [200, ""]);
  });
});

test("without the token there is a form and nothing of the cluster; with it a session", async () => {
  await served("Token", async ({ port }) => {
    const closed = await ask(port, "/");
    assert.deepEqual([closed.status, closed.body.includes("it is well")], [401, false]);
    assert.equal((await ask(port, "/events")).status, 401);
    const wrong = await ask(port, "/sign-in", { method: "POST", body: "token=wrong" });
    assert.deepEqual([wrong.status, wrong.headers["set-cookie"]], [401, undefined]);
    const right = await ask(port, "/sign-in", { method: "POST", body: `token=${secret}` });
    assert.deepEqual([right.status, right.headers.location], [303, "./"]);
    const [cookie = ""] = right.headers["set-cookie"] ?? [];
    assert.match(cookie, /HttpOnly; SameSite=Strict/);
    const open = await ask(port, "/", { headers: { cookie: cookie.split(";", 1)[0] ?? "" } });
    assert.deepEqual([open.status, open.body.includes("it is well")], [200, true]);
  });
});

test("a forwarded port is answered on the loopback alone", async () => {
  await served("PortForward", async ({ port }) => {
    assert.equal((await ask(port, "/", { headers: { host: `localhost:${port}` } })).status, 200);
    assert.equal((await ask(port, "/", { headers: { host: "evil.example" } })).status, 403);
  });
});

test("a stream has the whole page first, then what has changed", async () => {
  await served("Proxy", async ({ port, state }) => {
    const { events, response } = await stream(port);
    await until("the whole page", () => events.join("").includes("it is well"));
    assert.match(events.join(""), /"sections":\{"summary":".*,"deployments":".*,"jobs":/);
    events.length = 0;
    state.message = "it is better";
    await until("the change", () => events.join("").includes("it is better"));
    assert.ok(!events.join("").includes('"jobs"'), "what has not changed is not sent again");
    events.length = 0;
    state.now += 10_000;
    await until("a sign of life", () => events.join("").includes("event: alive"));
    response.destroy();
  });
});

test("a replica that does not lead shows nothing of the cluster, says who leads, and ends its streams", async () => {
  await served("Proxy", async ({ port, pageState, stop }) => {
    const { events, response } = await stream(port);
    const ended = new Promise((resolve) => response.once("end", resolve));
    stop();
    pageState.follow("enodia-other");
    await ended;
    assert.match(events.join(""), /event: standby\ndata: \{"leader":"enodia-other"\}/);
    const page = await ask(port, "/");
    assert.deepEqual([page.status, page.body.includes("it is well")], [503, false]);
    assert.match(page.body, /<b>enodia-other<\/b> leads/);
  });
});

test("so many look on at once, and one who leaves makes room", async () => {
  await served("Proxy", async ({ port }) => {
    const streams = await Promise.all(Array.from({ length: clientsMax }, () => stream(port)));
    assert.equal((await ask(port, "/events")).status, 503);
    streams[0]?.response.destroy();
    let last = 503;
    for (let n = 0; n < 100 && last === 503; n++) {
      const { response } = await stream(port);
      last = response.statusCode ?? 0;
      response.destroy();
      await sleep(20);
    }
    assert.equal(last, 200);
    for (const { response } of streams) response.destroy();
  });
});
