// The process that downloads a model, as its pod runs it: killed in the middle of the download and of the import, told to stop, refused;
// and asked by the operator's own client how far it is. The source is a server that speaks the hub's API; the model a real checkpoint.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer as createHttpServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type DownloadProgress, readDownloadEnd } from "../../crds/download.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { commit, type Hub, type HubOptions, startHub } from "../../test/kit/models/model-hub.ts";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { freePort } from "../../test/kit/network/free-port.ts";
import { askProgress } from "./state/download-progress.ts";

const root = resolve(import.meta.dirname, "../..");
const dir = await mkdtemp(join(tmpdir(), "enodia-downloader-"));
const ca = createTestCa();
const owner = { namespace: "ns", name: "moe", uid: "uid-moe" };
const tlsDir = join(dir, "tls");
const { cert, key, ca: bundle } = ca.issue("downloader", "ns", "moe").current();
await mkdir(tlsDir);
for (const [name, content] of Object.entries({ "tls.crt": cert, "tls.key": key, "ca.crt": bundle }))
  await writeFile(join(tlsDir, name), content);
const pem = (member: string, name = "moe") => {
  const material = ca.issue(member, "ns", name).current();
  return { cert: material.cert.toString(), key: material.key.toString(), ca: material.ca.toString() };
};
const operator = pem("operator");

const golden = join(root, "test/golden/tiny-f32");
const files: Record<string, Uint8Array> = {};
for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) files[name] = await readFile(join(golden, name));

const hubs: Hub[] = [];
const children: ChildProcess[] = [];
after(async () => {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(hubs.map((hub) => hub.close()));
  await rm(dir, { recursive: true });
});
async function hubWith(options: Partial<HubOptions> = {}): Promise<Hub> {
  const hub = await startHub({ files, ...options });
  hubs.push(hub);
  return hub;
}

let claims = 0;
const newClaim = async (): Promise<string> => {
  const claim = join(dir, `claim-${claims++}`);
  await mkdir(claim);
  return claim;
};

interface Started {
  readonly child: ChildProcess;
  readonly port: number;
  /** Exit code or signal, and what it left for the kubelet. */
  ended(): Promise<{ readonly code: unknown; readonly end: ReturnType<typeof readDownloadEnd> }>;
}

async function start(hub: Hub, claim: string, changed: Record<string, string> = {}): Promise<Started> {
  const port = await freePort();
  const endFile = join(claim, `end-${port}`);
  const env = {
    PATH: process.env.PATH,
    ENODIA_NAMESPACE: "ns",
    ENODIA_DEPLOYMENT: "moe",
    ENODIA_POD_UID: "pod-1",
    ENODIA_MODEL_URI: "hf://org/name@main",
    ENODIA_EXPERT_CODEC: "f32",
    ENODIA_MODEL_PATH: join(claim, "store"),
    ENODIA_MODEL_WORK: join(claim, ".work"),
    HF_ENDPOINT: hub.url,
    ENODIA_TLS_DIR: tlsDir,
    ENODIA_PROGRESS_PORT: String(port),
    ENODIA_DOWNLOAD_END: endFile,
    ENODIA_LOG_LEVEL: "error",
    ...changed,
  };
  const child = spawn(process.execPath, ["runtime/main.ts", "downloader"], { cwd: root, env, stdio: ["ignore", "ignore", "inherit"] });
  children.push(child);
  const exit = once(child, "exit");
  return {
    child,
    port,
    ended: async () => {
      const [code, signal] = await exit;
      return { code: code ?? signal, end: readDownloadEnd(await readFile(endFile, "utf8").catch(() => "")) };
    },
  };
}

const ask = (port: number, identity = operator, uid = "pod-1") => askProgress({ owner, uid, ip: "127.0.0.1", identity }, port);
async function words(port: number, holds: (said: DownloadProgress) => boolean): Promise<DownloadProgress> {
  for (let tries = 0; tries < 600; tries++) {
    const said = await ask(port);
    if (said && holds(said)) return said;
    await sleep(50);
  }
  throw new Error("it never said so");
}
const done = { reason: "Done", revision: commit };
const codecOf = async (store: string) => {
  const opened = await openStore(store);
  const codecs = Object.keys(opened.index.codecs);
  await opened.close();
  return codecs;
};

test("killed in the middle it goes on where it was; nobody sees a store before it is whole, and only the operator hears of it", async () => {
  const hub = await hubWith({ slowMs: 150 });
  const claim = await newClaim();
  const first = await start(hub, claim);
  const said = await words(first.port, ({ phase, doneBytes }) => phase === "Downloading" && doneBytes > 65_536);
  assert.deepEqual([said.revision, said.totalBytes > said.doneBytes, said.bytesPerSecond > 0], [commit, true, true]);
  for (const [identity, who] of [
    [pem("gateway"), "a gateway"],
    [pem("rank-0"), "a rank"],
    [pem("operator", "other"), "the operator's certificate for another deployment"],
  ] as const)
    assert.equal(await ask(first.port, identity), undefined, who);
  assert.equal(await ask(first.port, operator, "pod-2"), undefined, "another pod at this address");
  first.child.kill("SIGKILL");
  assert.equal((await first.ended()).code, "SIGKILL");
  assert.deepEqual(
    (await readdir(claim)).filter((name) => !name.startsWith("end-")),
    [".work"],
  );
  const second = await start(hub, claim);
  const { code, end } = await second.ended();
  assert.deepEqual([code, end?.reason, end?.revision], [0, done.reason, done.revision]);
  assert.deepEqual(await codecOf(join(claim, "store")), ["f32"]);
  assert.deepEqual(
    (await readdir(claim)).filter((name) => !name.startsWith("end-")),
    ["store"],
    "the work is gone",
  );
  const listings = hub.asked.filter(({ path }) => path.startsWith("/api/"));
  assert.equal(listings.length, 1, "the second run keeps to the commit of the first");
});

