// The runner of a reconcile function over a work queue with a number of workers. Shell; knows no kind. A reconcile that throws is
// retried as its AppError says, with back-off by default; one that returns may ask to be run again later.
import { AppError } from "../../crds/common.ts";
import { WorkQueue } from "./workqueue.ts";

export interface Outcome {
  /** Look again after this many milliseconds even if nothing changes. */
  readonly requeueAfterMs?: number;
  /** The error of a reconcile that went on to its end all the same: retried as a thrown one is, or earlier as asked for. */
  readonly failure?: AppError;
}

/** Told as a reconcile of the key begins; what it returns is told how and when that ended. */
export type Observe = (key: string) => (result: "ok" | "error" | "requeue", seconds: number, error?: AppError) => void;

export interface ControllerOptions {
  readonly name: string;
  readonly workers: number;
  readonly reconcile: (key: string) => Promise<Outcome>;
  /** Every key is looked at again this often, whatever happened. */
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
