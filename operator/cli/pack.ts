// Packs the command line into the folder that it is called in: bundled in dist/, so that only optional parts are installed beside it.
import { spawnSync } from "node:child_process";
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

const root = join(import.meta.dirname, "../..");
const dist = join(root, "dist");
const start = "enodia.js";

function run(command: string, ...args: readonly string[]): void {
  const { status, error } = spawnSync(command, args, { stdio: "inherit" });
  if (status !== 0) throw error ?? new Error(`${command} ended with ${status}`);
}

const { name, version, description, license, type, engines, optionalDependencies } = packageJson;
const bin = Object.fromEntries(["enodia", "kubectl-enodia", "kubectl_complete-enodia"].map((each) => [each, start]));
rmSync(dist, { recursive: true, force: true });
run(
  join(root, "node_modules/.bin/esbuild"),
  ...["operator/cli/main.ts", "runtime/compute/ggml/gpu-probe.ts", "runtime/weights/codecs/encode-thread.ts"].map((file) =>
    join(root, file),
  ),
  ...["--bundle", "--splitting", "--format=esm", "--platform=node", `--outdir=${dist}`, "--entry-names=[name]", "--log-level=error"],
  ...Object.keys(optionalDependencies).map((optional) => `--external:${optional}`),
  // Modules of CommonJS call it.
  `--banner:js=import { createRequire } from "node:module"; const require = createRequire(import.meta.url);`,
);
cpSync(join(root, "operator/cli/start.mjs"), join(dist, start));
cpSync(join(root, "runtime/modelstore/upcycle/topics"), join(dist, "topics"), { recursive: true });
for (const file of ["LICENSE", "README.md"]) cpSync(join(root, file), join(dist, file));
writeFileSync(
  join(dist, "package.json"),
  JSON.stringify({ name, version, description, license, type, engines, bin, optionalDependencies }, null, 2),
);
run("npm", "pack", dist, "--loglevel=error");
