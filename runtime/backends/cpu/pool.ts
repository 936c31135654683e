// Threads that compute parts: the caller's own (thread 0) and helpers. A batch of jobs is posted through shared memory,
// the caller computes its own share meanwhile and waits for the rest. Opening and closing sessions goes by message.
import { MessageChannel, type MessagePort, receiveMessageOnPort, type Transferable, Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { controlBuffer, type FromHelper, headerWords, jobsMax, jobWords, type PartIo, type ToHelper, waitWhile, word } from "./mailbox.ts";
import type { OnnxModel } from "./onnx.ts";
import { Parts } from "./parts.ts";
import { SpinGauge } from "./spin.ts";

/** A helper that has not finished after this long is lost: no job takes a thousandth of it. */
const jobTimeoutMs = 60_000;
const arenaFloatsMin = 1 << 16;

export interface PartHandle {
  readonly thread: number;
  readonly id: number;
}

export interface Job {
  readonly part: PartHandle;
  readonly rows: number;
  /** Offsets in floats of the arena. */
  readonly input: number;
  readonly output: number;
}

interface Pending {
  resolve(): void;
  reject(error: AppError): void;
}

interface Helper {
  readonly worker: Worker;
  readonly ended: Promise<void>;
  readonly control: Int32Array;
  readonly port: MessagePort;
  readonly pending: Map<number, Pending>;
  posted: number;
  jobs: number;
}

const silent = (): AppError => failure(`no answer for ${jobTimeoutMs / 1000} s`);
const failure = (message: string): AppError =>
  new AppError(`compute thread: ${message}`, { code: "BackendFailed", operation: "running a part" });

export class Pool {
  readonly threads: number;
  readonly #own = new Parts();
  readonly #helpers: readonly Helper[];
  /** Set once a helper is gone: every later call throws it at once, since no batch can be finished any more. */
  #fault: AppError | undefined;
  readonly #spin = new SpinGauge();
  #arena = new Float32Array(new SharedArrayBuffer(arenaFloatsMin * 4));
  #nextId = 0;

  constructor(threads: number) {
    this.threads = threads;
    this.#helpers = Array.from({ length: threads - 1 }, () => startHelper((error) => this.#lost(error)));
    this.#shareArena();
  }

  /** The reason why nothing can be computed any more. */
  get fault(): AppError | undefined {
    return this.#fault;
  }

  /** The shared buffer, at least so long; contents do not survive growth. */
  arena(floats: number): Float32Array {
    if (floats > this.#arena.length) {
      this.#arena = new Float32Array(new SharedArrayBuffer(Math.max(floats, 2 * this.#arena.length) * 4));
      this.#shareArena();
    }
    return this.#arena;
  }

  async open(thread: number, model: OnnxModel, io: PartIo): Promise<PartHandle> {
    if (this.#fault) throw this.#fault;
    const id = this.#nextId++;
    const helper = this.#helpers[thread - 1];
    if (!helper) this.#own.open(id, model, io);
    else {
      const { model: bytes, external } = model;
      const transfer = [bytes.buffer, ...(external ? [external.buffer] : [])] as Transferable[];
      await this.#ask(helper, id, { type: "open", id, model: bytes, external, io }, transfer);
    }
    return { thread, id };
  }

  async close({ thread, id }: PartHandle): Promise<void> {
    const helper = this.#helpers[thread - 1];
    if (!helper) this.#own.close(id);
    else if (!this.#fault) await this.#ask(helper, id, { type: "close", id }, []); // else the threads go, and sessions with them
  }

  /** Runs every job; returns when all are done. */
  run(jobs: readonly Job[]): void {
    if (this.#fault) throw this.#fault;
    const spins = this.#spin.spins();
    for (const job of jobs) {
      const helper = this.#helpers[job.part.thread - 1];
      if (helper) putJob(helper, job);
    }
    for (const helper of this.#helpers) if (helper.jobs > 0) this.#post(helper, spins);
    try {
      for (const { part, rows, input, output } of jobs)
        if (part.thread === 0) this.#own.run(this.#arena, { id: part.id, rows, input, output });
    } finally {
      this.#joinAll();
    }
  }

  async terminate(): Promise<void> {
    this.#own.closeAll();
    for (const { worker } of this.#helpers) worker.ref();
    for (const helper of this.#helpers) {
      Atomics.store(helper.control, word.posted, -1);
      Atomics.notify(helper.control, word.posted);
    }
    await Promise.all(this.#helpers.map(({ worker, ended }) => (this.#fault ? worker.terminate() : ended)));
  }

  /** Waits for every helper, whoever fails: one that still computed would be taken for the next batch's. */
  #joinAll(): void {
    const failures = this.#helpers.flatMap((helper) => (helper.jobs > 0 ? (this.#join(helper) ?? []) : []));
    if (failures[0]) throw failures[0];
  }

  #join(helper: Helper): AppError | undefined {
    helper.jobs = 0;
    if (this.#fault) return this.#fault;
    if (!caughtUp(helper)) return this.#lost(silent());
    if (helper.control[word.failed] === 0) return undefined;
    helper.control[word.failed] = 0;
    for (let got = receiveMessageOnPort(helper.port); got; got = receiveMessageOnPort(helper.port)) {
      const message = got.message as FromHelper;
      if (message.type === "failed") return failure(message.message);
      settle(helper, message);
    }
    return failure("a job failed");
  }

  #post(helper: Helper, spins: number): void {
    // A batch of no jobs may still be open (the helper is creating a session): its words must not change under it.
    if (!caughtUp(helper)) throw this.#lost(silent());
    helper.control[word.jobs] = helper.jobs;
    helper.control[word.spins] = spins;
    helper.posted += 1;
    Atomics.store(helper.control, word.posted, helper.posted);
    Atomics.notify(helper.control, word.posted);
  }

  #lost(error: AppError): AppError {
    this.#fault ??= error;
    return this.#fault;
  }

  #shareArena(): void {
    for (const helper of this.#helpers) helper.port.postMessage({ type: "arena", arena: this.#arena.buffer });
  }

  #ask(helper: Helper, id: number, message: ToHelper, transfer: Transferable[]): Promise<void> {
    return new Promise((resolve, reject) => {
      helper.pending.set(id, { resolve, reject });
      helper.port.ref(); // an answer is due: the loop must not end before it
      helper.port.postMessage(message, transfer);
      this.#post(helper, 0); // a batch of no jobs: look at the port
    });
  }
}

function startHelper(onLost: (error: AppError) => void): Helper {
  const { port1, port2 } = new MessageChannel();
  const control = controlBuffer();
  const worker = new Worker(new URL("./helper.ts", import.meta.url), {
    workerData: { control, port: port2 },
    transferList: [port2],
    name: "experts",
  });
  const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
  const helper: Helper = { worker, ended, control: new Int32Array(control), port: port1, pending: new Map(), posted: 0, jobs: 0 };
  port1.on("message", (message: FromHelper) => settle(helper, message));
  port1.unref();
  worker.unref();
  const lost = (cause: unknown): void => {
    const error = failure(`ended: ${cause instanceof Error ? cause.message : String(cause)}`);
    onLost(error);
    for (const { reject } of helper.pending.values()) reject(error);
    helper.pending.clear();
    port1.unref();
  };
  worker.once("error", lost);
  worker.once("exit", lost);
  return helper;
}

function settle(helper: Helper, message: FromHelper): void {
  if (message.type === "failed") return;
  const pending = helper.pending.get(message.id);
  helper.pending.delete(message.id);
  if (helper.pending.size === 0) helper.port.unref();
  if (message.type === "refused") pending?.reject(failure(message.message));
  else pending?.resolve();
}

function putJob(helper: Helper, { part, rows, input, output }: Job): void {
  if (helper.jobs >= jobsMax) throw failure(`more than ${jobsMax} parts in one batch`);
  helper.control.set([part.id, rows, input, output], headerWords + helper.jobs * jobWords);
  helper.jobs += 1;
}

/** False after a time that no batch takes. */
function caughtUp(helper: Helper): boolean {
  return waitWhile(helper.control, word.finished, helper.posted - 1, jobTimeoutMs);
}
