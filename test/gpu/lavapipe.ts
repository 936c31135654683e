// A Vulkan driver in software for machines without a GPU: Mesa's llvmpipe and what it links to, from Debian's packages unpacked into the
// user's cache. Nothing is installed. Answers the environment of a process that is to use it.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot } from "../cluster/binaries.ts";
import { run } from "../cluster/exec.ts";

/** 62 MB; the C and C++ libraries are the machine's own. */
const packages = [
  ...["mesa-vulkan-drivers", "libvulkan1", "libllvm15", "libdrm2", "libexpat1", "libffi8", "libwayland-client0", "libxshmfence1"],
  ...["libx11-xcb1", "libxcb1", "libxcb-dri3-0", "libxcb-present0", "libxcb-randr0", "libxcb-shm0", "libxcb-sync1", "libxcb-xfixes0"],
  ...["libxau6", "libxdmcp6", "libbsd0", "libmd0", "libedit2", "libtinfo6", "libz3-4", "libxml2", "libicu72", "libzstd1", "liblzma5"],
];
const downloadTimeoutMs = 5 * 60_000;

export async function lavapipe(log: (line: string) => void): Promise<Readonly<Record<string, string>>> {
  const root = join(cacheRoot(), "lavapipe");
  const files = join(root, "files");
  if (!existsSync(files)) {
    mkdirSync(root, { recursive: true });
    const own = mkdtempSync(join(root, "new-"));
    try {
      await unpack(own, log);
      if (!existsSync(files)) renameSync(join(own, "files"), files); // whole, or not there
    } finally {
      rmSync(own, { recursive: true, force: true });
    }
  }
  const libraries = join(files, "usr/lib/x86_64-linux-gnu");
  const driver = join(root, "driver.json");
  const icd = { library_path: join(libraries, "libvulkan_lvp.so"), api_version: "1.1.230" };
  writeFileSync(driver, JSON.stringify({ file_format_version: "1.0.0", ICD: icd }));
  return {
    VK_ICD_FILENAMES: driver,
    LD_LIBRARY_PATH: `${libraries}:${join(files, "lib/x86_64-linux-gnu")}`,
    MESA_SHADER_CACHE_DIR: join(root, "shaders"), // compiled kernels, which take most of a first run
  };
}

async function unpack(folder: string, log: (line: string) => void): Promise<void> {
  log(`downloading ${packages.length} Debian packages for a Vulkan driver in software`);
  const options = { cwd: folder, timeoutMs: downloadTimeoutMs };
  const first = await run("apt-get", ["download", ...packages], { ...options, allowFailure: true });
  if (first.code !== 0) {
    await run("apt-get", ["update"], options);
    await run("apt-get", ["download", ...packages], options);
  }
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".deb"))) {
    await run("dpkg-deb", ["-x", file, "files"], options);
  }
}
