// A weight server without a claim: it downloads a model onto its own disk from a server that speaks the hub's API, serves what a store made by hand
// has, and tells the operator what is wrong where it cannot.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type DownloadProgress, downloadProgressSchema } from "../../../crds/download.ts";
import { askPod } from "../../../operator/kube/ask-pod.ts";
import { startHub } from "../../../test/kit/models/model-hub.ts";
import { deployment, deploymentUid, namespace, Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { WeightServer } from "../../experts/weight-client.ts";
import { grpcNetwork } from "../../net/grpc.ts";
import { serverNames } from "../../net/tls.ts";
import { silentLog } from "../../observe/log.ts";
import { openStore } from "../../weights/store-reader.ts";
import { fetchStore } from "../../worker/fetch-store.ts";
import { startWeightServer } from "./weight-server.ts";

const root = mkdtempSync(join(tmpdir(), "enodia-ephemeral-"));
const from = join(import.meta.dirname, "../../../test/golden/tiny-f32");
const files = Object.fromEntries(readdirSync(from).map((file) => [file, readFileSync(join(from, file))]));
after(() => rmSync(root, { recursive: true, force: true }));

test("it downloads, makes a store and serves it; a limit that is too small is told with the one that would do", async () => {
  const store = await tinyStore();
  const { ca } = new Ranks(store);
  const hub = await startHub({ files });
  const operator = ca.issue("operator", namespace, deployment).current();
  const start = (sizeLimitBytes: number, name: string) =>
    startWeightServer(
      {
        namespace,
        deployment,
        deploymentUid,
        podUid: "weight-server",
        uri: "hf://org/name",
        codec: "f32",
        target: join(root, name, "tiny"),
        work: join(root, name, ".work"),
        secretDir: undefined,
        hub: hub.url,
        sizeLimitBytes,
        tlsDir: "",
        logLevel: "silent",
        progressPort: 0,
        grpcPort: 0,
        probePort: 0,
      },
      { host: "127.0.0.1", tls: ca.issue("weight-server", namespace, deployment), log: silentLog },
    );
  const servername = serverNames.weightServer(namespace, deployment);
  const identity = { cert: String(operator.cert), key: String(operator.key), ca: String(operator.ca) };
  const words = async (port: number): Promise<DownloadProgress> =>
    downloadProgressSchema.parse(
      JSON.parse((await askPod({ ip: "127.0.0.1", port, path: "/progress", servername, identity, bytesMax: 10_000, body })) ?? ""),
    );
  const body = JSON.stringify({ members: ["uid-0"] });
  const small = await start(100_000, "small");
  let said: DownloadProgress | undefined;
  try {
    for (const end = performance.now() + 30_000; said?.reason === undefined && performance.now() < end; await sleep(200))
      said = await words(small.progressPort);
  } finally {
    await small.close();
  }
  assert.equal(said?.reason, "CacheTooSmall");
  assert.match(said?.message ?? "", /do not fit 100000 bytes; raise spec\.model\.cache\.ephemeral\.sizeLimit to \d+Mi.*tried again 120 s/);
  assert.ok(
    hub.asked.every(({ range }) => range === undefined),
    "no byte of it was fetched",
  );
  const enough = await start(1 << 28, "enough");
  const self = { deploymentUid, rank: 0, podUid: "u", bootId: "b" };
  const address = `127.0.0.1:${await enough.serving}`;
  const tls = ca.issue("rank-0", namespace, deployment, "mix-0", "uid-0");
  const weightServer = new WeightServer({ self, namespace, name: deployment, tls, network: grpcNetwork, addresses: async () => [address] });
  try {
    assert.deepEqual(enough.health.reasons(), ["members: the operator has yet to say which pods are members"]);
    await words(enough.progressPort);
    assert.deepEqual(enough.health.reasons(), []);
    const dir = join(root, "rank");
    await fetchStore({ weightServer: weightServer, codec: "f32", dir, waits: () => {}, log: silentLog });
    const opened = await openStore(dir);
    assert.equal(opened.index.modelDigest, store.index.modelDigest);
    await opened.close();
  } finally {
    weightServer.close();
    await enough.close();
    await hub.close();
    store.remove();
  }
});
