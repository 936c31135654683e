// API keys from a mounted Secret, one per line with its client's name, reloaded on change.
import { createHash, timingSafeEqual } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import type { Log } from "../../observe/log.ts";

const lookAgainMs = 1_000;
const fileBytesMax = 64 * 1024;

interface Known {
  readonly digest: Buffer;
  readonly client: string;
}

export class ApiKeys {
  readonly #path: string;
  readonly #log: Log;
  #known: readonly Known[] = [];
  #version = "";
  #lookedAt = Number.NEGATIVE_INFINITY;

  private constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /** Throws `ApiKeyUnreadable` without any key, instead of admitting everybody. */
  static async open(path: string, log: Log): Promise<ApiKeys> {
    const keys = new ApiKeys(path, log);
    await keys.#read();
    return keys;
  }

  /** "" for a key without a name; undefined for a wrong key. */
  async clientOf(key: string): Promise<string | undefined> {
    await this.#refresh();
    const digest = sha256(key);
    let found: string | undefined;
    for (const known of this.#known) found = timingSafeEqual(known.digest, digest) ? known.client : found;
    return found;
  }

  // A missing or empty file (kubelet swaps links) keeps the last keys and is logged.
  async #refresh(): Promise<void> {
    if (performance.now() - this.#lookedAt < lookAgainMs) return;
    try {
      await this.#read();
    } catch (err) {
      this.#log.error({ err }, "API keys unreadable; the last ones stay valid");
    }
  }

  async #read(): Promise<void> {
    this.#lookedAt = performance.now();
    try {
      const { mtimeMs, ino, size } = await stat(this.#path);
      const version = `${mtimeMs}:${ino}:${size}`;
      if (version === this.#version) return;
      if (size > fileBytesMax) throw new Error(`${size} bytes, at most ${fileBytesMax}`);
      const keys = (await readFile(this.#path, "utf8"))
        .split("\n")
        .map((line) => line.trim())
        .filter((line) => line !== "");
      if (keys.length === 0) throw new Error("no key in it");
      this.#known = keys.map((line) => {
        const [key = "", client = ""] = line.split(/\s+/, 2);
        return { digest: sha256(key), client };
      });
      this.#version = version;
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new AppError(`API key file ${this.#path}: ${why}`, { code: "ApiKeyUnreadable", operation: "reading API keys", cause });
    }
  }
}

export function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
