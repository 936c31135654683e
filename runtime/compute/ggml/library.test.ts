// The words of refusals where ggml's libraries do not load, and the last line of a process that ggml ends.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { CpuDevice } from "./device.ts";
import { librariesOf, remedyOf } from "./packages.ts";

test("what the dynamic loader says becomes what to do", () => {
  const said = (library: string) => `${library}: cannot open shared object file: No such file or directory`;
  assert.match(remedyOf(said("libcudart.so.13")), /-cuda/);
  assert.match(remedyOf(said("libcuda.so.1")), /nvidia\.com\/gpu/);
  assert.match(remedyOf(said("libvulkan.so.1")), /libvulkan1/);
  assert.match(remedyOf("file too short"), /install the package again/);
});

test("a machine without builds of a kind has no candidates; CUDA 13 is tried before CUDA 12", () => {
  assert.deepEqual(librariesOf("vulkan", "darwin", "arm64"), []);
  assert.deepEqual(
    librariesOf("cuda", "linux", "x64").map(({ package: name }) => name),
    ["@node-llama-cpp/linux-x64-cuda", "@node-llama-cpp/linux-x64-cuda-ext"],
  );
});

test("a build of the CPU's library is taken by its name, and one that does not run here is refused by it", {
  skip: process.arch !== "x64",
}, () => {
  const device = new CpuDevice({ threads: 1, build: "x64" });
  assert.match(device.description, /, x64, /);
  device.close();
  assert.throws(() => new CpuDevice({ threads: 1, build: "z80" }), { code: "BackendUnavailable", message: /no build z80/ });
});

test("before ggml ends the process one line of JSON says why", () => {
  const script = `
    const { CpuDevice } = await import(${JSON.stringify(join(import.meta.dirname, "device.ts"))});
    const device = new CpuDevice({ threads: 1 });
    const { context } = device.metadata(1);
    for (let i = 0; i < 100; i++) device.ggml.ggml_new_tensor_4d(context, 0, 1, 1, 1, 1);`;
  const { stdout, signal } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  assert.equal(signal, "SIGABRT");
  const line = JSON.parse(stdout.trim());
  assert.deepEqual([line.level, line.name, line.code], ["fatal", "ggml", "BackendAborted"]);
  assert.match(line.message, /^ggml ends the process: \S/);
  assert.ok(Date.parse(line.time) > 0);
});
