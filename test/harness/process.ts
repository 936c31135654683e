// Child processes for tests and the demo: run to the end, or start and stop by pid. Nothing here knows Kubernetes.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";

export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const outputBytesMax = 64 * 1024 * 1024;

/** Runs a command to its end. Never throws for an exit code: the caller decides. */
export async function exec(
  command: string,
  args: readonly string[],
  options: { input?: string; env?: NodeJS.ProcessEnv; timeoutMs?: number; cwd?: string } = {},
): Promise<Finished> {
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
  const [code] = (await Promise.race([
    once(child, "close"),
    once(child, "error").then(([error]) => {
      throw new Error(`${command}: ${(error as Error).message}`);
    }),
  ])) as [number | null];
  return { code: code ?? 137, stdout, stderr };
}

/** As `exec`, but a non-zero exit is an error that carries the command's own words. */
export async function execOk(command: string, args: readonly string[], options: Parameters<typeof exec>[2] = {}): Promise<string> {
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

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Polls until `probe` gives something other than undefined; the error says what was waited for and what was last seen. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  options: { timeoutMs: number; everyMs?: number },
): Promise<T> {
  const deadline = Date.now() + options.timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined) return value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`waited ${options.timeoutMs / 1000} s for ${what}${last ? `: ${String(last)}` : ""}`);
    await sleep(options.everyMs ?? 250);
  }
}
