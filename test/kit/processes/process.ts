// Child processes for tests and the demo: run to the end, or start and stop by pid. Nothing here knows Kubernetes.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const outputBytesMax = 64 * 1024 * 1024;

interface ExecOptions {
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs?: number;
  readonly cwd?: string;
  /** Ends the command by SIGTERM; the call then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Runs a command to its end. Never throws for an exit code: the caller decides. */
export async function exec(command: string, args: readonly string[], options: ExecOptions = {}): Promise<Finished> {
  options.signal?.throwIfAborted();
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.timeoutMs ? { timeout: options.timeoutMs, killSignal: "SIGKILL" as const } : {}),
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    if (stdout.length < outputBytesMax) stdout += chunk;
  });
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    if (stderr.length < outputBytesMax) stderr += chunk;
  });
  child.stdin.on("error", () => {}); // the command may end before it has read its input
  child.stdin.end(options.input ?? "");
  const end = (): void => {
    child.kill("SIGTERM");
  };
  options.signal?.addEventListener("abort", end);
  const [code] = (await Promise.race([
    once(child, "close"),
    once(child, "error").then(([error]) => {
      throw new Error(`${command}: ${(error as Error).message}`);
    }),
  ]).finally(() => options.signal?.removeEventListener("abort", end))) as [number | null];
  options.signal?.throwIfAborted();
  return { code: code ?? 137, stdout, stderr };
}

/** Runs a command like `exec`, but a non-zero exit is an error that has the command's own words. */
export async function execOk(command: string, args: readonly string[], options: ExecOptions = {}): Promise<string> {
  const done = await exec(command, args, options);
  if (done.code !== 0) throw new Error(`${command} ${args.join(" ")} exited ${done.code}\n${done.stderr.trim() || done.stdout.trim()}`);
  return done.stdout;
}

/** Ends a child: SIGTERM, then SIGKILL after `graceMs`. */
export async function stop(child: ChildProcess, graceMs = 3000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, "exit");
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
  await gone;
  clearTimeout(timer);
}

/** `work`; or the signal's reason as soon as it is aborted, whatever comes of `work` after that. */
export async function unlessAborted<T>(work: Promise<T> | T, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  let give: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    give = () => reject(signal.reason);
  });
  if (signal.aborted) give();
  signal.addEventListener("abort", give);
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener("abort", give);
  }
}

/** Waits; throws the signal's reason when that is aborted meanwhile. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<void>((done) => {
    timer = setTimeout(done, ms);
  });
  await unlessAborted(passed, signal).finally(() => clearTimeout(timer));
}

/** Polls until `probe` gives something other than undefined; the error says what was waited for and what was last seen. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  options: { readonly timeoutMs: number; readonly everyMs?: number; readonly signal?: AbortSignal | undefined },
): Promise<T> {
  const { timeoutMs, everyMs = 250, signal } = options;
  const deadline = Date.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await unlessAborted(probe(), signal);
      if (value !== undefined) return value;
    } catch (error) {
      signal?.throwIfAborted();
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s for ${what}${last ? `: ${String(last)}` : ""}`);
    await sleep(everyMs, signal);
  }
}
