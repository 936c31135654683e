// CPU quotas for processes of a benchmark: a cgroup of its own for each, with cpu.max on cgroup v2 or cpu.cfs_quota_us on v1. Where
// neither may be written the reason is said, and the rows that need quotas are left out.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** The kernel hands the quota out anew in each period, and who has used it up stands still until then: a shorter one than its 100 ms, so
 *  that a token does not wait for the next. */
const periodMicroseconds = 10_000;
/** Below it the kernel refuses. */
const quotaMicrosecondsMin = 1_000;

export interface QuotaGroup {
  /** Puts a process and all its threads under the quota. */
  join(pid: number): void;
  /** Once its processes are gone. A process that has just ended may hold it for a moment: then it is left for the next benchmark. */
  remove(): void;
}

/** The files that set a quota, with what is written into them. */
export function quotaFiles(cpus: number, version: 1 | 2): Readonly<Record<string, string>> {
  const quota = Math.max(quotaMicrosecondsMin, Math.round(cpus * periodMicroseconds));
  if (version === 2) return { "cpu.max": `${quota} ${periodMicroseconds}` };
  return { "cpu.cfs_period_us": String(periodMicroseconds), "cpu.cfs_quota_us": String(quota) };
}

const mount = "/sys/fs/cgroup";

/** Where groups with a CPU controller are made, and of which version they are. */
function controller(root: string): { readonly folder: string; readonly version: 1 | 2 } | undefined {
  const pure = join(root, "cgroup.controllers");
  if (existsSync(pure)) return readFileSync(pure, "utf8").includes("cpu") ? { folder: root, version: 2 } : undefined;
  const folder = ["cpu", "cpu,cpuacct"].map((name) => join(root, name)).find((path) => existsSync(join(path, "cgroup.procs")));
  if (folder === undefined) return undefined;
  // Below the own group its share and quota hold on. On v2 a group with processes can have no groups with a quota.
  const own = join(folder, root === mount ? ownGroup(readFileSync("/proc/self/cgroup", "utf8")) : "");
  return { folder: existsSync(join(own, "cgroup.procs")) ? own : folder, version: 1 };
}

/** The group of the cpu controller that this process is in, from /proc/self/cgroup. */
export function ownGroup(text: string): string {
  const lines = text.split("\n").map((line) => line.split(":"));
  return lines.find(([, controllers]) => controllers?.split(",").includes("cpu"))?.[2] ?? "/";
}

const prefix = "enodia-bench-";

/** Leaves a group that has processes. */
function removeEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // something is in it
  }
}

/** Removes the groups of a benchmark that was killed: nothing is in them any more. */
export function removeLeftGroups(root = mount): void {
  const folder = controller(root)?.folder;
  if (folder === undefined) return;
  for (const name of readdirSync(folder).filter((each) => each.startsWith(prefix))) removeEmpty(join(folder, name));
}

/** A group that may use so many CPUs; or the reason why there is none. */
export function quotaGroup(name: string, cpus: number, root = mount): QuotaGroup | { readonly reason: string } {
  const found = controller(root);
  if (found === undefined) return { reason: `no cgroup with a cpu controller below ${root}` };
  const folder = join(found.folder, `${prefix}${name}`);
  try {
    if (found.version === 2) writeFileSync(join(found.folder, "cgroup.subtree_control"), "+cpu");
    mkdirSync(folder, { recursive: true });
    for (const [file, value] of Object.entries(quotaFiles(cpus, found.version))) writeFileSync(join(folder, file), value);
  } catch (caught) {
    return { reason: `${folder}: ${caught instanceof Error ? caught.message : caught}; run it as root, with cgroups that may be written` };
  }
  return {
    join: (pid) => writeFileSync(join(folder, "cgroup.procs"), String(pid)),
    remove: () => removeEmpty(folder),
  };
}
