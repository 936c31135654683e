// The process of a pod on the local cluster, whose nodes all run on this machine: what is killed where a pod is to die without a word.
import { exec } from "./process.ts";

/** The runtime process of a pod, as this machine numbers it. */
export async function processOf(podUid: string): Promise<number> {
  const found = await exec("sh", ["-c", `grep -l ENODIA_POD_UID=${podUid} /proc/[0-9]*/environ -a 2>/dev/null | cut -d/ -f3`]);
  const pid = Number(found.stdout.trim().split("\n")[0]);
  if (!(pid > 1)) throw new Error(`process of pod ${podUid} not found`);
  return pid;
}
