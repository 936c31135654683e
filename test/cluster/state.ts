// The record of one local cluster on disk: the things that `down` may touch. It is written before a thing is made, so that a run that
// dies leaves nothing unrecorded.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ClusterError, type ClusterNames, checkName, clusterNames, nodesMax, slotsCount } from "./names.ts";

/** A pid alone may be reused by a stranger; with its start time it names one process for good. */
export interface ProcessRecord {
  readonly role: string;
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat, clock ticks since boot. */
  readonly startTime: string;
}

export interface NodeState {
  readonly index: number;
  /** `off` = killed as by a power cut; `startNode` makes it `on` again. */
  power: "on" | "off";
  link: "up" | "cut";
  processes: ProcessRecord[];
}

export interface ClusterState {
  readonly version: 1;
  readonly name: string;
  readonly slot: number;
  /** `starting` is also what a run that died half-way leaves. */
  phase: "starting" | "up" | "stopping";
  control: ProcessRecord[];
  nodes: NodeState[];
  /** iptables rules of the host, each as the arguments after -I or -D. */
  firewall: string[][];
  /** Image tars imported so far, for nodes that come later. */
  images: string[];
  /** The host before the first cluster, for the last one to restore. */
  host?: { readonly settings: Readonly<Record<string, string>>; readonly folders: readonly string[] };
  /** Boot id of the machine: after a reboot no recorded pid means anything. */
  readonly bootId: string;
}

const stateFile = "state.json";

export function stateRoot(): string {
  return process.env.ENODIA_STATE || "/var/lib/enodia-clusters";
}

export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

export function emptyState(name: string, slot: number): ClusterState {
  return { version: 1, name, slot, phase: "starting", control: [], nodes: [], firewall: [], images: [], bootId: bootId() };
}

/** Pid 0 and negative ones would name groups of processes, or all. */
const processSchema = z.object({ role: z.string(), pid: z.int().min(2), startTime: z.string().regex(/^\d+$/) });

/** What is ended, unmounted and removed is named here: a damaged or foreign file must not name anything else. */
const stateSchema = z.object({
  version: z.literal(1),
  name: z.string(),
  slot: z
    .int()
    .min(0)
    .max(slotsCount - 1),
  phase: z.enum(["starting", "up", "stopping"]),
  control: z.array(processSchema),
  nodes: z.array(
    z.object({
      index: z.int().min(1).max(nodesMax),
      power: z.enum(["on", "off"]),
      link: z.enum(["up", "cut"]),
      processes: z.array(processSchema),
    }),
  ),
  firewall: z.array(z.array(z.string())).default([]),
  images: z.array(z.string()).default([]),
  host: z.object({ settings: z.record(z.string().regex(/^[\w/]+$/), z.string()), folders: z.array(z.string()) }).exactOptional(),
  bootId: z.string(),
});

/** Parses the text of the state file of the cluster `name`; throws with the remedy when it is not one. */
export function parseState(text: string, file: string, name: string): ClusterState {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // told below, with everything else that is not a state
  }
  const parsed = stateSchema.safeParse(value);
  const remedy = `"down" cannot use it; remove the folder by hand if the cluster is gone`;
  if (!parsed.success) {
    const field = parsed.error.issues[0]?.path.join(".") || "top level";
    throw new ClusterError(`${file} is not a cluster state of version 1 (${field}): ${remedy}`);
  }
  if (parsed.data.name !== name)
    throw new ClusterError(`${file} is the state of the cluster "${parsed.data.name}", not of "${name}": ${remedy}`);
  return parsed.data;
}

export function readState(name: string): ClusterState | undefined {
  const file = join(stateRoot(), name, stateFile);
  if (!existsSync(file)) return undefined;
  return parseState(readFileSync(file, "utf8"), file, name);
}

/** A cluster of this name would take the folder as its own, and remove it when it goes: there must be nothing of anybody else's in it. */
export function refuseForeignFolder(name: string): void {
  const folder = join(stateRoot(), name);
  if (!existsSync(folder) || existsSync(join(folder, stateFile))) return;
  const other = readdirSync(folder).find((entry) => !entry.startsWith(`.${stateFile}.`));
  if (other === undefined) return;
  throw new ClusterError(
    `${folder} holds "${other}" and no cluster state, so it is no cluster's: set ENODIA_STATE to a folder for clusters alone, or use another --name`,
  );
}

export function namesOf(state: ClusterState): ClusterNames {
  return clusterNames(state.name, state.slot, stateRoot());
}

/** Replaces the file in one step. */
export function writeState(state: ClusterState): void {
  const folder = join(stateRoot(), state.name);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const unfinished = join(folder, `.${stateFile}.${process.pid}`);
  writeFileSync(unfinished, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 });
  renameSync(unfinished, join(folder, stateFile));
}

/** All clusters with a state file here, whatever their phase. */
export function clusterStates(): ClusterState[] {
  if (!existsSync(stateRoot())) return [];
  return readdirSync(stateRoot())
    .filter((name) => existsSync(join(stateRoot(), name, stateFile)))
    .map((name) => readState(name))
    .filter((state) => state !== undefined);
}

export function removeFolder(name: string): void {
  checkName(name); // a name with a dot or slash would lead elsewhere
  rmSync(join(stateRoot(), name), { recursive: true, force: true, maxRetries: 3 });
}
