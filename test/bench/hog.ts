// A process that uses up one CPU, as a neighbour on a node may: pinned to a core, started stopped, and let run for a measurement.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";

export interface Hog {
  /** The CPU that it is pinned to. */
  readonly cpu: number;
  /** Does something while it runs. */
  beside<T>(work: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export async function startHog(cpu = availableParallelism() - 1): Promise<Hog> {
  const child = spawn("taskset", ["-c", String(cpu), process.execPath, "-e", "for(;;);"], { stdio: "ignore" });
  await Promise.race([once(child, "spawn"), once(child, "error").then(([cause]) => Promise.reject(cause))]);
  child.kill("SIGSTOP");
  const leave = (): void => void child.kill("SIGKILL");
  process.once("exit", leave);
  return {
    cpu,
    async beside(work) {
      child.kill("SIGCONT");
      try {
        return await work();
      } finally {
        child.kill("SIGSTOP");
      }
    },
    async close() {
      process.removeListener("exit", leave);
      const gone = once(child, "exit");
      leave();
      await gone;
    },
  };
}
