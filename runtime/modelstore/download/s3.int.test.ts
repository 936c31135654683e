// Models from a real server that speaks S3: listed in pages, with signatures and rights that it checks, and hashes that it keeps.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import { type MotoServer, motoServer } from "../../../test/kit/models/moto.ts";
import { downloadModel } from "./index.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-s3-"));
const weights = Buffer.alloc(3_000_000, "weights of a model ");
const files: Record<string, Buffer> = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"a":1}'),
  "model.safetensors": weights,
};
let moto: MotoServer | undefined;

before(
  async () => {
    const found = createServer().listen(0, "127.0.0.1");
    await once(found, "listening");
    const { port } = found.address() as { port: number };
    found.close();
    moto = await motoServer({ port, bucket: "models", prefix: "org/tiny/", files, others: 1001 });
  },
  { timeout: 600_000 },
);
after(async () => {
  moto?.server.kill("SIGKILL");
  await rm(dir, { recursive: true });
});

let works = 0;
function fetchFrom(uri: string, changed: Partial<Record<SourceSecret, string>> = {}, work = join(dir, `work-${works++}`)) {
  const secrets: Partial<Record<SourceSecret, string>> = { ...moto?.reader, ...changed };
  const nothing = () => undefined;
  const given = { secret: (key: SourceSecret) => secrets[key], onStart: nothing, onBytes: nothing };
  return downloadModel({ uri, work, pieceBytes: 2 ** 20, http: { sleep: async () => undefined }, ...given });
}
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

test("a model in a bucket comes by signed requests in ranges, whatever number of objects is beside it", async () => {
  for (const uri of ["s3://models/org/tiny", "s3://models/org/tiny/"]) {
    const { path, kind, revision } = await fetchFrom(uri);
    assert.deepEqual([kind, revision], ["folder", undefined]);
    assert.deepEqual((await readdir(path)).sort(), Object.keys(files).sort());
    assert.deepEqual(await readFile(join(path, "model.safetensors")), weights);
  }
});

test("the hash that the bucket keeps of an object is what it is held against", async () => {
  const work = join(dir, "hashed");
  await fetchFrom("s3://models/org/tiny", {}, work);
  const { files: listed } = JSON.parse(await readFile(join(work, "manifest.json"), "utf8"));
  const model = listed.find(({ name }: { name: string }) => name === "model.safetensors");
  assert.match(model.sha256, /^[0-9a-f]{64}$/);
  assert.match(model.etag, /^"[0-9a-f]{32}"$/);
});

test("wrong keys, another prefix and another bucket are told apart", async () => {
  await assert.rejects(
    fetchFrom("s3://models/org/tiny", { AWS_SECRET_ACCESS_KEY: "wrong" }),
    refusal("SourceRefused", /answered 403: the credentials/),
  );
  await assert.rejects(fetchFrom("s3://models/org/other"), refusal("SourceNotFound", /nothing is there/));
  await assert.rejects(fetchFrom("s3://nowhere/org/tiny"), refusal("SourceNotFound", /answered 404/));
});

test("a bucket that is open to all needs no keys", async () => {
  await moto?.open();
  const { path } = await fetchFrom("s3://models/org/tiny", { AWS_ACCESS_KEY_ID: "", AWS_SECRET_ACCESS_KEY: "" });
  assert.deepEqual(await readFile(join(path, "model.safetensors")), weights);
});