test("killed while it makes the store, the next one makes it anew and fetches nothing", async () => {
  const hub = await hubWith();
  const claim = await newClaim();
  const first = await start(hub, claim);
  for (
    let tries = 0;
    tries < 2000 && !(await readdir(join(claim, ".work")).catch(() => [])).some((name) => name.startsWith(".store"));
    tries++
  )
    await sleep(2);
  first.child.kill("SIGKILL");
  await first.ended();
  const fetched = hub.asked.length;
  const second = await start(hub, claim);
  assert.equal((await second.ended()).code, 0);
  assert.equal(hub.asked.length, fetched);
  assert.deepEqual(await codecOf(join(claim, "store")), ["f32"]);
});

test("a store that is there is taken as it is, and the source not asked", async () => {
  const hub = await hubWith();
  const claim = await newClaim();
  assert.equal((await (await start(hub, claim)).ended()).code, 0);
  const fetched = hub.asked.length;
  assert.equal((await (await start(hub, claim)).ended()).code, 0);
  assert.equal(hub.asked.length, fetched);
});

test("told to stop before it is done, it ends as failed and not as done", async () => {
  const hub = await hubWith({ slowMs: 150 });
  const claim = await newClaim();
  const first = await start(hub, claim);
  await words(first.port, ({ phase }) => phase === "Downloading");
  first.child.kill("SIGTERM");
  const { code, end } = await first.ended();
  assert.deepEqual([code, end?.reason], [1, "Stopped"]);
});

test("what another try cannot mend ends with the code by which the Job fails, and the reason", async () => {
  const gated = await hubWith({ token: "right" });
  const secretDir = join(dir, "secret");
  await mkdir(secretDir);
  const refused = await (await start(gated, await newClaim())).ended();
  assert.deepEqual([refused.code, refused.end?.reason], [3, "SourceRefused"]);
  assert.match(refused.end?.message ?? "", /HF_TOKEN/);
  await writeFile(join(secretDir, "HF_TOKEN"), "right\n");
  assert.equal((await (await start(gated, await newClaim(), { ENODIA_MODEL_SECRET: secretDir })).ended()).code, 0);
  assert.ok(gated.asked.every(({ authorization }, i) => i === 0 || authorization === "Bearer right"));
  const strange = await hubWith({ files: { ...files, "config.json": Buffer.from('{"architectures":["Unheard"]}') } });
  const unknown = await (await start(strange, await newClaim())).ended();
  assert.deepEqual([unknown.code, unknown.end?.reason], [3, "UnknownArchitecture"]);
});

test("a store on the web comes over HTTPS whose CA is in the Secret, with the header that is there too", async () => {
  const made = await newClaim();
  assert.equal((await (await start(await hubWith(), made)).ended()).code, 0);
  const names = await readdir(join(made, "store"));
  const store = Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(made, "store", name))] as const)),
  );
  const leaf = createTestCa().local();
  const web = await hubWith({ files: store, tls: { key: leaf.key, cert: leaf.cert }, token: "web" });
  const secretDir = join(dir, "web-secret");
  await mkdir(secretDir);
  await writeFile(join(secretDir, "ca.crt"), leaf.ca);
  await writeFile(join(secretDir, "AUTHORIZATION"), "Bearer web");
  const claim = await newClaim();
  const uri = `${web.url}/files/`;
  const strange = await (await start(web, claim, { ENODIA_MODEL_URI: uri })).ended();
  assert.deepEqual([strange.code, strange.end?.reason], [3, "SourceUntrusted"]);
  assert.match(strange.end?.message ?? "", /give its CA as ca\.crt/);
  const { code, end } = await (await start(web, claim, { ENODIA_MODEL_URI: uri, ENODIA_MODEL_SECRET: secretDir })).ended();
  assert.deepEqual([code, end?.reason], [0, "Done"], end?.message);
  assert.deepEqual(await codecOf(join(claim, "store")), ["f32"]);
});

test("a proxy that the environment names is the way to the source", async () => {
  const hub = await hubWith();
  const through: string[] = [];
  const proxy = createHttpServer((asked, response) => {
    through.push(asked.url ?? "");
    const forwarded = request(asked.url ?? "", { method: asked.method, headers: asked.headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    asked.pipe(forwarded);
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const { port } = proxy.address() as { port: number };
  const env = { HTTP_PROXY: `http://127.0.0.1:${port}`, NODE_USE_ENV_PROXY: "1" };
  const { code, end } = await (await start(hub, await newClaim(), env)).ended();
  proxy.close();
  proxy.closeAllConnections();
  assert.deepEqual([code, end?.reason], [0, "Done"], end?.message);
  assert.equal(through.length, hub.asked.length);
  assert.ok(through.every((url) => url.startsWith(hub.url)));
});
