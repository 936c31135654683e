// Choosing and starting backends. What backends compute: test/contract.
import assert from "node:assert/strict";
import { test } from "node:test";
import { backendNames } from "../../crds/names.ts";
import { chooseBackend, createBackend } from "./index.ts";

test("a backend that is named is taken, whatever suits the machine", async () => {
  for (const name of backendNames) assert.equal(await chooseBackend(name), name);
});

test("Auto is cpu, which suits every machine", async () => {
  assert.equal(await chooseBackend("Auto"), "cpu");
});

test("backends start by name, and say theirs before what they run on", async () => {
  for (const name of backendNames) {
    const backend = await createBackend(name, { threads: 1 });
    assert.match(backend.device, new RegExp(`^${name}: `));
    await backend.close();
  }
});
