// The bandwidth of this machine's memory when read in order: every thread compares two equal buffers far larger than the caches
// (memcmp reads both ends to the last byte and writes nothing). The limit that decoding is measured against.
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const bufferBytes = 128 * 1024 * 1024;
const rounds = 6;

interface Order {
  readonly bandwidth: true;
  readonly control: SharedArrayBuffer;
}

/** Gigabytes per second of `threads` threads together; the best of a few rounds. */
export async function readBandwidth(threads: number): Promise<number> {
  const control = new SharedArrayBuffer(4);
  const ready = new Int32Array(control);
  const workers = Array.from({ length: threads }, () => new Worker(new URL(import.meta.url), { workerData: { bandwidth: true, control } }));
  const seconds = await Promise.all(
    workers.map(
      (worker) =>
        new Promise<number>((resolve, reject) => {
          worker.on("message", (message: "ready" | number) => {
            if (message !== "ready") resolve(message);
            else if (Atomics.add(ready, 0, 1) + 1 === threads) Atomics.notify(ready, 0);
          });
          worker.once("error", reject);
        }),
    ),
  );
  await Promise.all(workers.map((worker) => worker.terminate()));
  return (threads * 2 * bufferBytes) / Math.max(...seconds) / 1e9;
}

function measure({ control }: Order): void {
  const a = Buffer.alloc(bufferBytes, 1);
  const b = Buffer.alloc(bufferBytes, 1);
  a.compare(b);
  parentPort?.postMessage("ready");
  Atomics.wait(new Int32Array(control), 0, 0, 1000); // start together, give or take
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    if (a.compare(b) !== 0) throw new Error("equal buffers differ");
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  parentPort?.postMessage(best);
}

if (!isMainThread && (workerData as Order | null)?.bandwidth) measure(workerData as Order);
