// The long-lived processes of a cluster: they are started detached into their cgroup and log file, recorded with their start time, and
// ended by that record only.

import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { joinFiles } from "./cgroups.ts";
import { sleep } from "./exec.ts";
import { ClusterError } from "./names.ts";
import { type ProcessRecord, readState } from "./state.ts";

const endRoundMs = 50;
const endRoundsMax = 200;
const logTailBytes = 1500;

/** Start time of a process in clock ticks since boot; undefined when there is none or only a zombie. */
export function startTimeOf(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The program's name may hold spaces and brackets: count fields after its last bracket. State is field 3, start time field 22.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" ? undefined : fields[19];
}

export function isAlive(record: ProcessRecord): boolean {
  return startTimeOf(record.pid) === record.startTime;
}

/** True while the control plane of the cluster `name` runs. */
export const isRunning = (name: string): boolean => readState(name)?.control.some(isAlive) ?? false;

export interface StartOptions {
  readonly role: string;
  readonly command: readonly string[];
  readonly cgroup: string;
  readonly log: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** The shell puts itself into the cgroup and then becomes the program, so that not even a moment is spent outside of it. */
export function startProcess(options: StartOptions): ProcessRecord {
  const join = joinFiles(options.cgroup)
    .map((file) => `echo 0 > '${file}'`)
    .join(" && ");
  const log = openSync(options.log, "a");
  try {
    const child = spawn("/bin/sh", ["-c", `${join} && ulimit -n 65536; exec "$@"`, "sh", ...options.command], {
      detached: true,
      stdio: ["ignore", log, log],
      cwd: options.cwd,
      env: { PATH: `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`, HOME: "/root", ...options.env },
    });
    child.on("error", () => undefined);
    child.unref();
    const startTime = child.pid === undefined ? undefined : startTimeOf(child.pid);
    if (child.pid === undefined || startTime === undefined) {
      throw new ClusterError(`${options.role} did not start: ${logTail(options.log)}`);
    }
    return { role: options.role, pid: child.pid, startTime };
  } finally {
    closeSync(log);
  }
}

/** Kills recorded processes that are still the recorded ones, and waits until they are gone. */
export async function endProcesses(records: readonly ProcessRecord[]): Promise<void> {
  for (const record of records) {
    if (!isAlive(record)) continue;
    try {
      process.kill(record.pid, "SIGKILL");
    } catch {
      // it ended by itself in the meantime
    }
  }
  for (let round = 0; round < endRoundsMax; round++) {
    if (!records.some(isAlive)) return;
    await sleep(endRoundMs);
  }
  const left = records.filter(isAlive).map((record) => `${record.role} (${record.pid})`);
  throw new ClusterError(`${left.join(", ")} did not end on SIGKILL: look at /proc/<pid>/stack`);
}

export function logTail(file: string): string {
  try {
    return readFileSync(file, "utf8").trim().slice(-logTailBytes);
  } catch {
    return `(no log at ${file})`;
  }
}
