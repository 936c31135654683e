// The Vulkan backend on a driver in software, as far as a minute allows: a part of the contract and a text, each in a process of its own.
// Every op is tried by `npm run test:gpu -- vulkan --software`.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { importMoe } from "../../runtime/modelstore/import-moe.ts";
import { within } from "./fetched.ts";
import { lavapipe } from "./lavapipe.ts";
import { vulkanPackage } from "./package.ts";

const root = resolve(import.meta.dirname, "../..");
/** Kernels are compiled once for each machine, which takes a processor two minutes; later it is seconds. Longer than this, it hangs. */
const processMsMax = 480_000;
const outputBytesMax = 1 << 20;
/** For what is fetched, once; ENODIA_REQUIRE_VULKAN=1 fails where it is not to be had. */
const fetchMsMax = 180_000;
const required = process.env.ENODIA_REQUIRE_VULKAN === "1";
const familyFolders = readdirSync(join(root, "test/golden/families")).length;
/** A driver may end a process; one that does so twice is broken. */
const triesMax = 2;

interface Done {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

let env: Readonly<Record<string, string>> | undefined;
let reason = "";
let folder = "";
before(async () => {
  folder = mkdtempSync(join(tmpdir(), "enodia-software-gpu-"));
  const log = (line: string): void => void process.stderr.write(`${line}\n`);
  const asked = { log, timeoutMs: fetchMsMax, again: required };
  const left = within(asked);
  try {
    env = Object.assign({ ENODIA_GPU: "vulkan" }, await lavapipe(asked, left), await vulkanPackage(asked, left));
  } catch (caught) {
    reason = `no Vulkan driver in software here: ${(caught as Error).message.split("\n")[0]}`;
  }
});
after(() => rmSync(folder, { recursive: true, force: true }));

const runOnce = (args: readonly string[], own: NodeJS.ProcessEnv): Promise<Done & { readonly signal: string | null }> =>
  new Promise((settle) => {
    const options = { cwd: root, env: own, timeout: processMsMax, maxBuffer: outputBytesMax };
    const child = execFile(process.execPath, args, options, (_error, stdout, stderr) => {
      settle({ code: child.exitCode, signal: child.signalCode, stdout, stderr });
    });
  });

/** A process that the driver ends has another try, which is told. Undefined where there is no driver. */
async function inSoftware(t: TestContext, args: readonly string[]): Promise<Done | undefined> {
  assert.ok(env !== undefined || !required, reason);
  if (env === undefined) t.skip(reason);
  for (let tries = 1; env !== undefined; tries++) {
    const own = Object.assign({}, process.env, env);
    delete own.NODE_TEST_CONTEXT; // its tests are its own
    const { signal, ...done } = await runOnce(args, own);
    if (signal === null) return done;
    assert.notEqual(signal, "SIGTERM", `it did not end within ${processMsMax / 1000} s: ${done.stdout.slice(-1000)}`);
    t.diagnostic(`the driver ended the process: ${signal}`);
    assert.ok(tries < triesMax, `${signal}, ${triesMax} times: ${done.stdout.slice(-1000)} ${done.stderr.slice(-1000)}`);
  }
  return undefined;
}

describe("Vulkan in software", { concurrency: 2 }, () => {
  test("a part of the contract holds: a product, attention over the pool of keys and values, every family's logits, on two engines too, layers that are streamed, and rows over ranks", async (t) => {
    const names = ["says which numeric class it is", "matMul: \\[7, 576\\]", "attention: chunk of 5"];
    const streamed = "5 layers that are streamed";
    const ofFamilies = ["logits of 7 tokens", "whose other rank"];
    const done = await inSoftware(t, [
      ...[...names, streamed, ...ofFamilies].map((name) => `--test-name-pattern=${name}`),
      "test/gpu/contract.gpu.test.ts",
    ]);
    if (done === undefined) return;
    assert.equal(done.code, 0, done.stdout + done.stderr);
    const passed = Number(/^(?:# |ℹ )pass (\d+)$/m.exec(done.stdout)?.[1]);
    assert.ok(passed >= names.length + 1 + (ofFamilies.length + 1) * familyFolders, done.stdout);
  });

  test("a greedy text of a small model is the reference's, with half of the experts on the device, or without its layers' dense weights too", async (t) => {
    const textOf = (store: string, backend: string, [share, dense]: readonly [number, number]): Promise<Done | undefined> =>
      inSoftware(t, ["test/gpu/text.ts", store, backend, "32", ...[share, dense, 5, 17, 101, 42, 9, 260].map(String)]);
    for (const [checkpoint, of, device] of [
      ["tiny-f32", [1, 1], /^vulkan: [^;]*$/],
      ["tiny-f32", [0.5, 1], /^vulkan: .*; experts beside it on cpu: /],
      ["families/qwen3-moe", [1, 0.97], /^vulkan: .*; 3 of 3 layers streamed$/],
    ] as const) {
      const store = join(folder, checkpoint);
      await importMoe({ from: join(root, "test/golden", checkpoint), out: store, codecs: ["f32"], overwrite: true }, () => {});
      const [want, got] = [await textOf(store, "reference", [1, 1]), await textOf(store, "vulkan", of)];
      if (got === undefined || want === undefined) return;
      assert.equal(got.code, 0, got.stderr);
      const [ours, theirs] = [JSON.parse(got.stdout), JSON.parse(want.stdout)];
      assert.match(ours.device, device);
      assert.equal(theirs.text.length, 32);
      assert.deepEqual(ours.text, theirs.text);
    }
  });
});
