// A limit of memory, page cache included, and of disk reads for processes of a benchmark: a cgroup of v2, or one of each controller of v1.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface MemoryGroup {
  join(pid: number): void;
  /** The most that was in use at once, page cache included. */
  peakBytes(): number;
  /** In use now, without page cache. */
  ownBytes(): number;
  /** Once its processes are gone. */
  remove(): void;
}

interface MemoryLimit {
  readonly bytes: number;
  /** Unset: as fast as it goes. `path` is on the disk that is meant. */
  readonly reads?: { readonly bytesPerSecond: number; readonly path: string };
}

const mount = "/sys/fs/cgroup";

/** `major:minor` of the disk that has the file. */
function diskOf(path: string): string {
  const { dev } = statSync(path);
  return `${dev >> 8}:${dev & 0xff}`;
}

interface Part {
  readonly folder: string;
  readonly files: Readonly<Record<string, string>>;
}

function partsOf(name: string, { bytes, reads }: MemoryLimit): readonly Part[] {
  const rate = reads && { disk: diskOf(reads.path), each: Math.round(reads.bytesPerSecond) };
  if (existsSync(join(mount, "cgroup.controllers"))) {
    const io = rate && { "io.max": `${rate.disk} rbps=${rate.each}` };
    return [{ folder: join(mount, name), files: Object.assign({ "memory.max": String(bytes) }, io) }];
  }
  const memory = { folder: join(mount, "memory", name), files: { "memory.limit_in_bytes": String(bytes) } };
  if (rate === undefined) return [memory];
  return [memory, { folder: join(mount, "blkio", name), files: { "blkio.throttle.read_bps_device": `${rate.disk} ${rate.each}` } }];
}

/** A group with that limit, or the reason why there is none. */
export function memoryGroup(name: string, limit: MemoryLimit): MemoryGroup | { readonly reason: string } {
  const parts = partsOf(`enodia-bench-${name}`, limit);
  const folder = parts[0]?.folder as string;
  try {
    for (const part of parts) {
      mkdirSync(part.folder, { recursive: true });
      for (const [file, value] of Object.entries(part.files)) writeFileSync(join(part.folder, file), value);
    }
  } catch (caught) {
    return { reason: `${folder}: ${caught instanceof Error ? caught.message : caught}; run it as root, with cgroups that may be written` };
  }
  const peak = ["memory.peak", "memory.max_usage_in_bytes"].map((file) => join(folder, file)).find((path) => existsSync(path));
  return {
    join: (pid) => {
      for (const part of parts) writeFileSync(join(part.folder, "cgroup.procs"), String(pid));
    },
    ownBytes: () => Number(/^(?:anon|total_rss) (\d+)$/m.exec(readFileSync(join(folder, "memory.stat"), "utf8"))?.[1]),
    peakBytes: () => (peak === undefined ? Number.NaN : Number(readFileSync(peak, "utf8"))),
    remove: () => {
      for (const part of parts) {
        try {
          rmdirSync(part.folder);
        } catch {
          // a process that has just ended holds it
        }
      }
    },
  };
}

/** Drops a file from the page cache, so that whoever reads it next is charged for it. */
export function dropFromCache(path: string): void {
  execFileSync("dd", [`if=${path}`, "iflag=nocache", "count=0", "status=none"]);
}
