// The processes of a local cluster's control plane and its kubelets, by the name of their program.
import { readdirSync, readFileSync } from "node:fs";
import { ClusterError } from "./names.ts";
import { readState } from "./state.ts";

const parentOf = (pid: number): number => Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/** The first process whose command is the program, and of which the rest holds; undefined once it has ended. */
function processThat(program: string, holds: (pid: number, args: readonly string[]) => boolean): number | undefined {
  const all = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return all.map(Number).find((pid) => {
    try {
      const [command = "", ...args] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return command.split("/").at(-1) === program && holds(pid, args);
    } catch {
      return false; // it has ended since
    }
  });
}

/** Its pid. When it ends its supervisor starts it again after a second; a shell of each program's own stands between the two. */
export function controlProcess(cluster: string, program: string): number {
  const supervisors = new Set(readState(cluster)?.control.map(({ pid }) => pid));
  const found = processThat(program, (pid) => supervisors.has(parentOf(parentOf(pid))));
  if (found === undefined) throw new ClusterError(`no ${program} of cluster "${cluster}" runs`);
  return found;
}

export function kubeletOf(node: string): number {
  const found = processThat("kubelet", (_, args) => args.some((arg) => arg === node || arg === `--hostname-override=${node}`));
  if (found === undefined) throw new ClusterError(`no kubelet of node "${node}" runs`);
  return found;
}
