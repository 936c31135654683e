// The packages and files that a production image holds.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { keepFile, keepSource, productionPackages } from "./node-modules.ts";

const lock = {
  packages: {
    "": { dependencies: { a: "1" }, optionalDependencies: { native: "1" }, devDependencies: { tool: "1" } },
    "node_modules/a": { dependencies: { b: "2" }, peerDependencies: { p: "1", q: "1" }, peerDependenciesMeta: { q: { optional: true } } },
    "node_modules/a/node_modules/b": { dependencies: { c: "1" } },
    "node_modules/b": {},
    "node_modules/c": { dependencies: { a: "1" } },
    "node_modules/native": { dependencies: { only: "1", c: "1" } },
    "node_modules/only": {},
    "node_modules/p": {},
    "node_modules/q": {},
    "node_modules/tool": {},
  },
};

test("production packages are those reached from dependencies, by the nearest copy, without development’s and optional peers", () => {
  const want = ["a", "a/node_modules/b", "c", "native", "only", "p"].map((name) => `node_modules/${name}`);
  assert.deepEqual(productionPackages(lock), want);
});

test("an excluded package takes what only it needs along", () => {
  const want = ["a", "a/node_modules/b", "c", "p"].map((name) => `node_modules/${name}`);
  assert.deepEqual(productionPackages(lock, ["native"]), want);
});

test("the repository’s own lockfile yields every direct dependency and none of the development tools", () => {
  const repo = join(import.meta.dirname, "../..");
  const packages = productionPackages(JSON.parse(readFileSync(join(repo, "package-lock.json"), "utf8")));
  const manifest = JSON.parse(readFileSync(join(repo, "package.json"), "utf8"));
  for (const name of Object.keys(manifest.dependencies)) assert.ok(packages.includes(`node_modules/${name}`), name);
  for (const name of ["typescript", "@biomejs/biome", "knip"]) assert.ok(!packages.includes(`node_modules/${name}`), name);
  const installed = packages.filter((path) => existsSync(join(repo, path)));
  assert.ok(installed.length > 30, String(installed.length));
});

test("native packages keep only this machine’s binaries, all packages lose types and maps but not licences", () => {
  const kept = (name: string, path: string) => keepFile(name, path, "x64");
  assert.ok(kept("@node-llama-cpp/linux-x64", "bins/linux-x64/libggml-cpu-zen4.so"));
  assert.ok(!kept("@node-llama-cpp/linux-x64", "bins/linux-x64/libllama.v0.5.0.so"));
  assert.ok(
    kept("koffi", "index.js") && kept("koffi", "src/koffi/index.js") && !kept("koffi", "vendor/node-api-headers/include/node_api.h"),
  );
  assert.ok(kept("@koromix/koffi-linux-x64", "linux_x64/koffi.node") && !kept("@koromix/koffi-linux-x64", "musl_x64/koffi.node"));
  assert.ok(!kept("any", "lib/index.d.ts") && !kept("any", "lib/index.js.map") && kept("any", "lib/index.js") && kept("any", "LICENSE.md"));
});

test("sources lose their tests", () => {
  assert.ok(keepSource("operator/main.ts") && keepSource("crds/manifests/crd.yaml"));
  assert.ok(!keepSource("operator/planner/plan.test.ts") && !keepSource("runtime/golden/x.json"));
});
