// A Vulkan driver in software for machines without a GPU: Mesa's llvmpipe and what it links to, from Debian's packages unpacked into the
// user's cache. Nothing is installed. Answers the environment of a process that is to use it.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot } from "../cluster/binaries.ts";
import { run } from "../cluster/exec.ts";
import { type Asked, fetched, type Within } from "./fetched.ts";

/** 62 MB; the C and C++ libraries are the machine's own. */
const packages = [
  ...["mesa-vulkan-drivers", "libvulkan1", "libllvm15", "libdrm2", "libexpat1", "libffi8", "libwayland-client0", "libxshmfence1"],
  ...["libx11-xcb1", "libxcb1", "libxcb-dri3-0", "libxcb-present0", "libxcb-randr0", "libxcb-shm0", "libxcb-sync1", "libxcb-xfixes0"],
  ...["libxau6", "libxdmcp6", "libbsd0", "libmd0", "libedit2", "libtinfo6", "libz3-4", "libxml2", "libicu72", "libzstd1", "liblzma5"],
];
const librariesAt = "usr/lib/x86_64-linux-gnu";

export async function lavapipe(asked: Asked, left: Within): Promise<Readonly<Record<string, string>>> {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new Error(`it is of linux x64, not of ${process.platform} ${process.arch}`);
  const root = join(cacheRoot(), "lavapipe");
  const hash = createHash("sha256").update(packages.join("\n")).digest("hex");
  const files = join(root, `files-${hash.slice(0, 12)}`);
  await fetched(files, asked, async (own) => {
    asked.log(`downloading ${packages.length} Debian packages for a Vulkan driver in software`);
    await unpack(own, left);
    const icd = { library_path: `./${librariesAt}/libvulkan_lvp.so`, api_version: "1.1.230" };
    writeFileSync(join(own, "files", "driver.json"), JSON.stringify({ file_format_version: "1.0.0", ICD: icd }));
    return "files";
  });
  return {
    VK_ICD_FILENAMES: join(files, "driver.json"),
    LD_LIBRARY_PATH: `${join(files, librariesAt)}:${join(files, "lib/x86_64-linux-gnu")}`,
    MESA_SHADER_CACHE_DIR: join(root, "shaders"), // compiled kernels, which take most of a first run
  };
}

/** By the machine's lists of packages; where those are missing or too old, by lists of our own: the machine's stay as they are. */
async function unpack(folder: string, left: Within): Promise<void> {
  const first = await run("apt-get", ["download", ...packages], Object.assign(left(folder), { allowFailure: true }));
  if (first.code !== 0) {
    const [lists, cache] = [join(folder, "lists"), join(folder, "cache")];
    for (const each of [lists, cache]) mkdirSync(join(each, "partial"), { recursive: true });
    const own = ["-o", `Dir::State::lists=${lists}`, "-o", `Dir::Cache=${cache}`, "-o", "APT::Sandbox::User=root"];
    await run("apt-get", [...own, "update"], left(folder));
    await run("apt-get", [...own, "download", ...packages], left(folder));
  }
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".deb"))) {
    await run("dpkg-deb", ["-x", file, "files"], left(folder));
  }
}
