// Runs the tokenizer in its own thread (DECISIONS.md 3). Texts wait for each other, short ones first, but none for ever.
import { Worker } from "node:worker_threads";
import { AppError } from "../../crds/common.ts";
import { charactersOfChat } from "./templated.ts";
import type { ChatMessage, TextModel } from "./text-model.ts";
import type { Variables } from "./thinking.ts";
import { loadDecoding } from "./tokenizer.ts";
import type { Tool } from "./tools/tool-format.ts";

/** About a million characters take a second; long texts get more time. */
const deadlineMs = 5_000;
const deadlineMsPerCharacter = 0.01;
/** Node ends a thread at its limit only while one collection of young objects fits into 16 MiB; else the whole process dies. */
const youngMib = 8;
/** Includes compiling and probing. */
const startMs = 60_000;
/** Limits of waiting texts: count, time, and characters, which a transfer holds twice. */
const waitingMax = 256;
const waitMs = 60_000;
const waitingCharactersMax = 32_000_000;
/** Exhaustion ends the thread, not the process. */
const memoryMib = 1_024;

export type TextJob =
  | { readonly text: string }
  | { readonly messages: readonly ChatMessage[]; readonly tools: readonly Tool[]; readonly variables?: Variables | undefined };

export type FromTextThread =
  | { readonly type: "ready" }
  | { readonly type: "refused" | "failed"; readonly error: { readonly code: string; readonly message: string } }
  | { readonly type: "encoded"; readonly ids: Uint32Array<ArrayBuffer> };

export interface TextThreadLimits {
  /** Base milliseconds per text. */
  readonly deadlineMs?: number;
  /** Includes the tokenizer. */
  readonly memoryMib?: number;
}

interface Waiting {
  readonly job: TextJob;
  readonly characters: number;
  /** Milliseconds: the lowest goes first. */
  readonly turn: number;
  readonly late: NodeJS.Timeout;
  resolve(ids: Uint32Array): void;
  reject(error: AppError): void;
}

export interface ThreadedTextModel extends TextModel {
  close(): Promise<void>;
}

/** Throws AppError `BadTokenizer` naming the file and field. */
export async function openTextModel(dir: string, limits: TextThreadLimits = {}): Promise<ThreadedTextModel> {
  const decoding = await loadDecoding(dir);
  const thread = new TextThread(dir, limits);
  await thread.started();
  return {
    ...decoding,
    encode: (text, signal) => thread.encode({ text }, signal),
    encodeChat: (messages, signal, tools = [], variables) => thread.encode({ messages, tools, variables }, signal),
    close: () => thread.close(),
  };
}

class TextThread {
  readonly #dir: string;
  readonly #limits: Required<TextThreadLimits>;
  readonly #waiting: Waiting[] = [];
  #waitingCharacters = 0;
  #ready: Worker | undefined;
  #starting: Promise<void> | undefined;
  #running: { readonly entry: Waiting; readonly timer: NodeJS.Timeout } | undefined;
  #closed = false;

  constructor(dir: string, limits: TextThreadLimits) {
    this.#dir = dir;
    this.#limits = { deadlineMs, memoryMib, ...limits };
  }

