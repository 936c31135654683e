// The package of ggml's Vulkan library in the user's cache, for processes that are to find it there: node_modules stays as it is, from
// which images are made. Answers the environment of such a process.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { librariesOf, packageVersion } from "../../runtime/compute/ggml/packages.ts";
import { cacheRoot } from "../cluster/binaries.ts";
import { run } from "../cluster/exec.ts";
import { libraryVariable } from "./find-library.ts";

/** Of 24 MB. */
const downloadTimeoutMs = 5 * 60_000;

export async function vulkanPackage(log: (line: string) => void): Promise<Readonly<Record<string, string>>> {
  const [library] = librariesOf("vulkan", process.platform, process.arch);
  if (library === undefined) throw new Error(`there is no Vulkan library for ${process.platform} on ${process.arch}`);
  const root = join(cacheRoot(), "ggml-vulkan");
  const folder = join(root, packageVersion);
  if (!existsSync(folder)) {
    mkdirSync(root, { recursive: true });
    const own = mkdtempSync(join(root, "new-"));
    try {
      log(`downloading ${library.package}@${packageVersion}`);
      const options = { cwd: own, timeoutMs: downloadTimeoutMs };
      const packed = await run("npm", ["pack", "--silent", `${library.package}@${packageVersion}`], options);
      await run("tar", ["-xzf", packed.stdout.trim()], options);
      if (!existsSync(folder)) renameSync(join(own, "package"), folder); // whole, or not there
    } finally {
      rmSync(own, { recursive: true, force: true });
    }
  }
  const hook = pathToFileURL(join(import.meta.dirname, "find-library.ts")).href;
  return { [libraryVariable]: folder, NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ""} --import ${hook}`.trim() };
}
