// Downloads against a server that speaks the hub's API: what is fetched, what is verified, and what becomes of a source that is busy,
// breaks off, lies, or is not to be had.
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import { commit, type Hub, type HubOptions, startHub } from "../../../test/kit/models/model-hub.ts";
import { askSource, type DownloadOptions, downloadModel } from "./index.ts";

const root = await mkdtemp(join(tmpdir(), "enodia-download-"));
const hubs: Hub[] = [];
after(async () => {
  await Promise.all(hubs.map((hub) => hub.close()));
  await rm(root, { recursive: true });
});

const noise = (length: number, seed: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 7 + (i >> 8)) & 255);
const weights = noise(300_000, 1);
const folder = {
  "config.json": Buffer.from('{"architectures":["LlamaForCausalLM"]}'),
  "tokenizer.json": Buffer.from("{}"),
  "model.safetensors": weights,
  "README.md": Buffer.from("# not fetched"),
  "pytorch_model.bin": noise(5000, 2),
};

async function hubWith(options: Partial<HubOptions> = {}): Promise<Hub> {
  const hub = await startHub({ files: folder, ...options });
  hubs.push(hub);
  return hub;
}

let works = 0;
interface Run extends Partial<DownloadOptions> {
  readonly token?: string;
}
/** A download from this hub, whose waits take no time and are noted. */
async function fetchFrom(hub: Hub, { token, ...changed }: Run = {}) {
  const waits: number[] = [];
  const starts: [number, number][] = [];
  let bytes = 0;
  const work = changed.work ?? join(root, `work-${works++}`);
  const secrets: Partial<Record<SourceSecret, string>> = { HF_ENDPOINT: hub.url, ...(token !== undefined && { HF_TOKEN: token }) };
  const result = await downloadModel({
    uri: "hf://org/name@main",
    work,
    secret: (key) => secrets[key],
    pieceBytes: 64 * 1024,
    onStart: (total, there) => starts.push([total, there]),
    onBytes: (more) => {
      bytes += more;
    },
    http: { sleep: async (ms) => void waits.push(ms), random: () => 1 },
    ...changed,
  });
  return { ...result, work, waits, starts, bytes: () => bytes };
}

const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });
const gets = (hub: Hub, name: string) => hub.asked.filter(({ path, method }) => path.endsWith(`/${name}`) && method === "GET");

