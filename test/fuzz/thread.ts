// Fuzzers on a thread of their own, so that an input that hangs can be ended: it tells in shared memory which input of which job it is at.
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { type AnyFuzzer, judged, randomOf, written } from "./fuzzer.ts";
import { fuzzerOf } from "./index.ts";
import type { Finding, Job, Order, Told } from "./run.ts";

const { jobs, progress, folder } = workerData as Order;
const at = new Int32Array(progress);
const inputCharsMax = 4_000;

interface Tried {
  readonly counts: Told["counts"];
  readonly finding: Finding | undefined;
}

/** Goes on until the first finding. */
async function tried(fuzzer: AnyFuzzer, subject: unknown, { seed, from, count }: Pick<Job, "seed" | "from" | "count">): Promise<Tried> {
  const counts = { taken: 0, refused: 0 };
  for (let i = from; i < from + count; i++) {
    Atomics.store(at, 1, i);
    let input: unknown;
    try {
      input = fuzzer.input(randomOf(fuzzer.name, seed, i), subject);
      counts[await judged(fuzzer, subject, input)] += 1;
    } catch (error) {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      return { counts, finding: { kind: "crash", at: i, what, input: (written(input) ?? "").slice(0, inputCharsMax) } };
    }
  }
  return { counts, finding: undefined };
}

async function run(job: Job): Promise<Told> {
  const fuzzer = fuzzerOf(job.name);
  const own = join(folder, job.name);
  await mkdir(own, { recursive: true });
  const started = performance.now();
  const subject: unknown = await fuzzer.start(own);
  try {
    const whole = await tried(fuzzer, subject, job);
    const seconds = (performance.now() - started) / 1000;
    const planted = await tried(fuzzer, fuzzer.plant(subject), { ...job, count: job.plantedInputs });
    return { ...whole, planted: planted.finding, seconds };
  } finally {
    Atomics.store(at, 1, -1);
    await fuzzer.stop?.(subject);
    await rm(own, { recursive: true, force: true });
  }
}

for (const [i, job] of jobs.entries()) {
  Atomics.store(at, 1, -1);
  Atomics.store(at, 0, i);
  parentPort?.postMessage(await run(job));
}
