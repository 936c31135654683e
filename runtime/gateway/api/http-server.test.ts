// HTTPS of a gateway: a renewed certificate is taken up, one that does not fit its key is not, and without one it does not start. And the
// age of connections, and the gauges that an endpoint picker reads.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { Agent, get as getPlain } from "node:http";
import { get } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { TLSSocket } from "node:tls";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { until } from "../../../test/kit/wait.ts";
import { silentLog } from "../../observe/log.ts";
import { poolMetrics } from "./app.ts";
import { listenHttp } from "./http-server.ts";

const ca = createTestCa();
const pairOf = (rank: number) => ca.issue(`rank-${rank}`, "ns", "moe").current();
const place = { host: "127.0.0.1", port: 0, requestsMax: 1, metrics: { add: () => {} }, log: silentLog };
const serve = (tlsDir: string) => listenHttp({ fetch: () => new Response("ok"), ...place, tlsDir, tlsRefreshMs: 20 });

/** The certificate that a new connection is shown. */
const shownAt = (port: number): Promise<string> =>
  new Promise((resolve, reject) => {
    const request = get({ host: "127.0.0.1", port, agent: false, rejectUnauthorized: false }, (response) => {
      const { raw } = (response.socket as TLSSocket).getPeerCertificate();
      response.resume().on("end", () => resolve(raw.toString("base64")));
    });
    request.on("error", reject);
  });
const derOf = (pem: Buffer): string =>
  pem
    .toString()
    .replace(/-----.*?-----/g, "")
    .replace(/\s/g, "");

test("a renewed certificate is shown to new connections, a torn one is not", async () => {
  const dir = await mkdtemp(join(tmpdir(), "enodia-https-"));
  const write = async ({ cert }: { cert: Buffer }, { key }: { key: Buffer }) => {
    await writeFile(join(dir, "tls.crt"), cert);
    await writeFile(join(dir, "tls.key"), key);
  };
  await assert.rejects(serve(dir), { code: "HttpTlsUnreadable", message: /spec\.gateway\.tls.*kubernetes\.io\/tls/ });
  const [first, second] = [pairOf(1), pairOf(2)];
  await write(first, second);
  await assert.rejects(serve(dir), { code: "HttpTlsUnreadable", message: /not the key/ });
  await write(first, first);
  const server = await serve(dir);
  assert.ok(derOf(first.cert).startsWith(await shownAt(server.port)));
  await writeFile(join(dir, "tls.crt"), second.cert);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(derOf(first.cert).startsWith(await shownAt(server.port)), "the key is still the old one");
  await writeFile(join(dir, "tls.key"), second.key);
  await until("the second is shown", async () => derOf(second.cert).startsWith(await shownAt(server.port)));
  await server.close(0);
  await rm(dir, { recursive: true });
});

test("an answer ends a connection that is old, and no other", async () => {
  const server = await listenHttp({ fetch: () => new Response("ok"), ...place, connectionMs: 200 });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const ask = () =>
    new Promise<{ port: number | undefined; connection: string | undefined }>((resolve, reject) => {
      const request = getPlain({ host: "127.0.0.1", port: server.port, agent }, (response) => {
        const said = { port: response.socket.localPort, connection: response.headers.connection };
        response.resume().on("end", () => setImmediate(() => resolve(said)));
      });
      request.on("error", reject);
    });
  const [first, second] = [await ask(), await ask()];
  assert.deepEqual([first.port, first.connection], [second.port, "keep-alive"]);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const [last, next] = [await ask(), await ask()];
  assert.deepEqual([last.port, last.connection], [first.port, "close"]);
  assert.deepEqual([next.port === first.port, next.connection], [false, "keep-alive"]);
  agent.destroy();
  await server.close(0);
});

const load = { model: "tiny", waiting: 3, running: 5, kvUse: 0.25 };

test("an endpoint picker finds its defaults as gauges, one series each", () => {
  const lines = poolMetrics(load).trimEnd().split("\n");
  const samples = lines.filter((line) => !line.startsWith("#"));
  assert.deepEqual(samples, [
    'vllm:num_requests_waiting{model_name="tiny"} 3',
    'vllm:num_requests_running{model_name="tiny"} 5',
    'vllm:kv_cache_usage_perc{model_name="tiny"} 0.25',
    'vllm:gpu_cache_usage_perc{model_name="tiny"} 0.25',
  ]);
  for (const sample of samples) assert.ok(lines.includes(`# TYPE ${sample.split("{")[0]} gauge`), sample);
});

test("a share that nobody told is left out, and one that is zero is not", () => {
  assert.doesNotMatch(poolMetrics({ ...load, kvUse: undefined }), /cache_usage/);
  assert.match(poolMetrics({ ...load, kvUse: 0 }), /kv_cache_usage_perc\{model_name="tiny"\} 0\n/);
});

test("a name with quotes, backslashes and lines stays within its label", () => {
  assert.match(poolMetrics({ ...load, model: 'a"b\\c\nd' }), /waiting\{model_name="a\\"b\\\\c\\nd"\} 3\n/);
});
