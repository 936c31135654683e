// Has a process and its children find the package of ggml's Vulkan library in the folder that a variable names, by `node --import`.
import { registerHooks } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { librariesOf } from "../../runtime/compute/ggml/packages.ts";

export const libraryVariable = "ENODIA_VULKAN_PACKAGE";

const folder = process.env[libraryVariable];
const [library] = librariesOf("vulkan", process.platform, process.arch);

if (folder !== undefined) {
  registerHooks({
    resolve: (name, context, next) =>
      name === library?.package ? { url: pathToFileURL(join(folder, "dist/index.js")).href, shortCircuit: true } : next(name, context),
  });
}
