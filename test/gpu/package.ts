// The package of ggml's Vulkan library in the user's cache, for processes that are to find it there: node_modules stays as it is, from
// which images are made. Answers the environment of such a process.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { librariesOf, packageVersion } from "../../runtime/compute/ggml/packages.ts";
import { cacheRoot } from "../cluster/binaries.ts";
import { run } from "../cluster/exec.ts";
import { type Asked, fetched, type Within } from "./fetched.ts";
import { libraryVariable } from "./find-library.ts";

/** 24 MB. */
export async function vulkanPackage(asked: Asked, left: Within): Promise<Readonly<Record<string, string>>> {
  const [library] = librariesOf("vulkan", process.platform, process.arch);
  if (library === undefined) throw new Error(`there is no Vulkan library for ${process.platform} on ${process.arch}`);
  const folder = join(cacheRoot(), "ggml-vulkan", packageVersion);
  await fetched(folder, asked, async (own) => {
    asked.log(`downloading ${library.package}@${packageVersion}`);
    const packed = await run("npm", ["pack", "--silent", `${library.package}@${packageVersion}`], left(own));
    await run("tar", ["-xzf", packed.stdout.trim()], left(own));
    return "package";
  });
  const hook = pathToFileURL(join(import.meta.dirname, "find-library.ts")).href;
  return { [libraryVariable]: folder, NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ""} --import ${hook}`.trim() };
}
