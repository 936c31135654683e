// The process of a pod on the local cluster, whose nodes all run on this machine: what is killed where a pod is to die without a word.
import { readdirSync, readFileSync } from "node:fs";

/** The first word of its command, however it is named. */
const program = /^([^\0]*\/)?node\0/;

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
  const found = all.map(Number).filter((pid) => read(pid, "cgroup").includes(`/pod${podUid}/`) && program.test(read(pid, "cmdline")));
  if (found.length === 0) throw new Error(`process of pod ${podUid} not found`);
  return Math.min(...found);
}
