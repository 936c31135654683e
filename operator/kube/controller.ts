// Runs a reconcile function over a work queue with several workers. An error is retried with back-off, or as its AppError says.
import { AppError } from "../../crds/common.ts";
import { WorkQueue } from "./workqueue.ts";

export interface Outcome {
  readonly requeueAfterMs?: number;
  /** An error that did not stop the pass; it is retried like a thrown one. */
  readonly failure?: AppError;
}

/** Called when a reconcile begins; the returned function when it ends. */
export type Observe = (key: string) => (result: "ok" | "error" | "requeue", seconds: number, error?: AppError) => void;

export interface ControllerOptions {
  readonly name: string;
  readonly workers: number;
  readonly reconcile: (key: string) => Promise<Outcome>;
  /** Interval at which every key is reconciled. */
  readonly resyncMs: number;
  readonly keys: () => readonly string[];
  readonly observe?: Observe;
}

export interface Controller {
  readonly queue: WorkQueue;
  start(): void;
  stop(): Promise<void>;
}

export function createController(options: ControllerOptions): Controller {
  const queue = new WorkQueue();
  const running: Promise<void>[] = [];
  let resync: NodeJS.Timeout | undefined;
  const work = async () => {
    for (let key = await queue.next(); key !== undefined; key = await queue.next()) {
      await runOnce(options, queue, key);
      queue.done(key);
    }
  };
  return {
    queue,
    start() {
      for (const key of options.keys()) queue.add(key);
      for (let i = 0; i < options.workers; i++) running.push(work());
      resync = setInterval(() => {
        for (const key of options.keys()) queue.add(key);
      }, options.resyncMs);
    },
    async stop() {
      clearInterval(resync);
      queue.close();
      await Promise.all(running);
    },
  };
}

async function runOnce(options: ControllerOptions, queue: WorkQueue, key: string): Promise<void> {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const ended = options.observe?.(key);
  try {
    const { requeueAfterMs, failure } = await options.reconcile(key);
    if (requeueAfterMs !== undefined) queue.addAfter(key, requeueAfterMs);
    if (failure) throw failure;
    queue.forget(key);
    ended?.(requeueAfterMs === undefined ? "ok" : "requeue", seconds());
  } catch (caught) {
    const error = AppError.from(caught, `reconciling ${key}`);
    if (error.retry === "backoff") queue.addBackedOff(key);
    else if (error.retry === "never")
      queue.forget(key); // until something changes, or the next resync
    else queue.addAfter(key, error.retry.afterMs);
    ended?.("error", seconds(), error);
  }
}