test("a model of a hub comes in pieces of the commit that its revision stood for, and nothing but the model", async () => {
  const hub = await hubWith();
  const { path, revision, kind, starts, bytes } = await fetchFrom(hub);
  assert.deepEqual([kind, revision], ["folder", commit]);
  assert.deepEqual((await readdir(path)).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  assert.equal(gets(hub, "model.safetensors").length, 5, "300,000 bytes in pieces of 64 KiB");
  const total = weights.length + folder["config.json"].length + folder["tokenizer.json"].length;
  assert.deepEqual([starts, bytes()], [[[total, 0]], total]);
});

test("what is there is not fetched again, and the hub not even asked", async () => {
  const hub = await hubWith();
  const first = await fetchFrom(hub);
  const before = hub.asked.length;
  const second = await fetchFrom(hub, { work: first.work });
  assert.deepEqual([second.path, second.bytes(), hub.asked.length], [first.path, 0, before]);
});

test("a busy hub is waited for as long as it says, a failing one longer each time, and both are asked again", async () => {
  const hub = await hubWith({
    fault: ({ path }, count) => {
      if (!path.endsWith("model.safetensors")) return undefined;
      if (count === 1) return { status: 429, retryAfter: "7" };
      return count <= 3 ? { status: 503 } : undefined;
    },
  });
  const { path, waits } = await fetchFrom(hub, { connections: 1 });
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  assert.deepEqual(waits, [7500, 1000, 2000], "7 s and the first step; then twice as long each time");
});

test("a hub that stays busy is given up after a number of tries that is bounded, and what came is kept", async () => {
  const hub = await hubWith({ fault: ({ path }) => (path.endsWith("model.safetensors") ? { status: 500 } : undefined) });
  const work = join(root, "given-up");
  await assert.rejects(fetchFrom(hub, { work, connections: 1 }), refusal("SourceUnavailable", /answered 500/));
  assert.equal(gets(hub, "model.safetensors").length, 8);
  assert.deepEqual((await readdir(join(work, "files"))).filter((name) => name.endsWith(".json")).sort(), ["config.json", "tokenizer.json"]);
});

test("a connection that breaks costs no byte that had come", async () => {
  const cuts = [1000, 20_000];
  const hub = await hubWith({
    fault: ({ path }, count) => (path.endsWith("model.safetensors") && count <= 2 ? { cutAfter: cuts[count - 1] ?? 0 } : undefined),
  });
  const { path, bytes } = await fetchFrom(hub, { connections: 1 });
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  assert.equal(bytes(), weights.length + folder["config.json"].length + folder["tokenizer.json"].length);
  const ranges = gets(hub, "model.safetensors").map(({ range }) => range);
  assert.deepEqual(ranges.slice(0, 4), ["bytes=0-65535", "bytes=1000-65535", "bytes=21000-65535", "bytes=65536-131071"]);
});

test("pieces that were written before a stop are not fetched by the next run", async () => {
  const stop = new AbortController();
  const hub = await hubWith();
  const work = join(root, "stopped");
  let seen = 0;
  const onBytes = (bytes: number) => {
    seen += bytes;
    if (seen > 150_000) stop.abort();
  };
  await assert.rejects(fetchFrom(hub, { work, connections: 1, onBytes, http: { signal: stop.signal } }), refusal("Stopped", /stopped/));
  const before = gets(hub, "model.safetensors").length;
  const { path, starts } = await fetchFrom(hub, { work });
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  const again = gets(hub, "model.safetensors").slice(before);
  assert.ok(again.length >= 1 && again.length <= 5 - Math.floor(150_000 / 65_536) + 1, `${again.length} pieces`);
  assert.ok(!again.some(({ range }) => range?.startsWith("bytes=0-")), "the first piece was there");
  assert.ok((starts[0]?.[1] ?? 0) >= 65_536);
});

test("a file whose hash is wrong once is fetched again, and one whose hash stays wrong is refused by name and gone", async () => {
  const once = await hubWith({
    fault: ({ path }, count) => (path.endsWith("model.safetensors") && count === 2 ? { corrupt: true } : undefined),
  });
  const { path, bytes } = await fetchFrom(once, { connections: 1 });
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  assert.equal(bytes(), weights.length + 40, "progress counts it once");
  const always = await hubWith({ fault: ({ path: asked }) => (asked.endsWith("model.safetensors") ? { corrupt: true } : undefined) });
  const work = join(root, "corrupt");
  await assert.rejects(
    fetchFrom(always, { work }),
    refusal("DigestMismatch", /model\.safetensors: has SHA-256 .* 2 downloads had it wrong/),
  );
  assert.deepEqual(
    (await readdir(join(work, "files"))).filter((name) => name.includes("safetensors")),
    [],
  );
});

test("a gated model is refused without a request for weights, and each remedy names the token", async () => {
  const hub = await hubWith({ token: "right" });
  await assert.rejects(
    fetchFrom(hub),
    refusal("SourceRefused", /answered 401.*accept its terms on the hub and give an access token as HF_TOKEN/),
  );
  await assert.rejects(fetchFrom(hub, { token: "wrong" }), refusal("SourceRefused", /HF_TOKEN may not read it/));
  assert.equal(gets(hub, "model.safetensors").length, 0);
  assert.equal((await fetchFrom(hub, { token: "right" })).kind, "folder");
});

test("the token goes to the hub and to no other host, where large files lie", async () => {
  const storage = await hubWith();
  const hub = await hubWith({
    token: "right",
    fault: ({ path }) => (path.endsWith("model.safetensors") ? { redirect: `${storage.url}/files/model.safetensors` } : undefined),
  });
  const { path } = await fetchFrom(hub, { token: "right" });
  assert.deepEqual(new Uint8Array(await readFile(join(path, "model.safetensors"))), weights);
  assert.deepEqual([...new Set(hub.asked.map(({ authorization }) => authorization))], ["Bearer right"]);
  assert.deepEqual([...new Set(storage.asked.map(({ authorization }) => authorization))], [undefined]);
  assert.equal(storage.asked.length, 5);
});

test("a disk that is too small is known before the first byte", async () => {
  const hub = await hubWith({ sizes: { "model.safetensors": 8e12 } });
  const work = join(root, "small-disk");
  await assert.rejects(fetchFrom(hub, { work }), refusal("NotEnoughSpace", /free and 8000\.00 GB are needed: enlarge the claim/));
  assert.equal(gets(hub, "config.json").length, 0);
  const absurd = await hubWith({ sizes: { "model.safetensors": 9e15 } });
  await assert.rejects(fetchFrom(absurd), refusal("BadSource", /lists files that no model has/));
  await assert.rejects(
    fetchFrom(await hubWith(), { spareBytes: () => 8e15 }),
    refusal("NotEnoughSpace", /needed/),
    "with what the import will take",
  );
});

test("a server without ranges serves small files, and is refused with the remedy for others", async () => {
  const hub = await hubWith({ fault: () => ({ noRanges: true }) });
  await assert.rejects(fetchFrom(hub), refusal("RangesNotSupported", /serve it by a server that knows them/));
  assert.equal((await fetchFrom(hub, { pieceBytes: 2 ** 20 })).kind, "folder");
});

test("a hub that cannot be reached, or lists nothing that is a model, is told with the remedy", async () => {
  const away = await startHub({ files: folder });
  await away.close();
  await assert.rejects(fetchFrom(away), refusal("SourceUnavailable", /cannot be reached: nothing listens there \(ECONNREFUSED\)/));
  const empty = await hubWith({ files: { "README.md": Buffer.from("x") } });
  await assert.rejects(
    fetchFrom(empty),
    refusal("UnsupportedModel", /neither a model store, nor config\.json with safetensors, nor a GGUF file/),
  );
  const several = await hubWith({ files: { "a-q4.gguf": weights, "a-q8.gguf": weights } });
  await assert.rejects(fetchFrom(several), refusal("UnsupportedModel", /2 GGUF models \(a-q4\.gguf, a-q8\.gguf\): name one of them/));
});

test("a source is asked what a model has, and nothing of it is downloaded; the reason is told for which it cannot be", async () => {
  const ask = (hub: Hub, token?: string, withinMs = 20_000) =>
    askSource({ uri: "hf://org/name@main", secret: (key) => ({ HF_ENDPOINT: hub.url, HF_TOKEN: token })[key as string], withinMs });
  const hub = await hubWith({ token: "let-me-in" });
  const total = weights.length + folder["config.json"].length + folder["tokenizer.json"].length;
  assert.deepEqual(await ask(hub, "let-me-in"), { kind: "folder", revision: commit, files: 3, bytes: total });
  assert.deepEqual(gets(hub, "model.safetensors"), []);
  await assert.rejects(ask(hub, "wrong"), (caught: AppError) => /401|token/i.test(caught.message));
  const gone = await startHub({ files: folder });
  await gone.close();
  await assert.rejects(
    ask(gone, undefined, 2_000),
    refusal("SourceUnavailable", /^the source cannot be reached: nothing listens there \(ECONNREFUSED\)$/),
  );
});
