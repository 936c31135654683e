// Ranks without a model of their own and the weight server that has it, over real TLS and with the real engine: the texts of ranks
// that share a store, whatever becomes of the weight server; what it answers is what a rank answers.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { progressPath } from "../../../crds/download.ts";
import { askPod } from "../../../operator/kube/ask-pod.ts";
import { deployment, deploymentUid, namespace, Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { until } from "../../../test/kit/wait.ts";
import { WeightServer } from "../../experts/weight-client.ts";
import { storeFiles } from "../../net/file-lists.ts";
import { fileSources, hashFiles } from "../../net/file-reads.ts";
import { createServer, grpcNetwork } from "../../net/grpc.ts";
import { ReadHost } from "../../net/read-host.ts";
import { connectReads } from "../../net/read-link.ts";
import { serverNames } from "../../net/tls.ts";
import { createHealth } from "../../observe/health.ts";
import { silentLog } from "../../observe/log.ts";
import { fetchStore } from "../../worker/fetch-store.ts";
import { startWeightServer, type WeightServerProcess } from "./weight-server.ts";

const prompts = [
  [1, 3, 11],
  [2, 10, 11],
  [5, 38, 11],
]; // prettier-ignore
const tokens = 16;
const root = mkdtempSync(join(tmpdir(), "enodia-weight-server-"));
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[][];

const texts = (ranks: Ranks, order: readonly number[]) => Promise.all(prompts.map((prompt) => ranks.text([...order], prompt, tokens)));

before(async () => {
  store = await tinyStore();
  const shared = new Ranks(store);
  try {
    await shared.launch(0);
    await shared.firstPlan();
    want = await texts(shared, [0]);
  } finally {
    await shared.close();
  }
});
after(() => {
  store.remove();
  rmSync(root, { recursive: true, force: true });
});

/** A weight server of the store that can go and come back elsewhere. */
class Seeding {
  process: WeightServerProcess | undefined;
  address: string | undefined;
  readonly ranks: Ranks;
  readonly dirs = new Map<number, string>();

  constructor(name: string) {
    this.ranks = new Ranks(store, (rank) => {
      const dir = join(root, `${name}-${rank}`);
      this.dirs.set(rank, dir);
      return {
        modelDir: dir,
        weightServerDns: "weight-server.test",
        overrides: { weightServer: async () => (this.address ? [this.address] : []) },
      };
    });
  }
  async open(): Promise<void> {
    const tls = this.ranks.ca.issue("weight-server", namespace, deployment);
    const uri = "pvc://models/tiny";
    this.process = await startWeightServer(
      {
        ...{
          namespace,
          deployment,
          deploymentUid,
          podUid: "weight-server",
          uri,
          codec: "f32",
          target: store.dir,
          work: join(root, "none"),
        },
        ...{ secretDir: undefined, hub: undefined, sizeLimitBytes: undefined, tlsDir: "", logLevel: "silent" },
        ...{ progressPort: 0, grpcPort: 0, probePort: 0 },
      },
      { host: "127.0.0.1", tls, log: silentLog },
    );
    this.address = `127.0.0.1:${await this.process.serving}`;
    await this.tell("uid-0-a", "uid-1-a", "uid-2-a");
  }
  /** Says which pods are members, as the operator does; undefined: it refuses. */
  tell(...members: string[]): Promise<string | undefined> {
    return this.#ask({ body: JSON.stringify({ members }) });
  }
  /** Asks as an operator of a release before does. */
  look(): Promise<string | undefined> {
    return this.#ask({});
  }
  #ask(more: { body?: string }): Promise<string | undefined> {
    const { cert, key, ca } = this.ranks.tls("operator").current();
    const identity = { cert: String(cert), key: String(key), ca: String(ca) };
    const servername = serverNames.weightServer(namespace, deployment);
    const place = { ip: "127.0.0.1", port: this.process?.progressPort ?? 0, path: progressPath, servername, identity };
    return askPod({ ...place, bytesMax: 10_000, ...more });
  }
  async leave(): Promise<void> {
    this.address = undefined;
    await this.process?.close();
    this.process = undefined;
  }
  async close(): Promise<void> {
    await this.ranks.close();
    await this.leave();
  }
}

