// The process of a pod on the local cluster, whose nodes all run on this machine: what is killed where a pod is to die without a word.
import { readdirSync, readFileSync } from "node:fs";

const program = "/usr/local/bin/node";

/** The process of our program in a pod, as this machine numbers it: the first in the pod's group of processes. */
export async function processOf(podUid: string): Promise<number> {
  const read = (pid: number, file: string): string => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, "utf8");
    } catch {
      return ""; // it has ended since
    }
  };
  const all = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  const found = all
    .map(Number)
    .filter((pid) => read(pid, "cgroup").includes(`/pod${podUid}/`) && read(pid, "cmdline").startsWith(`${program}\0`));
  if (found.length === 0) throw new Error(`process of pod ${podUid} not found`);
  return Math.min(...found);
}
