// The processes of a local cluster's control plane, by the name of their program.
import { readdirSync, readFileSync } from "node:fs";
import { ClusterError } from "./names.ts";
import { readState } from "./state.ts";

const parentOf = (pid: number): number => Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/** Its pid. When it ends its supervisor starts it again after a second; a shell of each program's own stands between the two. */
export function controlProcess(cluster: string, program: string): number {
  const supervisors = new Set(readState(cluster)?.control.map(({ pid }) => pid));
  const found = readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .find((pid) => {
      try {
        const [command = ""] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return command.split("/").at(-1) === program && supervisors.has(parentOf(parentOf(pid)));
      } catch {
        return false; // it has ended since
      }
    });
  if (found === undefined) throw new ClusterError(`no ${program} of cluster "${cluster}" runs`);
  return found;
}