test("ranks that mount no model give the texts of those that do, fetch their share alone, and move experts while the weight server is away", async () => {
  const seeding = new Seeding("texts");
  const { ranks } = seeding;
  try {
    await seeding.open();
    assert.match((await seeding.look()) ?? "", /"phase"/);
    for (const rank of [0, 1, 2]) await ranks.launch(rank);
    await ranks.firstPlan();
    for (const first of [0, 1, 2]) assert.deepEqual(await texts(ranks, [first]), want);
    const units = store.index.codecs.f32?.units ?? [];
    const whole = units.flat().length;
    for (const { rank, worker } of ranks.byRank.values()) {
      const mine = units.flatMap((layer, l) => layer.map((unit, e) => ({ l, e, ...unit })));
      const file = readFileSync(join(seeding.dirs.get(rank) ?? "", store.index.codecs.f32?.file ?? ""));
      const kept = mine.filter(({ offset, bytes, sha256 }) => hash(file.subarray(offset, offset + bytes)) === sha256);
      const hosted = worker.engine.hosted().flatMap((experts, l) => experts.map((e) => `${l}.${e}`));
      for (const name of hosted)
        assert.ok(
          kept.some(({ l, e }) => `${l}.${e}` === name),
          `rank ${rank} has kept ${name}`,
        ); // prettier-ignore
      assert.ok(kept.length < whole, `rank ${rank} has fetched ${kept.length} of ${whole}`);
    }
    await seeding.leave();
    // Each expert goes to the next rank: from its disk, since nobody else has it.
    await ranks.carryOut(ranks.nextPlan([0, 1].map((layer) => ranks.layerPlan(layer, 0, (e) => [(e + 1) % 3]))));
    for (const first of [0, 1, 2]) assert.deepEqual(await texts(ranks, [first]), want);
  } finally {
    await seeding.close();
  }
});

test("a rank that starts while the weight server is away waits and says for what; one whose container restarts fetches nothing twice", async () => {
  const seeding = new Seeding("waits");
  const { ranks } = seeding;
  const health = createHealth({ start: "begins" });
  const self = { deploymentUid, rank: 0, podUid: "u", bootId: "b" };
  const addresses = async () => (seeding.address ? [seeding.address] : []);
  const weightServer = new WeightServer({
    self,
    namespace,
    name: deployment,
    tls: ranks.tls("rank-0", "0-a"),
    network: grpcNetwork,
    addresses,
  });
  const dir = join(root, "waits-own");
  const fetching = () =>
    fetchStore({ weightServer: weightServer, codec: "f32", dir, waits: (why) => health.notReady("start", why), log: silentLog });
  try {
    const first = fetching();
    await until("the reason", () =>
      health.reasons().some((one) => /waits for the model from the weight server: the weight server is not there/.test(one)),
    );
    await seeding.open();
    await first;
    for (const { name, sha256 } of await hashFiles(store.dir, storeFiles)) assert.equal(hash(readFileSync(join(dir, name))), sha256, name);
    assert.equal(existsSync(join(dir, "experts-f32.bin")), false);
    writeFileSync(join(dir, "config.json"), "{}");
    await fetching();
    assert.deepEqual(
      readFileSync(join(dir, "config.json")),
      readFileSync(join(store.dir, "config.json")),
      "what is not whole is fetched again",
    );
  } finally {
    weightServer.close();
    await seeding.close();
  }
});

test("a weight server whose files are not what it listed is not believed, and a transfer goes on where it broke off", async () => {
  const { ca } = new Ranks(store);
  const files = await hashFiles(store.dir, storeFiles);
  const { modelDigest } = store.index;
  const folder = { dir: store.dir, digest: modelDigest, files };
  const real = fileSources({ folder, codec: "f32", authorize: () => {}, onServed: () => {} });
  const asked: string[] = [];
  const server = createServer(ca.issue("weight-server", namespace, deployment));
  const reads = new ReadHost({
    ...real,
    file: async (request, call) => {
      const { name, offset } = request;
      asked.push(`${name}@${offset}`);
      const dense = name === "dense.safetensors";
      const tries = asked.filter((one) => one.startsWith(name)).length;
      if (!dense || tries > 2) return real.file?.(request, call);
      const bytes = readFileSync(join(store.dir, name));
      // First other bytes than were listed, then a break in the middle.
      const data = tries === 1 ? Buffer.alloc(bytes.byteLength) : bytes.subarray(0, 1000);
      await call.send(0, data);
    },
  });
  server.addReads(reads, deploymentUid, () => {});
  const address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  const self = { deploymentUid, rank: 0, podUid: "u", bootId: "b" };
  const tls = ca.issue("rank-0", namespace, deployment);
  const weightServer = new WeightServer({ self, namespace, name: deployment, tls, network: grpcNetwork, addresses: async () => [address] });
  const dir = join(root, "lied");
  const said: string[] = [];
  try {
    await fetchStore({ weightServer: weightServer, codec: "f32", dir, waits: (why) => void said.push(why), log: silentLog });
    assert.ok(
      said.some((one) => /dense\.safetensors: it is not the file that the weight server started with/.test(one)),
      said.join("; "),
    );
    const dense = asked.filter((one) => one.startsWith("dense"));
    assert.deepEqual(dense, ["dense.safetensors@0", "dense.safetensors@0", "dense.safetensors@1000"]);
    assert.deepEqual(readFileSync(join(dir, "dense.safetensors")), readFileSync(join(store.dir, "dense.safetensors")));
  } finally {
    weightServer.close();
    await server.close(0);
  }
});

