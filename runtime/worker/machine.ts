// The name of the machine this process runs on: Linux draws an id at each boot, the same one in all containers of the machine. Pods
// on nodes that are containers themselves share a machine as well.
import { readFileSync } from "node:fs";

const bootIdFile = "/proc/sys/kernel/random/boot_id";
const idCharsMax = 64;

/** The machine's id; undefined where the kernel does not tell. */
export function machineId(): string | undefined {
  try {
    return readFileSync(bootIdFile, "utf8").trim().slice(0, idCharsMax) || undefined;
  } catch {
    return undefined;
  }
}
