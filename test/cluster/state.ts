// The record of one local cluster on disk: the things that `down` may touch. It is written before a thing is made, so that a run that
// dies leaves nothing unrecorded.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ClusterError, type ClusterNames, clusterNames } from "./names.ts";

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

/** Parses a state file's text; throws with the remedy when it is not one. */
export function parseState(text: string, file: string): ClusterState {
  let value: Partial<ClusterState> | null = null;
  try {
    value = JSON.parse(text) as Partial<ClusterState> | null;
  } catch {
    // told below, with everything else that is not a state
  }
  const whole = value !== null && typeof value === "object" && value.version === 1 && typeof value.name === "string";
  if (!whole || typeof value?.slot !== "number" || !Array.isArray(value.nodes) || !Array.isArray(value.control)) {
    throw new ClusterError(
      `${file} is not a cluster state of version 1: "down" cannot use it; remove the folder by hand if the cluster is gone`,
    );
  }
  return { firewall: [], images: [], ...value } as ClusterState;
}

export function readState(name: string): ClusterState | undefined {
  const file = join(stateRoot(), name, stateFile);
  if (!existsSync(file)) return undefined;
  return parseState(readFileSync(file, "utf8"), file);
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
  rmSync(join(stateRoot(), name), { recursive: true, force: true, maxRetries: 3 });
}
