// Forwarded ports: bytes pass both ways, whoever ends one ends the other's connection too, and why a port cannot be reached is told.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { after, test } from "node:test";
import { PortForwards, type PortForwardsOptions } from "../../test/kit/kube/port-forwards.ts";
import { until } from "../../test/kit/processes/process.ts";
import { forwardPort } from "./port-forward.ts";
import { loadKubeConfig } from "./transport.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-forward-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const pod = { namespace: "ns", pod: "j-train-0-0", port: 9444 };

function configOf(url: string) {
  const file = join(folder, "kubeconfig");
  const [cluster, context] = [
    { name: "c", cluster: { server: url, "insecure-skip-tls-verify": true } },
    { name: "x", context: { cluster: "c", user: "u" } },
  ];
  const config = { apiVersion: "v1", kind: "Config", clusters: [cluster], contexts: [context], users: [{ name: "u", user: {} }] };
  writeFileSync(file, JSON.stringify({ ...config, "current-context": "x" }));
  return loadKubeConfig(file, undefined);
}

/** A pod's listener, and the way to it. */
async function opened(t: { after(run: () => unknown): void }, serve: (socket: Socket) => void, options?: Partial<PortForwardsOptions>) {
  const listener = createServer({ allowHalfOpen: true }, serve).listen(0, "127.0.0.1");
  await new Promise((resolve) => listener.once("listening", resolve));
  const { port } = listener.address() as { port: number };
  const forwards = await PortForwards.open({ target: () => port, ...options });
  t.after(async () => {
    await forwards.close();
    listener.close();
  });
  return { forwards, config: configOf(forwards.url) };
}

const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

test("bytes pass both ways, more than either end takes at once, and the pod's end ends the connection", async (t) => {
  const [asked, answer] = [Buffer.alloc(300_000, "question"), Buffer.alloc(3_000_000, "answers ")];
  const { forwards, config } = await opened(t, (socket) => {
    let bytes = 0;
    socket.on("data", (piece) => {
      bytes += piece.length;
      if (bytes === asked.length) socket.end(answer);
    });
  });
  const connection = await forwardPort(config, pod);
  connection.write(asked);
  await new Promise((resolve) => setTimeout(resolve, 50)); // nothing is read meanwhile
  assert.equal(sha(await buffer(connection)), sha(answer));
  assert.deepEqual(forwards.asked, ["/api/v1/namespaces/ns/pods/j-train-0-0/portforward?ports=9444"]);
});

test("a connection that is given up is the pod's end of it too", async (t) => {
  const { forwards, config } = await opened(t, (socket) => void socket.write("hello"));
  const connection = await forwardPort(config, pod);
  await new Promise((resolve) => connection.once("data", resolve));
  assert.equal(forwards.open, 1);
  connection.destroy();
  await until("the pod's end", async () => (forwards.open === 0 ? true : undefined), { timeoutMs: 10_000 });
});

test("a port that nobody listens on is an error that says so", async (t) => {
  const { config } = await opened(t, () => {}, { target: () => undefined });
  const connection = await forwardPort(config, pod);
  await assert.rejects(buffer(connection), { code: "Unavailable", message: /port 9444: connect: connection refused/ });
});

for (const [status, code] of [
  [403, "Forbidden"],
  [404, "NotFound"],
  [500, "Unavailable"],
] as const)
  test(`an API server that answers ${status} is told as ${code}`, async (t) => {
    const { config } = await opened(t, () => {}, { status });
    await assert.rejects(forwardPort(config, pod), { code, operation: "reaching port 9444 of pod j-train-0-0" });
  });

test("an API server that is away is Unavailable", async () => {
  await assert.rejects(forwardPort(configOf("http://127.0.0.1:9"), pod), { code: "Unavailable" });
});
