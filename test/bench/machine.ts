// What decode and prefill are measured against: the speed of this machine's memory and arithmetic, and a neighbour that uses up one CPU.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { fmaGigaflops } from "../../runtime/cli/selftest.ts";
import type { Limits } from "./speed-rows.ts";

const bufferBytes = 128 * 1024 * 1024;
const rounds = 6;
/** Threads wait so long for the last one, and then begin all the same. */
const startMs = 1_000;

interface Order {
  readonly limit: "read" | "fma";
  readonly control: SharedArrayBuffer;
  readonly threads: number;
}

/** The sum of what the threads reach side by side, in 10^9 a second; undefined where a thread has none. */
async function together(limit: Order["limit"], threads: number): Promise<number | undefined> {
  const order: Order = { limit, threads, control: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT) };
  const workers = Array.from({ length: threads }, () => new Worker(new URL(import.meta.url), { workerData: order }));
  const each = await Promise.all(
    workers.map((worker) => new Promise<number | undefined>((resolve, reject) => worker.once("message", resolve).once("error", reject))),
  );
  await Promise.all(workers.map((worker) => worker.terminate()));
  return each.reduce<number | undefined>((sum, rate) => (sum === undefined || rate === undefined ? undefined : sum + rate), 0);
}

/**
 * Memory: every thread compares two equal buffers far larger than the caches. Arithmetic: every thread runs a loop of multiply-adds on
 * registers.
 */
export async function machineLimits(threads: number): Promise<Limits> {
  return { gigabytesPerSecond: (await together("read", threads)) ?? 0, gigaflops: await together("fma", threads) };
}

/** Gigabytes per second read in order; the best of a few rounds. */
function readRate(): number {
  const [a, b] = [Buffer.alloc(bufferBytes, 1), Buffer.alloc(bufferBytes, 1)];
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    if (a.compare(b) !== 0) throw new Error("equal buffers differ");
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  return (2 * bufferBytes) / best / 1e9;
}

async function measure({ limit, control, threads }: Order): Promise<void> {
  const ready = new Int32Array(control);
  Atomics.add(ready, 0, 1);
  Atomics.notify(ready, 0);
  const end = performance.now() + startMs;
  for (let seen = Atomics.load(ready, 0); seen < threads && performance.now() < end; seen = Atomics.load(ready, 0)) {
    Atomics.wait(ready, 0, seen, startMs);
  }
  parentPort?.postMessage(limit === "read" ? readRate() : await fmaGigaflops());
}

interface Hog {
  /** The CPU that it is pinned to. */
  readonly cpu: number;
  /** Does something while it runs. */
  beside<T>(work: () => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** A process that is pinned to a core, started stopped, and runs beside a measurement. */
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

if (!isMainThread && (workerData as Order | null)?.limit) await measure(workerData as Order);
