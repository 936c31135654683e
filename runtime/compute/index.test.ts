// Choosing and starting backends. What backends compute: test/contract.
import assert from "node:assert/strict";
import { test } from "node:test";
import { backendNames } from "../../crds/names.ts";
import { gpuInstalled } from "./ggml/library.ts";
import { gpuNames } from "./ggml/packages.ts";
import { chooseBackend, createBackend } from "./index.ts";

const withGpu = gpuNames.some(gpuInstalled) && "a GPU's library is installed here";

test("a backend that is named is taken, whatever suits the machine", async () => {
  for (const name of backendNames) assert.equal(await chooseBackend(name), name);
});

test("Auto is cpu where no GPU's library is installed", { skip: withGpu }, async () => {
  assert.equal(await chooseBackend("Auto"), "cpu");
});

test("backends start by name, and say theirs before what they run on", async () => {
  for (const name of ["cpu", "reference"] as const) {
    const backend = await createBackend(name, { threads: 1 });
    assert.match(backend.device, new RegExp(`^${name}: `));
    await backend.close();
  }
});

test("a GPU's backend without its library is refused with the package, its version and the image to run", { skip: withGpu }, async () => {
  for (const name of ["cuda", "vulkan"] as const) {
    await assert.rejects(createBackend(name, { threads: 1 }), (error: any) => {
      return (
        error.code === "BackendUnavailable" && error.message.includes(`linux-x64-${name}@`) && error.message.includes(`ends in -${name}`)
      );
    });
  }
});

test("metal is refused with what it wants and what to take instead", async () => {
  const message = /no metal backend for linux.*macOS.*mac-arm64-metal.*spec\.runtime\.backend to cpu/;
  await assert.rejects(createBackend("metal", { threads: 1 }), { code: "BackendUnavailable", message });
});
