// Choosing and starting backends where no GPU is. What backends compute: test/contract.
import assert from "node:assert/strict";
import { test } from "node:test";
import { backendNames } from "../../crds/names.ts";
import { chooseBackend, createBackend } from "./index.ts";

// No Vulkan driver for this process, whatever the machine has.
process.env.VK_ICD_FILENAMES = "/dev/null";

test("a backend that is named is taken, whatever suits the machine", async () => {
  for (const name of backendNames) assert.equal(await chooseBackend(name), name);
});

test("Auto without a GPU is cpu; webgpu without a GPU is refused with the remedy", async () => {
  assert.equal(await chooseBackend("Auto"), "cpu");
  await assert.rejects(createBackend("webgpu", { threads: 1 }), (error: any) => {
    return error.code === "BackendUnavailable" && /libvulkan1/.test(error.message) && /cpu/.test(error.message);
  });
});

test("the reference backend starts by name", async () => {
  const backend = await createBackend("reference", { threads: 1 });
  assert.match(backend.device, /^reference:/);
  await backend.close();
});