interface Asked {
  readonly uid?: string;
  readonly modelDigest?: string;
  readonly codec?: string;
  readonly layer?: number;
  readonly expert?: number;
}

test("what a weight server answers for a shard is what a rank answers, and it answers nobody but ranks", async () => {
  const seeding = new Seeding("contract");
  const { ranks } = seeding;
  try {
    await seeding.open();
    for (const rank of [0, 1]) await ranks.launch(rank);
    await ranks.firstPlan();
    const pods = ["1-a"];
    const { modelDigest } = store.index;
    const ask = async (of: "rank" | "weight-server", member: string, { uid = deploymentUid, ...request }: Asked): Promise<string> => {
      const serverName = of === "rank" ? serverNames.rank(0, namespace, deployment) : serverNames.weightServer(namespace, deployment);
      const address = of === "rank" ? ranks.address(0) : (seeding.address ?? "");
      const self = { deploymentUid: uid, rank: 1, podUid: "u", bootId: "b" };
      const pod = member === "rank-1" ? (pods.at(-1) ?? "") : "";
      const link = connectReads({ address, serverName, tls: ranks.tls(member, pod), self });
      const digest = createHash("sha256");
      try {
        const value = { modelDigest, layer: 0, expert: 0, codec: "f32", ...request };
        for await (const { data } of link.read({ case: "unit", value })) digest.update(data);
        return digest.digest("hex");
      } catch (caught) {
        return AppError.from(caught).code;
      } finally {
        link.close();
      }
    };
    const cases: [string, string, Asked][] = [
      ["a unit", "rank-1", {}],
      ["another layer's", "rank-1", { layer: 1, expert: 1 }],
      ["another model", "rank-1", { modelDigest: "0".repeat(64) }],
      ["another codec", "rank-1", { codec: "q8_0" }],
      ["none that there is", "rank-1", { expert: 4000 }],
      ["another deployment's rank", "rank-1", { uid: "other" }],
      ["a gateway", "gateway", {}],
      ["the operator", "operator", {}],
    ];
    const answers = new Set<string>();
    for (const [what, member, request] of cases) {
      const answer = await ask("weight-server", member, request);
      assert.equal(answer, await ask("rank", member, request), what);
      answers.add(answer);
    }
    assert.ok(answers.has("Forbidden") && answers.has("InvalidRequest") && answers.size >= 4, [...answers].join());
    assert.ok(seeding.process);

    // Another pod takes the place of rank 1: what the first one had opens nothing more, at either, and a read under way ends.
    const [unit, strange] = [await ask("rank", "rank-1", {}), await seeding.tell()];
    assert.ok(strange);
    assert.equal(await ask("weight-server", "rank-1", {}), "Forbidden", "nobody is a member");
    await ranks.kill(1);
    const next = ranks.launch(1, 0, "1-b"); // it waits until the weight server knows it
    await seeding.tell("uid-0-a", "uid-1-b");
    await next;
    await ranks.push();
    for (const source of ["weight-server", "rank"] as const) {
      pods.push("1-a");
      assert.equal(await ask(source, "rank-1", {}), "Forbidden", `${source}: the pod that left`);
      pods.push("1-b");
      assert.equal(await ask(source, "rank-1", {}), unit, `${source}: the pod that came`);
    }
  } finally {
    await seeding.close();
  }
});

const hash = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
