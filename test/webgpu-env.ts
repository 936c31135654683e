// A Vulkan device in software (SwiftShader) for GPU tests on machines without a GPU: Debian's chromium-common unpacked into the
// user's cache, nothing installed. Import this file FIRST in a test: the Vulkan loader's folder must be in the environment when
// the process starts, so the test process replaces itself once. With VK_ICD_FILENAMES set by the user, his driver is tested.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

const packageName = "chromium-common";
const downloadTimeoutMs = 300_000;

function cacheFolder(): string {
  const root = process.env.ENODIA_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");
  return join(root, "swiftshader");
}

function attempt(command: string, args: readonly string[], cwd: string): string | undefined {
  const done = spawnSync(command, args, { cwd, encoding: "utf8", timeout: downloadTimeoutMs });
  if (done.status === 0) return undefined;
  return `${command} ${args.join(" ")}: ${done.error?.message ?? (done.stderr.trim() || `exit code ${done.status}`)}`;
}

/** Downloads and unpacks into a folder of its own, then renames: two test processes may do it at once. */
function unpack(target: string): void {
  mkdirSync(join(target, ".."), { recursive: true });
  const work = mkdtempSync(`${target}-`);
  try {
    let failed = attempt("apt-get", ["download", packageName], work);
    if (failed) failed = attempt("apt-get", ["update"], work) ?? attempt("apt-get", ["download", packageName], work);
    const deb = readdirSync(work).find((name) => name.endsWith(".deb"));
    failed ??= deb ? attempt("dpkg-deb", ["-x", deb, "files"], work) : "apt-get download left no package";
    const libraries = join(work, "files/usr/lib/chromium");
    if (!failed && !existsSync(join(libraries, "vk_swiftshader_icd.json"))) failed = `${packageName} holds no vk_swiftshader_icd.json`;
    if (failed) {
      throw new Error(
        `GPU tests need SwiftShader and it could not be prepared: ${failed}\n` +
          `Remedy: run as root on Debian with its package mirror reachable, or set VK_ICD_FILENAMES to the ICD file of a Vulkan driver ` +
          `and LD_LIBRARY_PATH to the folder of libvulkan.so.1.`,
      );
    }
    if (!existsSync(target)) renameSync(libraries, target);
  } catch (error) {
    if (!existsSync(target)) throw error; // another process finished first
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Environment that makes SwiftShader the Vulkan device of a process started with it. */
function swiftshaderEnv(): Record<string, string> {
  const folder = cacheFolder();
  if (!existsSync(join(folder, "vk_swiftshader_icd.json"))) unpack(folder);
  return {
    VK_ICD_FILENAMES: join(folder, "vk_swiftshader_icd.json"),
    LD_LIBRARY_PATH: [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(":"),
    XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? tmpdir(),
  };
}

if (!process.env.VK_ICD_FILENAMES) {
  const environment = { ...process.env, ...swiftshaderEnv() };
  process.execve?.(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], environment);
  throw new Error("GPU tests start themselves anew with process.execve: Node >= 22.15 is needed");
}
