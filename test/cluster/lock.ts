// One command at a time per cluster: a lock folder that names its holder, so that a dead holder's lock is taken over.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "./exec.ts";
import { ClusterError } from "./names.ts";
import { isAlive, startTimeOf } from "./processes.ts";
import { type ProcessRecord, stateRoot } from "./state.ts";

const waitMs = 5 * 60_000;
const everyMs = 200;
/** A lock without a holder's file is being taken right now, or its taker died within that moment. */
const emptyLockMs = 2_000;

function holder(folder: string): ProcessRecord | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, "holder.json"), "utf8")) as ProcessRecord;
  } catch {
    return undefined;
  }
}

/** Runs `work` while no other process works on the same cluster; waits up to five minutes for its turn. */
export async function withLock<T>(name: string, work: () => Promise<T>): Promise<T> {
  mkdirSync(stateRoot(), { recursive: true, mode: 0o755 });
  const folder = join(stateRoot(), `.lock-${name}`);
  const start = Date.now();
  for (;;) {
    try {
      mkdirSync(folder);
      break;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "EEXIST") throw cause;
    }
    const other = holder(folder);
    const waited = Date.now() - start;
    if (other === undefined ? waited > emptyLockMs : !isAlive(other)) rmSync(folder, { recursive: true, force: true });
    else if (waited > waitMs)
      throw new ClusterError(`cluster "${name}" is being changed by process ${other?.pid ?? "?"}: wait for it or end it`);
    else await sleep(everyMs);
  }
  try {
    const self: ProcessRecord = { role: "lock", pid: process.pid, startTime: startTimeOf(process.pid) ?? "" };
    writeFileSync(join(folder, "holder.json"), JSON.stringify(self));
    return await work();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
