// CPU time and memory of a process, as the kernel counts them.
import { readFileSync } from "node:fs";

const tickHz = 100;

/** Seconds of CPU since its start, of all its threads. */
export function cpuSecondsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // from field 3 on, as the name may hold blanks
  return (Number(fields[11]) + Number(fields[12])) / tickHz;
}

/** MiB now, and the most so far. */
export function memoryOf(pid: number): { readonly rss: number; readonly peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) / 1024;
  return { rss: field("VmRSS"), peak: field("VmHWM") };
}
