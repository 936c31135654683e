// A run of fuzzers: their thread is watched from here, so that a crash, an input that hangs and memory that grows all end as findings.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";

/** Some inputs of one fuzzer. */
export interface Job {
  readonly name: string;
  readonly deadlineMs: number;
  readonly seed: number;
  /** The number of the first input, and how many follow. */
  readonly from: number;
  readonly count: number;
  /** Inputs among which the planted bug is looked for, after the others; 0: it is not. */
  readonly plantedInputs: number;
}

export interface Order {
  readonly jobs: readonly Job[];
  /** Two int32: the job, and the input of it that is tried, -1 while none is. */
  readonly progress: SharedArrayBuffer;
  /** Its own, and empty. */
  readonly folder: string;
}

export interface Finding {
  readonly kind: "crash" | "hang" | "memory";
  /** The number of the input; -1 where it was none. */
  readonly at: number;
  readonly what: string;
  /** As in corpus.json; empty where it is not known. */
  readonly input: string;
}

/** What the thread says of a job. */
export interface Told {
  readonly counts: { readonly taken: number; readonly refused: number };
  readonly finding: Finding | undefined;
  /** How the planted bug shows; undefined where it was not found. */
  readonly planted: Finding | undefined;
  readonly seconds: number;
}

export interface Report extends Told {
  readonly job: Job;
  /** Resident bytes of the process above those at the start of the job, at most. */
  readonly growthBytes: number;
}

/** Memory above what the process had when a fuzzer started, whatever its inputs say. */
const growthBytesMax = 1024 * 1024 * 1024;
const heapMegabytesMax = 768;
const lookMs = 100;
/** Processor time for what a fuzzer starts before its first input, and stops after its last. */
const aroundMs = 120_000;
/** Time for anything, on a machine that has others to serve. */
const waitMs = 600_000;

/** Tells of each job as it ends. One whose input hangs or takes too much memory ends with its thread; the others go on with another. */
export async function runJobs(jobs: readonly Job[], tell: (report: Report) => void): Promise<void> {
  for (let done = 0; done < jobs.length; ) done += await runThread(jobs.slice(done), tell);
}

/** Returns the number of jobs that it told of, one at least. */
async function runThread(jobs: readonly Job[], tell: (report: Report) => void): Promise<number> {
  const progress = new SharedArrayBuffer(8);
  const at = new Int32Array(progress).fill(-1);
  const folder = await mkdtemp(join(tmpdir(), "enodia-fuzz-"));
  const order: Order = { jobs, progress, folder };
  const worker = new Worker(new URL("./thread.ts", import.meta.url), {
    workerData: order,
    resourceLimits: { maxOldGenerationSizeMb: heapMegabytesMax },
  });
  let done = 0;
  let memory = new Memory();
  const watch = new Watch();
  const report = (told: Told): void => {
    tell({ ...told, job: jobs[done] as Job, growthBytes: memory.look() });
    done += 1;
    memory = new Memory();
  };
  await new Promise<void>((resolve) => {
    let over = false;
    /** Ends the thread: the job that it is at has this finding. */
    const end = (kind: Finding["kind"], what: string): void => {
      if (over) return;
      over = true;
      const finding = { kind, at: Atomics.load(at, 1), what, input: "" };
      report({ counts: { taken: 0, refused: 0 }, finding, planted: undefined, seconds: 0 });
      resolve();
    };
    const timer = setInterval(() => {
      const hang = watch.look(Atomics.load(at, 0), Atomics.load(at, 1), jobs[done]?.deadlineMs ?? aroundMs);
      if (hang !== undefined) end("hang", hang);
      else if (memory.look() > growthBytesMax) end("memory", `resident memory grew by more than ${growthBytesMax} bytes`);
    }, lookMs);
    worker.on("message", (told: Told) => {
      if (over) return;
      report(told);
      over = done === jobs.length;
      if (over) resolve();
    });
    worker.once("error", (error: NodeJS.ErrnoException) => {
      const full = error.code === "ERR_WORKER_OUT_OF_MEMORY";
      end(full ? "memory" : "crash", full ? `its heap is above ${heapMegabytesMax} MiB` : (error.stack ?? error.message));
    });
    worker.once("exit", (code) => {
      clearInterval(timer);
      end("crash", `the thread ended with ${code}`);
    });
  });
  await worker.terminate();
  await rm(folder, { recursive: true, force: true });
  return done;
}

/**
 * Tells that an input takes longer than its deadline: by the processor time of this process, in which nothing else works, since on a busy
 * machine the clock says little. What waits for something takes none, and has longer.
 */
class Watch {
  #at = "";
  #since = performance.now();
  #used = process.cpuUsage();

  look(job: number, input: number, deadlineMs: number): string | undefined {
    const at = `${job} ${input}`;
    if (at !== this.#at) {
      this.#at = at;
      this.#since = performance.now();
      this.#used = process.cpuUsage();
    }
    const { user, system } = process.cpuUsage(this.#used);
    const limitMs = input < 0 ? aroundMs : deadlineMs;
    if ((user + system) / 1000 > limitMs) return `not done after ${limitMs} ms of processor time`;
    return performance.now() - this.#since > waitMs ? `not done after ${waitMs} ms` : undefined;
  }
}

class Memory {
  readonly #before = process.memoryUsage.rss();
  #most = 0;

  look(): number {
    this.#most = Math.max(this.#most, process.memoryUsage.rss() - this.#before);
    return this.#most;
  }
}
