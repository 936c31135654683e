// Faults of a node of the local cluster: what a test does to its processes and files, from the machine that all nodes run on.
import {
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { ExpertIndex } from "../../runtime/weights/store.ts";
import { readState } from "../cluster/state.ts";
import { execOk } from "../kit/processes/process.ts";
import { clusterName } from "./world.ts";

/**
 * Leaves the container of a process `spareBytes` more than what it holds; a container that starts anew has its own limit.
 * Returns a look at whether the limit was met since.
 */
export function limitMemory(pid: number, spareBytes: number): () => boolean {
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").trim().split("\n");
  const v1 = lines.find((line) => line.split(":")[1]?.split(",").includes("memory"));
  const path = (v1 ?? lines.find((line) => line.startsWith("0::")))?.split(":")[2] ?? "/";
  const folder = join("/sys/fs/cgroup", v1 ? "memory" : "", path);
  const [usage, limit] = v1 ? ["memory.usage_in_bytes", "memory.limit_in_bytes"] : ["memory.current", "memory.max"];
  const stat = readFileSync(join(folder, "memory.stat"), "utf8");
  const cached = [...stat.matchAll(v1 ? /^total_(?:in)?active_file (\d+)$/gm : /^(?:in)?active_file (\d+)$/gm)];
  if (cached.length !== 2) throw new Error(`${folder}/memory.stat does not say what it caches`);
  // Pages of files are given up under pressure; what is left stays.
  const held = Number(readFileSync(join(folder, usage), "utf8")) - cached.reduce((total, [, bytes]) => total + Number(bytes), 0);
  const met = (): number => {
    const text = readFileSync(join(folder, v1 ? "memory.failcnt" : "memory.events"), "utf8");
    return Number(v1 ? text : /^max (\d+)$/m.exec(text)?.[1]);
  };
  writeFileSync(join(folder, limit), String(held + spareBytes));
  const before = met();
  return () => !existsSync(folder) || met() > before;
}

/** Runs a command in the mount namespace of a node. */
function inNode(node: string, ...command: string[]): Promise<string> {
  const state = readState(clusterName);
  const index = Number(node.slice(clusterName.length + 1));
  const init = state?.nodes.find((each) => each.index === index)?.processes[0];
  if (!init) throw new Error(`node ${node} does not run`);
  return execOk("nsenter", ["-t", String(init.pid), "-m", "--", ...command]);
}

/**
 * Replaces a folder for pods that start on the node from now on: they find `there` where others find `here`, for as long as the
 * node runs.
 */
export async function replaceFolder(node: string, here: string, there: string): Promise<void> {
  await inNode(node, "mount", "--bind", there, here);
}

/** A second copy of a model folder, made anew; it shares all files but one, which is its own. */
export function copyModel(from: string, to: string, own: string): void {
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  for (const file of readdirSync(from)) (file === own ? copyFileSync : linkSync)(join(from, file), join(to, file));
}

/** Flips a bit in the stored bytes of experts; done twice, they are what they were. */
export function flipBits(folder: string, index: ExpertIndex, cells: readonly { readonly layer: number; readonly expert: number }[]): void {
  const codec = index.codecs.q4_0;
  const handle = openSync(join(folder, codec?.file ?? ""), "r+");
  const byte = Buffer.alloc(1);
  try {
    for (const { layer, expert } of cells) {
      const at = (codec?.units[layer]?.[expert]?.offset ?? 0) + 5;
      readSync(handle, byte, 0, 1, at);
      writeSync(handle, Buffer.from([(byte[0] ?? 0) ^ 0x10]), 0, 1, at);
    }
  } finally {
    closeSync(handle);
  }
}
