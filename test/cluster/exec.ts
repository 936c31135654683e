// Running programs from the cluster scripts: output collected, failures told with what the program said. Not for long-lived processes.

import { spawn } from "node:child_process";
import { ClusterError } from "./names.ts";

/** Progress goes to whoever calls; the command line gives stderr. */
export interface Log {
  (line: string): void;
  /** On a terminal: shows a line that the next one replaces; an empty one clears it. */
  readonly replace?: (line: string) => void;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly input?: string;
  readonly signal?: AbortSignal | undefined;
  /** The program is killed and the call fails after this time. */
  readonly timeoutMs?: number;
  /** Return the exit code instead of throwing. */
  readonly allowFailure?: boolean;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const outputBytesMax = 64 * 1024 * 1024;
const defaultTimeoutMs = 120_000;
const errorTextMax = 2000;

/** Runs one program to its end. Throws a ClusterError with the end of its output unless it exits 0. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`, ...options.env },
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      signal: options.signal,
      // A group of its own: Ctrl-C reaches the cluster command alone, which then cleans up with programs that live on.
      detached: true,
      killSignal: "SIGKILL",
      timeout: options.timeoutMs ?? defaultTimeoutMs,
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let bytes = 0;
    const collect = (into: Buffer[]) => (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= outputBytesMax) into.push(chunk);
    };
    child.stdout?.on("data", collect(out));
    child.stderr?.on("data", collect(err));
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(options.input);
    const what = `${command} ${args.join(" ")}`.slice(0, 300);
    child.on("error", (cause: NodeJS.ErrnoException) => {
      if (options.signal?.aborted) reject(new ClusterError("interrupted"));
      else if (cause.code === "ENOENT") reject(new ClusterError(`${command}: no such program on PATH (needed for: ${what})`));
      else reject(new ClusterError(`${what}: ${cause.message}`));
    });
    child.on("close", (code, killed) => {
      const result = { code: code ?? 128, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() };
      if (result.code === 0 || options.allowFailure === true) return resolve(result);
      const said = (result.stderr.trim() || result.stdout.trim()).slice(-errorTextMax);
      reject(new ClusterError(`${what} ended with ${killed ?? `exit code ${code}`}${said === "" ? "" : `: ${said}`}`));
    });
  });
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export interface WaitOptions {
  readonly timeoutMs: number;
  readonly everyMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Polls until `check` gives something other than undefined; throws with what was awaited when the time is over. */
export async function waitFor<T>(what: string, options: WaitOptions, check: () => Promise<T | undefined>): Promise<T> {
  const end = Date.now() + options.timeoutMs;
  for (;;) {
    if (options.signal?.aborted) throw new ClusterError("interrupted");
    const value = await check();
    if (value !== undefined) return value;
    if (Date.now() >= end) throw new ClusterError(`waited ${Math.round(options.timeoutMs / 1000)} s for ${what}`);
    await sleep(options.everyMs ?? 200);
  }
}
