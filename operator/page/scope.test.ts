// Readers over real sockets: each sees their own namespaces, in pages and in streams that are open at once.

import assert from "node:assert/strict";
import { get, type IncomingMessage } from "node:http";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { until } from "../../test/kit/wait.ts";
import { staleMs } from "./readers.ts";
import { type PageServer, servePage } from "./server.ts";
import { PageState } from "./state.ts";
import { tickMs } from "./streams.ts";

const state = { now: 1_700_000_000_000, down: false };
const moed = (namespace: string) => ({
  apiVersion: "x",
  kind: "MoEDeployment",
  metadata: { namespace, name: `of-${namespace}`, uid: `u-${namespace}` },
  spec: { model: { uri: "pvc://m/x" } },
  status: {},
});

async function served(namespaces: readonly string[], run: (server: PageServer) => Promise<void>): Promise<void> {
  const objects = ["a", "b", "c"].map(moed);
  const pageState = new PageState({
    cache: { list: (kind) => (kind === "moeDeployments" ? objects : []) },
    warnings: { of: () => ({ events: [], unread: [] }) },
    now: () => state.now,
  });
  pageState.lead({ placement: () => undefined });
  const server = await servePage({
    pageState,
    access: "ClusterToken",
    port: 0,
    token: async () => undefined,
    // Each token names the namespaces of its user.
    rightsOf:
      (token) =>
      async ({ resource, namespace = "" }) => {
        if (state.down) throw new AppError("connection refused", { code: "Unavailable" });
        return resource === "moedeployments" && token.split("~").slice(1).includes(namespace);
      },
    namespaces,
    log: silentLog,
    now: () => state.now,
  });
  try {
    await run(server);
  } finally {
    await server.close();
  }
}

const open = (port: number, path: string, token: string): Promise<IncomingMessage> =>
  new Promise((resolve, reject) =>
    get({ port, path, agent: false, headers: { authorization: `Bearer ${token}` } }, resolve).on("error", reject),
  );
async function read(port: number, path: string, token: string): Promise<string> {
  let body = "";
  for await (const chunk of await open(port, path, token)) body += chunk;
  return body;
}
const shown = (text: string): string => [...new Set([...text.matchAll(/of-([abc])/g)].map(([, one]) => one))].sort().join("");

test("readers see their own namespaces, and no stream has what is another's", async () => {
  await served([], async ({ port }) => {
    assert.equal(shown(await read(port, "/", "user~a")), "a");
    assert.equal(shown(await read(port, "/", "user~b~c")), "bc");
    assert.equal(shown(await read(port, "/", "user")), "");
    assert.match(await read(port, "/deployment?namespace=b&name=of-b", "user~a"), /No such deployment/);
    const streams = await Promise.all(["user~a", "user~b~c"].map((token) => open(port, "/events", token)));
    const said = ["", ""];
    for (const [i, stream] of streams.entries()) stream.on("data", (chunk) => (said[i] += chunk)).on("error", () => {});
    await until("both to be told", () => said.every((text) => shown(text) !== ""));
    await sleep(2 * tickMs); // views of one look are made once for all who see the same
    assert.deepEqual(said.map(shown), ["a", "bc"]);
    let ended = 0;
    for (const stream of streams) stream.on("close", () => (ended += 1));
    state.down = true;
    state.now += staleMs;
    await until("streams of readers who are not known any more to end", () => ended === 2);
    state.down = false;
  });
});

test("a page that is bounded to namespaces shows no others", async () => {
  await served(["b"], async ({ port }) => {
    assert.equal(shown(await read(port, "/", "user~a~b")), "b");
    assert.equal(shown(await read(port, "/", "user~")), "b", "of all namespaces");
  });
});
