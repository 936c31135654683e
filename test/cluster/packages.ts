// The host programs a node needs that are not Go modules of ours: found on PATH, or installed with apt when root may.

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { type Log, run } from "./exec.ts";
import { ClusterError } from "./names.ts";

/** Program -> Debian package that has it. */
const programs: Readonly<Record<string, string>> = {
  runc: "runc",
  nft: "nftables",
  ip: "iproute2",
  iptables: "iptables",
  conntrack: "conntrack",
  socat: "socat",
  mount: "mount",
  nsenter: "util-linux",
  unshare: "util-linux",
  openssl: "openssl",
  sysctl: "procps",
};

/** Debian's folder first; the other is where upstream's archive goes. */
const cniFolders = ["/usr/lib/cni", "/opt/cni/bin"];
const cniPlugins = ["ptp", "host-local", "loopback", "portmap"];
const systemFolders = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
const aptTimeoutMs = 10 * 60_000;

function onPath(program: string): boolean {
  const folders = [...(process.env.PATH ?? "").split(delimiter), ...systemFolders];
  return folders.some((folder) => folder !== "" && existsSync(join(folder, program)));
}

export function cniFolder(): string | undefined {
  return cniFolders.find((folder) => cniPlugins.every((plugin) => existsSync(join(folder, plugin))));
}

function missingPackages(): string[] {
  const missing = new Set(
    Object.entries(programs)
      .filter(([program]) => !onPath(program))
      .map(([, name]) => name),
  );
  if (cniFolder() === undefined) missing.add("containernetworking-plugins");
  return [...missing];
}

/** Installs what is missing; throws with the command to run when it cannot. */
export async function ensureHostPackages(log: Log, signal?: AbortSignal): Promise<void> {
  const missing = missingPackages();
  if (missing.length === 0) return;
  if (!onPath("apt-get") || process.getuid?.() !== 0) {
    throw new ClusterError(`missing on this machine: ${missing.join(", ")} (Debian package names); install them and run this again`);
  }
  log(`installing ${missing.join(" ")}`);
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const install = ["install", "-y", "--no-install-recommends", ...missing];
  const first = await run("apt-get", install, { env, signal, timeoutMs: aptTimeoutMs, allowFailure: true });
  if (first.code !== 0) {
    await run("apt-get", ["update"], { env, signal, timeoutMs: aptTimeoutMs });
    await run("apt-get", install, { env, signal, timeoutMs: aptTimeoutMs });
  }
  const still = missingPackages();
  if (still.length > 0) throw new ClusterError(`still missing after apt-get install: ${still.join(", ")}`);
}
