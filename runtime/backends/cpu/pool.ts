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
  readonly control: Int32Array;
  readonly port: MessagePort;
  readonly pending: Map<number, Pending>;
  posted: number;
  jobs: number;
}

const failure = (message: string): AppError =>
  new AppError(`compute thread: ${message}`, { code: "BackendFailed", operation: "running a part" });

export class Pool {
  readonly threads: number;
  readonly #own = new Parts();
  readonly #helpers: readonly Helper[];
  readonly #spin = new SpinGauge();
  #arena = new Float32Array(new SharedArrayBuffer(arenaFloatsMin * 4));
  #nextId = 0;

  constructor(threads: number) {
    this.threads = threads;
    this.#helpers = Array.from({ length: threads - 1 }, () => startHelper());
    this.#shareArena();
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
    if (helper) await this.#ask(helper, id, { type: "close", id }, []);
    else this.#own.close(id);
  }

  /** Runs every job; returns when all are done. */
  run(jobs: readonly Job[]): void {
    const spins = this.#spin.spins();
    for (const job of jobs) {
      const helper = this.#helpers[job.part.thread - 1];
      if (helper) putJob(helper, job);
    }
    for (const helper of this.#helpers) if (helper.jobs > 0) post(helper, spins);
    try {
      for (const { part, rows, input, output } of jobs) if (part.thread === 0) this.#own.run(part.id, rows, this.#arena, input, output);
    } finally {
      for (const helper of this.#helpers) if (helper.jobs > 0) this.#join(helper);
    }
  }

  async terminate(): Promise<void> {
    this.#own.closeAll();
    for (const { worker } of this.#helpers) worker.ref();
    const ended = this.#helpers.map(({ worker }) => new Promise((resolve) => worker.once("exit", resolve)));
    for (const helper of this.#helpers) {
      Atomics.store(helper.control, word.posted, -1);
      Atomics.notify(helper.control, word.posted);
    }
    await Promise.all(ended);
  }

  #join(helper: Helper): void {
    helper.jobs = 0;
    if (!waitWhile(helper.control, word.finished, helper.posted - 1, jobTimeoutMs)) throw failure(`no answer for ${jobTimeoutMs / 1000} s`);
    if (helper.control[word.failed] === 0) return;
    helper.control[word.failed] = 0;
    for (let got = receiveMessageOnPort(helper.port); got; got = receiveMessageOnPort(helper.port)) {
      const message = got.message as FromHelper;
      if (message.type === "failed") throw failure(message.message);
      settle(helper, message);
    }
    throw failure("a job failed");
  }

  #shareArena(): void {
    for (const helper of this.#helpers) helper.port.postMessage({ type: "arena", arena: this.#arena.buffer });
  }

  #ask(helper: Helper, id: number, message: ToHelper, transfer: Transferable[]): Promise<void> {
    return new Promise((resolve, reject) => {
      helper.pending.set(id, { resolve, reject });
      helper.port.ref(); // an answer is due: the loop must not end before it
      helper.port.postMessage(message, transfer);
      post(helper, 0); // a batch of no jobs: look at the port
    });
  }
}

function startHelper(): Helper {
  const { port1, port2 } = new MessageChannel();
  const control = controlBuffer();
  const worker = new Worker(new URL("./helper.ts", import.meta.url), {
    workerData: { control, port: port2 },
    transferList: [port2],
    name: "experts",
  });
  const helper: Helper = { worker, control: new Int32Array(control), port: port1, pending: new Map(), posted: 0, jobs: 0 };
  port1.on("message", (message: FromHelper) => settle(helper, message));
  port1.unref();
  worker.unref();
  const lost = (cause: unknown): void => {
    for (const { reject } of helper.pending.values()) reject(failure(`ended: ${cause instanceof Error ? cause.message : String(cause)}`));
    helper.pending.clear();
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

function post(helper: Helper, spins: number): void {
  // A batch of no jobs may still be open (the helper is creating a session): its words must not change under it.
  if (!waitWhile(helper.control, word.finished, helper.posted - 1, jobTimeoutMs)) throw failure(`no answer for ${jobTimeoutMs / 1000} s`);
  helper.control[word.jobs] = helper.jobs;
  helper.control[word.spins] = spins;
  helper.posted += 1;
  Atomics.store(helper.control, word.posted, helper.posted);
  Atomics.notify(helper.control, word.posted);
}
