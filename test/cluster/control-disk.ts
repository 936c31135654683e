// The disk of a local cluster's etcd: one of its own, in memory, so that it can be full while the machine's is not.
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { run } from "./exec.ts";
import { ClusterError, type ClusterNames } from "./names.ts";
import { namesOf, readState } from "./state.ts";

/** Of logs that are written ahead etcd keeps five of 64 MB, and begins a sixth. */
const usualMiB = 768;
const chunkBytes = 1024 * 1024;

const diskOf = (cluster: ClusterNames): string => join(cluster.folder, "etcd");

/** Where etcd keeps its data. */
export const etcdData = (cluster: ClusterNames): string => join(diskOf(cluster), "data");

/** Makes the disk where there is none. It goes with the cluster, as all that is mounted below its folder. It has memory as it fills. */
export async function makeEtcdDisk(cluster: ClusterNames, sizeMiB = usualMiB): Promise<void> {
  const disk = diskOf(cluster);
  mkdirSync(disk, { recursive: true, mode: 0o700 });
  if (
    readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .some((line) => line.split(" ")[1] === disk)
  )
    return;
  await run("mount", ["-t", "tmpfs", "-o", `size=${sizeMiB}m,mode=0700`, "enodia-etcd", disk]);
}

/** Writes until nothing more fits; the call that is returned makes room again. */
export function fillEtcdDisk(name: string): () => void {
  const state = readState(name);
  if (!state) throw new ClusterError(`no cluster "${name}"`);
  const file = join(diskOf(namesOf(state)), "filler");
  const handle = openSync(file, "w");
  try {
    for (let bytes = chunkBytes; bytes >= 1; ) {
      try {
        writeSync(handle, Buffer.alloc(bytes));
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== "ENOSPC") throw cause;
        bytes = Math.floor(bytes / 2);
      }
    }
  } finally {
    closeSync(handle);
  }
  return () => rmSync(file, { force: true });
}
