// The cgroup trees of a cluster on v1, hybrid and pure v2 machines: making them, joining them, ending what runs in them. Limits of pods
// are the kubelet's.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "./exec.ts";
import { ClusterError } from "./names.ts";

const mountPoint = "/sys/fs/cgroup";
const killRoundsMax = 50;
const killRoundMs = 100;

/** Every hierarchy's mount point: one for pure v2, one per controller (plus `systemd`, `unified`) otherwise. */
function hierarchies(): string[] {
  if (isPureV2()) return [mountPoint];
  const seen = new Set<string>();
  for (const line of readFileSync("/proc/self/mounts", "utf8").split("\n")) {
    const [, folder, type] = line.split(" ");
    if (folder?.startsWith(`${mountPoint}/`) && (type === "cgroup" || type === "cgroup2")) seen.add(folder);
  }
  if (seen.size === 0) throw new ClusterError(`no cgroup hierarchy is mounted below ${mountPoint}: mount cgroup2 there`);
  return [...seen];
}

function isPureV2(): boolean {
  return existsSync(join(mountPoint, "cgroup.controllers"));
}

function enableControllers(folder: string): void {
  const controllers = readFileSync(join(folder, "cgroup.controllers"), "utf8").trim().split(/\s+/).filter(Boolean);
  for (const controller of controllers) {
    try {
      writeFileSync(join(folder, "cgroup.subtree_control"), `+${controller}`);
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code;
      const need = ["cpu", "memory", "pids", "cpuset"].includes(controller);
      if (need && code === "EBUSY") {
        throw new ClusterError(
          `cgroup ${folder} holds processes of its own, so ${controller} cannot be handed down: in a container, move them to a child cgroup first`,
        );
      }
    }
  }
}

/** Makes `path` in one hierarchy, level by level: v1 cpusets start empty and v2 children start without controllers. */
function makeIn(hierarchy: string, path: string): void {
  let folder = hierarchy;
  for (const part of path.split("/")) {
    const parent = folder;
    folder = join(parent, part);
    if (existsSync(join(parent, "cgroup.controllers")) && isPureV2()) enableControllers(parent);
    mkdirSync(folder, { recursive: true });
    for (const file of ["cpuset.cpus", "cpuset.mems"]) {
      const target = join(folder, file);
      if (isPureV2() || !existsSync(target) || readFileSync(target, "utf8").trim() !== "") continue;
      writeFileSync(target, readFileSync(join(parent, file), "utf8").trim());
    }
  }
}

export function makeCgroup(path: string): void {
  for (const hierarchy of hierarchies()) makeIn(hierarchy, path);
}

/** Gives a cluster's tree the weight of several processes: it stands for whole machines, beside single tasks of this one. */
export function favour(path: string): void {
  for (const [file, weight] of [
    ["cpu/%/cpu.shares", "16384"],
    ["cpu,cpuacct/%/cpu.shares", "16384"],
    ["%/cpu.weight", "1600"],
  ] as const) {
    const target = join(mountPoint, file.replace("%", path));
    if (existsSync(target)) writeFileSync(target, weight);
  }
}

/** Gives what runs there so much memory, as a container's limit does; node sizes its heap by it. */
export function limitMemory(path: string, bytes: number): void {
  for (const file of ["memory/%/memory.limit_in_bytes", "%/memory.max"]) {
    const target = join(mountPoint, file.replace("%", path));
    if (existsSync(target)) writeFileSync(target, String(bytes));
  }
}

/** Hands a node's controllers down, as cgroup v2 asks before the kubelet makes `kubepods` in it. */
export function delegateCgroup(path: string): void {
  if (isPureV2()) enableControllers(join(mountPoint, path));
}

/** The `cgroup.procs` files a process writes itself into before it becomes the program. */
export function joinFiles(path: string): string[] {
  return hierarchies().map((hierarchy) => join(hierarchy, path, "cgroup.procs"));
}

function* walk(folder: string): Generator<string> {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) yield* walk(join(folder, entry.name));
  }
  yield folder;
}

/** All processes anywhere below `path`, as this process's pid namespace numbers them. */
export function cgroupPids(path: string): number[] {
  const pids = new Set<number>();
  for (const hierarchy of hierarchies()) {
    for (const folder of walk(join(hierarchy, path))) {
      for (const line of readFileOr(join(folder, "cgroup.procs")).split("\n")) if (Number(line) > 0) pids.add(Number(line));
    }
  }
  return [...pids];
}

function readFileOr(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // a cgroup may go while it is read
  }
}

/** Kills every process below `path` until none is left. */
export async function killCgroup(path: string): Promise<void> {
  for (let round = 0; round < killRoundsMax; round++) {
    const pids = cgroupPids(path);
    if (pids.length === 0) return;
    for (const pid of pids) kill(pid);
    await sleep(killRoundMs);
  }
  throw new ClusterError(`processes ${cgroupPids(path).join(", ")} in cgroup ${path} do not end on SIGKILL: look at /proc/<pid>/stack`);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it ended by itself in the meantime
  }
}

/** Removes the tree, deepest first; a freshly killed process may hold its cgroup for a moment. */
export async function removeCgroup(path: string): Promise<void> {
  for (let round = 0; round < killRoundsMax; round++) {
    let left = 0;
    for (const hierarchy of hierarchies()) {
      for (const folder of walk(join(hierarchy, path))) {
        try {
          rmdirSync(folder);
        } catch (cause) {
          if ((cause as NodeJS.ErrnoException).code !== "ENOENT") left++;
        }
      }
    }
    if (left === 0) return;
    await sleep(killRoundMs);
  }
  throw new ClusterError(`cgroup ${path} cannot be removed: something still runs in it`);
}

export function cgroupExists(path: string): boolean {
  return hierarchies().some((hierarchy) => existsSync(join(hierarchy, path)));
}
