// A worker with `backend: webgpu` answers on the tiny checkpoint, on a software Vulkan device.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import { ask } from "../harness/openai.ts";
import { root, type Target } from "../harness/product.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove } from "./world.ts";

let target: Target;
let moe: Deployed;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
});
after(async () => {
  if (moe) await remove(moe);
});

test("one rank on webgpu gives the text of the cpu backend", async () => {
  const sample = parse(readFileSync(join(root, "crds/samples/tiny-webgpu.yaml"), "utf8")) as any;
  sample.spec.podTemplate = { spec: { containers: [{ name: "runtime", image: "enodia/runtime:dev-swiftshader" }] } };
  moe = await deploy(target, "e2e-webgpu", sample);
  const request = { model: "tiny", prompt: "hello world", maxTokens: 8, api: "text" as const };
  const gpu = await ask({ url: await moe.url(), ...request });
  const cpu = await deploy(target, "e2e-webgpu-cpu", {
    ...sample,
    spec: { ...sample.spec, runtime: { ...sample.spec.runtime, backend: "cpu" } },
  });
  try {
    assert.equal((await ask({ url: await cpu.url(), ...request })).text, gpu.text);
    assert.ok(gpu.chunks > 0);
  } finally {
    await remove(cpu);
  }
});
