// The disk as the tier behind host memory for keys and values: a file for each block, which a restarted container finds (DECISIONS.md 8).
import { createHash, hash } from "node:crypto";
import { once } from "node:events";
import { mkdir, open, opendir, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError, movedKv } from "../../crds/common.ts";
import { formatBytes } from "../../crds/quantity.ts";
import type { EngineInfo, EngineKv, HeldBlock, KvText } from "../engine/engine.ts";
import { evictions } from "../experts/cache/index.ts";
import { Places } from "../experts/cache/places.ts";
import { SharedTime } from "../experts/memory/shared-time.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import { KvRate } from "./kv-rate.ts";

/** Blocks that wait to be written; of more the oldest are dropped. */
const waitingMax = 1_024;
/** A tier's list is in memory; more blocks are left out, however small they are. */
const placesMax = 1 << 20;
const digestBytes = 32;
/** A file takes whole pages. */
const pageBytes = 4_096;
/** The rest of the bound is for the folder and the file that is written. */
const filledPart = 15 / 16;
/** Milliseconds; what came by then is used. */
const bringMs = 5_000;
/** Digits of the names of a model's folder and of a block. */
const nameDigits = 32;
const fileName = /^[0-9a-f]{32}$/;
const tier = "disk";

interface KvDiskOptions {
  readonly dir: string;
  readonly bytes: number;
  readonly info: Pick<EngineInfo, "modelDigest" | "numerics" | "kvPositionBytes">;
  readonly kv: EngineKv;
  readonly metrics: Pick<Metrics<"worker">, "add" | "set">;
  readonly log: Pick<Log, "info" | "warn">;
}

export class KvDisk {
  readonly #options: KvDiskOptions;
  readonly #folder: string;
  readonly #positionBytes: number;
  /** Bytes of files, without digests. */
  readonly #held: Places<number>;
  readonly #waiting = new Map<string, HeldBlock>();
  readonly #time = new SharedTime(() => performance.now());
  readonly #rate = new KvRate();
  #bytes = 0;
  #writing: Promise<void> | undefined;
  #failed = false;
  #closed = false;

  private constructor(options: KvDiskOptions, folder: string, positionBytes: number) {
    this.#options = options;
    this.#folder = folder;
    this.#positionBytes = positionBytes;
    const placeBytes = Math.ceil((movedKv.tokens * positionBytes + digestBytes) / pageBytes) * pageBytes;
    const places = Math.min(placesMax, Math.floor((options.bytes * filledPart) / placeBytes));
    if (places < 1) {
      throw new AppError(`spec.runtime.kvOffload.disk holds no block of ${formatBytes(placeBytes, "up")}: raise it, or leave it out`, {
        code: "KvOffloadTooSmall",
        operation: "opening the disk tier of keys and values",
      });
    }
    this.#held = new Places(places, evictions.lru);
  }

