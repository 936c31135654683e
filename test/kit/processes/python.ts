// Python with packages that the product does not have: an environment of its own in the cache for each set, made on first use.
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot } from "../../cluster/binaries.ts";
import { execOk } from "./process.ts";

/** The interpreter of the environment `name`, which should change with the versions of `packages`. */
export async function pythonWith(name: string, packages: readonly string[], log: (line: string) => void): Promise<string> {
  const folder = join(cacheRoot(), name);
  const python = join(folder, "bin/python");
  if (existsSync(join(folder, "ready"))) return python;
  log(`a Python environment with ${packages.join(", ")} is made in ${folder}`);
  rmSync(folder, { recursive: true, force: true });
  await execOk("python3", ["-m", "venv", folder]);
  await execOk(python, ["-m", "pip", "install", "--quiet", ...packages]);
  writeFileSync(join(folder, "ready"), "");
  return python;
}
