// The signal of a write reaches its request, so that the fence can end it wherever it is.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { KubeConfig } from "@kubernetes/client-node";
import type { AppError } from "../../crds/common.ts";
import { createKube } from "./client.ts";
import { type Kube, resources, type WriteOptions } from "./kube.ts";
import { createTransport } from "./transport.ts";

const at = { namespace: "ns", name: "a" };
const object = { apiVersion: "v1", kind: "ConfigMap", metadata: at };
const cm = resources.configMaps;
const writes: Record<string, (kube: Kube, options: WriteOptions) => Promise<unknown>> = {
  create: (kube, options) => kube.create(cm, object, options),
  apply: (kube, options) => kube.apply(cm, object, options),
  applyStatus: (kube, options) => kube.applyStatus(cm, object, options),
  update: (kube, options) => kube.update(cm, object, options),
  updateStatus: (kube, options) => kube.updateStatus(cm, object, options),
  patch: (kube, options) => kube.patch(cm, at, {}, options),
  delete: (kube, options) => kube.delete(cm, at, options),
};

test("an apply is forced where it is asked for, that of a status always", async () => {
  const paths: string[] = [];
  const transport = {
    request: async ({ path }: { path: string }) => {
      paths.push(path);
      return JSON.stringify(object);
    },
  };
  const kube = createKube(transport as unknown as Parameters<typeof createKube>[0]);
  await kube.apply(cm, object, { manager: "test" });
  await kube.apply(cm, object, { manager: "test", force: true });
  await kube.applyStatus(cm, object, { manager: "test" });
  assert.deepEqual(
    paths.map((path) => new URL(path, "http://api").searchParams.get("force")),
    [null, "true", "true"],
  );
});

for (const [verb, write] of Object.entries(writes)) {
  test(`${verb} ends with its signal: the connection is closed before the server has answered`, { timeout: 10_000 }, async (t) => {
    const abort = new AbortController();
    let closed: (() => void) | undefined;
    const gone = new Promise<void>((resolve) => {
      closed = resolve;
    });
    const server = createServer((request) => {
      request.socket.once("close", () => closed?.());
      abort.abort();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    t.after(() => server.close());
    const config = new KubeConfig();
    config.loadFromClusterAndUser(
      { name: "c", server: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, skipTLSVerify: true },
      { name: "u" },
    );
    const kube = createKube(createTransport(config));
    await assert.rejects(write(kube, { manager: "test", signal: abort.signal }), (error: AppError) => error.code === "Unavailable");
    await gone;
  });
}

async function connectionsFor(requests: number, keep: boolean, close: (end: () => void) => void): Promise<number> {
  let connections = 0;
  const server = createServer((_request, response) => void response.end(JSON.stringify(object)));
  server.on("connection", () => {
    connections += 1;
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  close(() => server.close());
  const config = new KubeConfig();
  const { port } = server.address() as AddressInfo;
  config.loadFromClusterAndUser({ name: "c", server: `http://127.0.0.1:${port}`, skipTLSVerify: true }, { name: "u" });
  const kube = createKube(createTransport(config, { keep }));
  for (let i = 0; i < requests; i++) await kube.get(cm, at);
  return connections;
}

test("requests share a connection; those of who must not rely on an old one have one each", async (t) => {
  const close = (end: () => void) => t.after(end);
  assert.equal(await connectionsFor(20, true, close), 1);
  assert.equal(await connectionsFor(20, false, close), 20);
});