  /** Undefined where an engine moves no blocks. Blocks of another model or class of bits are removed. */
  static async open(options: KvDiskOptions): Promise<KvDisk | undefined> {
    const { dir, info, kv } = options;
    if (info.kvPositionBytes === undefined || kv.onKept === undefined) return undefined;
    const own = hash("sha256", JSON.stringify([info.modelDigest, info.numerics])).slice(0, nameDigits);
    const disk = new KvDisk(options, join(dir, own), info.kvPositionBytes);
    await mkdir(join(dir, own), { recursive: true });
    for (const name of await readdir(dir))
      if (name !== own && fileName.test(name)) await rm(join(dir, name), { recursive: true, force: true });
    await disk.#scan();
    kv.onKept((block) => disk.#keep(block));
    return disk;
  }

  /** What it holds, once nothing waits to be written. */
  get blocks(): number | undefined {
    return this.#writing === undefined ? this.#held.used : undefined;
  }

  /** Puts what the disk has of a text behind what is in memory there, where that is expected to be sooner than computing. */
  async bring(text: KvText, signal: AbortSignal): Promise<void> {
    if (this.#held.used === 0 || text.tokens.length <= movedKv.tokens || signal.aborted) return;
    const ended = AbortSignal.any([signal, AbortSignal.timeout(bringMs)]);
    await Promise.race([this.#bring(text, ended), once(ended, "abort")]);
  }

  async #bring(text: KvText, signal: AbortSignal): Promise<void> {
    const { kv, log } = this.#options;
    try {
      const look = await kv.look(text);
      for (const block of look.blocks) {
        if (signal.aborted || this.#held.peek(block.id) === undefined || !this.#rate.pays(look)) return;
        const { result, ms } = await this.#time.run(async () => {
          const data = await this.read(block);
          const tokens = text.tokens.slice(block.from, block.to);
          return data !== undefined && (await kv.write({ block, tokens, data }));
        });
        if (!result) return;
        this.#rate.measured((block.to - block.from) * look.tokenBytes, ms);
      }
    } catch (err) {
      log.warn({ err }, "keys and values on the disk are computed anew");
    }
  }

  /** Verified bytes; undefined where the block is not here, or not whole. */
  async read({ id, from, to }: HeldBlock): Promise<Uint8Array | undefined> {
    const { metrics, log } = this.#options;
    const bytes = this.#held.take(id);
    if (bytes === undefined || bytes !== (to - from) * this.#positionBytes) return undefined;
    const startedAt = performance.now();
    const path = join(this.#folder, id);
    try {
      const [data, digest] = [new Uint8Array(bytes), new Uint8Array(digestBytes)];
      await using file = await open(path);
      const { bytesRead } = await file.readv([data, digest]);
      if (bytesRead !== bytes + digestBytes || !digestOf(id, data).equals(digest))
        throw new AppError("its SHA-256 is another", { code: "CorruptKv" });
      const now = new Date();
      await utimes(path, now, now);
      metrics.add("enodia_kv_tier_blocks_total", 1, { tier, result: "found" });
      this.#moved("back", bytes, startedAt);
      return data;
    } catch (err) {
      if (this.#held.peek(id) === undefined) return undefined; // evicted meanwhile
      const { code } = err as { readonly code?: unknown };
      const isLost = code === "CorruptKv" || code === "ENOENT";
      log.warn(
        { err, block: id },
        isLost ? "a block of keys and values on the disk is dropped" : "keys and values on the disk cannot be read",
      );
      if (!isLost) return undefined;
      metrics.add("enodia_kv_tier_blocks_total", 1, { tier, result: "corrupt" });
      await this.#drop(id);
      return undefined;
    }
  }

  /** Resolves once no file is written. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#writing;
  }

  /** Files of a process before this one, the newest uses last; what is no whole file of a block is removed. */
  async #scan(): Promise<void> {
    const found: { readonly name: string; readonly bytes: number; readonly usedMs: number }[] = [];
    const stepBytes = movedKv.step * this.#positionBytes;
    for await (const { name } of await opendir(this.#folder)) {
      const { size, mtimeMs: usedMs } = await stat(join(this.#folder, name));
      const bytes = size - digestBytes;
      const isBlock = bytes > 0 && bytes % stepBytes === 0 && bytes <= movedKv.tokens * this.#positionBytes;
      if (fileName.test(name) && isBlock && found.length < placesMax) found.push({ name, bytes, usedMs });
      else await rm(join(this.#folder, name), { recursive: true, force: true });
    }
    for (const { name, bytes } of found.sort((a, b) => a.usedMs - b.usedMs)) await this.#add(name, bytes);
    this.#options.log.info({ blocks: this.#held.used, bytes: this.#bytes }, "keys and values on the disk");
  }

  #keep(block: HeldBlock): void {
    if (this.#closed || this.#held.take(block.id) !== undefined) return;
    this.#waiting.set(block.id, block);
    for (const id of this.#waiting.keys()) {
      if (this.#waiting.size <= waitingMax) break;
      this.#waiting.delete(id);
      this.#count("dropped");
    }
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
    });
  }

  /** One at a time, and half of the time none. */
  async #writeAll(): Promise<void> {
    for (const [id, block] of this.#waiting) {
      this.#waiting.delete(id);
      if (this.#closed) return;
      const startedAt = performance.now();
      try {
        await this.#write(block);
        this.#failed = false;
      } catch (err) {
        this.#count("dropped");
        if (!this.#failed) this.#options.log.warn({ err, block: id }, "keys and values could not be written to the disk");
        this.#failed = true;
      }
      await sleep(performance.now() - startedAt, undefined, { ref: false });
    }
  }

  async #write(block: HeldBlock): Promise<void> {
    const data = await this.#options.kv.read(block);
    if (data === undefined) return this.#count("dropped");
    const startedAt = performance.now();
    const path = join(this.#folder, block.id);
    await writeFile(`${path}.new`, [data, digestOf(block.id, data)]);
    await rename(`${path}.new`, path);
    this.#count("stored");
    this.#moved("out", data.byteLength, startedAt);
    await this.#add(block.id, data.byteLength);
  }

  async #add(id: string, bytes: number): Promise<void> {
    const before = this.#held.peek(id) ?? 0;
    const left = this.#held.put(id, bytes);
    this.#bytes += bytes - before - (left?.value ?? 0);
    this.#options.metrics.set("enodia_kv_tier_held_bytes", this.#bytes, { tier });
    if (left !== undefined) await rm(join(this.#folder, left.name), { force: true });
  }

  async #drop(id: string): Promise<void> {
    this.#bytes -= this.#held.peek(id) ?? 0;
    this.#held.drop(id);
    this.#options.metrics.set("enodia_kv_tier_held_bytes", this.#bytes, { tier });
    await rm(join(this.#folder, id), { force: true }).catch(() => undefined);
  }

  #count(result: "stored" | "dropped"): void {
    this.#options.metrics.add("enodia_kv_tier_blocks_total", 1, { tier, result });
  }

  #moved(direction: "out" | "back", bytes: number, startedAt: number): void {
    const { metrics } = this.#options;
    metrics.add("enodia_kv_tier_bytes_total", bytes, { tier, direction });
    metrics.add("enodia_kv_tier_seconds_total", (performance.now() - startedAt) / 1000, { tier, direction });
  }
}

/** A file counts under its own name alone. */
function digestOf(id: string, data: Uint8Array): Buffer {
  return createHash("sha256").update(id).update(data).digest();
}