  started(): Promise<void> {
    if (this.#ready) return Promise.resolve();
    this.#starting ??= this.#start().finally(() => {
      this.#starting = undefined;
    });
    return this.#starting;
  }

  encode(job: TextJob, signal?: AbortSignal): Promise<Uint32Array> {
    const characters = charactersOf(job);
    if (this.#waiting.length >= waitingMax || this.#waitingCharacters + characters > waitingCharactersMax) {
      return Promise.reject(queueFull());
    }
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(gone());
      const late = setTimeout(() => this.#withdraw(entry) && reject(queueFull()), waitMs);
      const turn = performance.now() + characters * deadlineMsPerCharacter;
      const entry: Waiting = { job, characters, turn, late, resolve, reject };
      signal?.addEventListener("abort", () => this.#withdraw(entry) && reject(gone()), { once: true });
      this.#waiting.push(entry);
      this.#waitingCharacters += characters;
      this.#next();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const worker = this.#ready;
    this.#ready = undefined;
    this.#finish()?.reject(stopping());
    for (const entry of [...this.#waiting]) if (this.#withdraw(entry)) entry.reject(stopping());
    await this.#starting?.catch(() => undefined);
    await worker?.terminate();
  }

  #withdraw(entry: Waiting): boolean {
    const at = this.#waiting.indexOf(entry);
    if (at < 0) return false;
    clearTimeout(entry.late);
    this.#waiting.splice(at, 1);
    this.#waitingCharacters -= entry.characters;
    return true;
  }

  /** Senders of long texts expect a longer wait, and shorter ones go before them for that long only. */
  #next(): void {
    const worker = this.#ready;
    if (this.#running || this.#waiting.length === 0) return;
    if (!worker) {
      this.#restart();
      return;
    }
    const entry = this.#waiting.reduce((least, each) => (each.turn < least.turn ? each : least));
    this.#withdraw(entry);
    const allowedMs = this.#limits.deadlineMs + entry.characters * deadlineMsPerCharacter;
    this.#running = { entry, timer: setTimeout(() => this.#tooLong(worker, allowedMs), allowedMs) };
    worker.postMessage(entry.job);
  }

  #finish(): Waiting | undefined {
    const running = this.#running;
    clearTimeout(running?.timer);
    this.#running = undefined;
    return running?.entry;
  }

  #tooLong(worker: Worker, allowedMs: number): void {
    this.#lost(worker, new AppError(`the text took longer than ${allowedMs / 1000} s to tokenise; shorten it`, { code: "InvalidRequest" }));
  }

  /** Fails the running text and starts another thread for the rest. */
  #lost(worker: Worker, error: AppError): void {
    if (worker !== this.#ready) return;
    this.#ready = undefined;
    void worker.terminate();
    this.#finish()?.reject(error);
    this.#restart();
  }

  #restart(): void {
    if (this.#closed) return;
    this.started().then(
      () => this.#next(),
      (error: AppError) => {
        for (const entry of [...this.#waiting]) if (this.#withdraw(entry)) entry.reject(error);
      },
    );
  }

  async #start(): Promise<void> {
    const worker = new Worker(new URL("./thread.ts", import.meta.url), {
      workerData: { dir: this.#dir },
      resourceLimits: { maxOldGenerationSizeMb: this.#limits.memoryMib, maxYoungGenerationSizeMb: youngMib },
      name: "text",
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const late = setTimeout(
      () => reject(new AppError(`${this.#dir}: the tokenizer was not loaded within ${startMs / 1000} s`, { code: "BadTokenizer" })),
      startMs,
    );
    worker.on("message", (message: FromTextThread) => {
      if (message.type === "ready") resolve();
      else if (message.type === "refused") reject(errorOf(message.error));
      else this.#answered(worker, message);
    });
    worker.on("error", (cause) => {
      const error = ended(cause);
      reject(new AppError(`${this.#dir}: the tokenizer was not loaded: ${error.message}`, { code: "BadTokenizer", cause }));
      this.#lost(worker, error);
    });
    try {
      await promise;
      if (this.#closed) throw stopping();
      this.#ready = worker;
    } catch (caught) {
      await worker.terminate();
      throw caught;
    } finally {
      clearTimeout(late);
    }
  }

  #answered(worker: Worker, message: Extract<FromTextThread, { type: "encoded" | "failed" | "refused" }>): void {
    if (worker !== this.#ready) return;
    const entry = this.#finish();
    if (message.type === "encoded") entry?.resolve(message.ids);
    else entry?.reject(errorOf(message.error));
    this.#next();
  }
}

const errorOf = ({ code, message }: { readonly code: string; readonly message: string }) => new AppError(message, { code });
const queueFull = () => new AppError("too many texts wait to be tokenised", { code: "QueueFull", retry: { afterMs: 2_000 } });
const gone = () => new AppError("the client went away", { code: "Cancelled" });
const stopping = () => new AppError("the tokenizer is stopping", { code: "Cancelled" });

/** A text that exhausts memory is at fault; any other end is ours. */
function ended(cause: unknown): AppError {
  const message = cause instanceof Error ? cause.message : String(cause);
  const outOfMemory = cause instanceof Error && "code" in cause && cause.code === "ERR_WORKER_OUT_OF_MEMORY";
  if (!outOfMemory) return new AppError(`the text thread ended: ${message}`, { code: "Internal", cause, retry: "backoff" });
  return new AppError("the text needs too much memory to tokenise; shorten it", { code: "InvalidRequest", cause });
}

function charactersOf(job: TextJob): number {
  if ("text" in job) return job.text.length;
  return charactersOfChat(job.messages, job.tools);
}
