// The engine for the main thread, over the MessagePort of engine/thread/thread.ts.

import { readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { MessageChannel, type MessagePort, type Transferable, Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import type {
  ChangedPrefixes,
  Engine,
  EngineConnections,
  EngineInfo,
  EngineKv,
  EngineOptions,
  GenerateEvent,
  GenerateRequest,
  HeldBlock,
  OnDemandExperts,
  OnDemandFrame,
  PeerCounts,
} from "../api.ts";
import { type CallMessage, type Calls, type FromEngine, fromPlain, type Method, type ToEngine, toPlain } from "./messages.ts";

interface Pending {
  resolve(result: unknown): void;
  reject(error: AppError): void;
}

/** Events of a request for its one reader; bounded by its context length. */
class Stream<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #failed: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  /** Events before the error are still read. */
  fail(error: unknown): void {
    this.#failed ??= { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      for (let item = this.#items.shift(); item !== undefined; item = this.#items.shift()) yield item;
      if (this.#failed) throw this.#failed.error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}

interface OpenRequest {
  readonly stream: Stream<GenerateEvent>;
  queuedTokens: number;
}

const beforeOutput: ReadonlySet<GenerateEvent["type"]> = new Set(["queued", "started", "prompt"]);

const gone = (why: string): AppError => new AppError(`engine: ${why}`, { code: "EngineStopped", retry: "backoff" });

class EngineClient implements Engine {
  readonly connections: EngineConnections = {
    open: (opening, onCounts) => {
      this.#onPeerCounts = onCounts;
      return this.#call("openConnections", opening);
    },
    set: (view) => this.#call("setPeers", view),
  };
  readonly kv: EngineKv = {
    look: (text) => this.#call("lookKv", text),
    read: (block) => this.#call("readKv", block),
    write: (written) => this.#call("writeKv", written, [written.data.buffer as ArrayBuffer]),
    onKept: (listener) => {
      this.#onKept = listener;
    },
  };
  readonly #info: EngineInfo;
  readonly #port: MessagePort;
  readonly #worker: Worker;
  readonly #onDemand: OnDemandExperts;
  readonly #pending = new Map<number, Pending>();
  readonly #requests = new Map<string, OpenRequest>();
  readonly #hosted: Set<number>[];
  #onPrefixes: (changed: ChangedPrefixes) => void = () => {};
  #onPeerCounts: (counts: PeerCounts) => void = () => {};
  #onKept: (block: HeldBlock) => void = () => {};
  #nextId = 0;
  #passed = 0;
  #stopped: AppError | undefined;
  readonly #exited: Promise<void>;
  #closed: Promise<void> | undefined;

  constructor(info: EngineInfo, port: MessagePort, worker: Worker, onDemand: OnDemandExperts) {
    this.#info = info;
    this.#port = port;
    this.#worker = worker;
    this.#onDemand = onDemand;
    this.#hosted = Array.from({ length: info.layers }, () => new Set<number>());
    port.on("message", (message: FromEngine) => this.#receive(message));
    worker.on("error", (cause) => this.#stop(gone(`its thread failed: ${cause instanceof Error ? cause.message : String(cause)}`)));
    this.#exited = new Promise((resolve) => {
      worker.on("exit", () => {
        this.#stop(gone("its thread ended"));
        resolve();
      });
    });
  }

  describe(): EngineInfo {
    return this.#info;
  }

  async *generate(request: GenerateRequest): AsyncIterable<GenerateEvent> {
    if (this.#stopped) throw this.#stopped;
    const id = `r${this.#nextId++}`;
    const prompt = Uint32Array.from(request.prompt);
    const replay = Uint32Array.from(request.replay ?? []);
    this.#checkTokens(prompt, replay);
    const open: OpenRequest = { stream: new Stream(), queuedTokens: prompt.length + replay.length };
    const cancel = (): void => this.#post({ type: "cancel", id });
    this.#requests.set(id, open);
    let finished = false;
    try {
      await request.after;
      const { maxTokens, sampling, eos, priority = 0, embed = false, promptLogprobs = false, cacheSalt = "" } = request;
      if (request.signal?.aborted) {
        finished = true;
        yield { type: "finish", reason: "cancelled", outputTokens: 0 };
        return;
      }
      request.signal?.addEventListener("abort", cancel, { once: true });
      const traced = request.traceparent ? { traceparent: request.traceparent } : {};
      const asked = { maxTokens, sampling, eos, priority, embed, promptLogprobs, cacheSalt, ...traced };
      this.#post({ type: "generate", id, prompt, replay, ...asked });
      for await (const event of open.stream) {
        finished = event.type === "finish";
        yield event;
        if (finished) return;
      }
      finished = true;
    } catch (caught) {
      finished = true;
      throw caught;
    } finally {
      request.signal?.removeEventListener("abort", cancel);
      this.#requests.delete(id);
      if (!finished) cancel();
    }
  }

  async loadExpert(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    const own = unit.byteLength === unit.buffer.byteLength ? unit : new Uint8Array(unit); // the rest of the buffer stays the caller's
    await this.#call("loadExpert", { layer, expert, unit: own }, [own.buffer as ArrayBuffer]);
    this.#hosted[layer]?.add(expert);
  }

  async unloadExpert(layer: number, expert: number): Promise<void> {
    this.#hosted[layer]?.delete(expert);
    await this.#call("unloadExpert", { layer, expert });
  }

  hosted(): readonly (readonly number[])[] {
    return this.#hosted.map((experts) => [...experts].sort((a, b) => a - b));
  }

  runExperts(frame: Parameters<Engine["runExperts"]>[0]): Promise<Float32Array> {
    const rows = frame.rows.slice(); // a message would transfer the whole buffer, here that of the socket
    return this.#call("runExperts", { ...frame, rows, origin: frame.origin ?? "remote" }, [rows.buffer]);
  }

  setRouting(tables: Parameters<Engine["setRouting"]>[0]): Promise<void> {
    return this.#call("setRouting", tables);
  }

  setDown(ranks: readonly number[]): Promise<void> {
    return this.#call("setDown", ranks);
  }

  counters(): ReturnType<Engine["counters"]> {
    return this.#call("counters", undefined);
  }

  stats(): ReturnType<Engine["stats"]> {
    return this.#call("stats", undefined);
  }

  load(): { readonly queuedTokens: number; readonly activeRequests: number } {
    let queuedTokens = 0;
    for (const open of this.#requests.values()) queuedTokens += open.queuedTokens;
    return { queuedTokens, activeRequests: this.#requests.size };
  }

  passed(): number {
    return this.#passed;
  }

  onPrefixes(tell: (changed: ChangedPrefixes) => void): void {
    this.#onPrefixes = tell;
  }

  drain(on: boolean): Promise<void> {
    return this.#call("drain", on);
  }

  close(): Promise<void> {
    this.#closed ??= endThread(this.#worker, this.#exited, () => void this.#call("close", undefined).catch(() => {})).finally(() =>
      this.#port.close(),
    );
    return this.#closed;
  }

  #checkTokens(prompt: Uint32Array, replay: Uint32Array): void {
    const { vocab } = this.#info;
    for (const [field, tokens] of Object.entries({ prompt, replay })) {
      const bad = tokens.find((token) => token >= vocab);
      if (bad !== undefined) throw new AppError(`${field}: token ${bad} is outside the vocabulary of ${vocab}`, { code: "InvalidRequest" });
    }
  }

  #call<M extends Method>(method: M, argument: Calls[M]["argument"], transfer: Transferable[] = []): Promise<Calls[M]["result"]> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve as Pending["resolve"], reject });
      this.#post({ type: "call", id, method, argument } as CallMessage, transfer);
    });
  }

  #post(message: ToEngine, transfer: Transferable[] = []): void {
    this.#port.postMessage(message, transfer);
  }

  #receive(message: FromEngine): void {
    switch (message.type) {
      case "events":
        for (const { id, event } of message.notices) this.#event(id, event);
        return;
      case "requestFailed":
        this.#requests.get(message.id)?.stream.fail(fromPlain(message.error));
        return;
      case "answer":
        this.#settle(message.id)?.resolve(message.result);
        return;
      case "failed":
        this.#settle(message.id)?.reject(fromPlain(message.error));
        return;
      case "passed":
        this.#passed += 1;
        return;
      case "prefixes":
        this.#onPrefixes(message.changed);
        return;
      case "connections":
        this.#onPeerCounts(message.counts);
        return;
      case "runOnDemand":
        void this.#runOnDemand(message.id, message.frame);
        return;
      case "expect":
        this.#onDemand.expect?.(message.expected);
        return;
      case "keptKv":
        this.#onKept(message.block);
        return;
      case "refused":
        this.#stop(gone(`its thread ended: ${message.error.message}`));
    }
  }

  #event(id: string, event: GenerateEvent): void {
    const open = this.#requests.get(id);
    if (!open) return;
    if (!beforeOutput.has(event.type)) open.queuedTokens = 0;
    open.stream.push(event);
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }

  async #runOnDemand(id: number, frame: OnDemandFrame): Promise<void> {
    try {
      const rows = await this.#onDemand.run(frame);
      this.#post({ type: "ranOnDemand", id, rows }, [rows.buffer as ArrayBuffer]);
    } catch (caught) {
      this.#post({ type: "onDemandFailed", id, error: toPlain(caught) });
    }
  }

  #stop(error: AppError): void {
    if (this.#stopped) return;
    this.#stopped = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    for (const { stream } of this.#requests.values()) stream.fail(error);
  }
}

/** Milliseconds: a thread that has not ended by itself is ended where it stands, and afterwards left to the end of the process. */
const threadEnds = { byItselfMs: 10_000, terminatedMs: 5_000 };

/** `ask` tells it to end. Throws AppError `EngineStopped` for a thread that is left. */
export async function endThread(
  thread: Pick<Worker, "terminate">,
  exited: Promise<void>,
  ask: () => void,
  { byItselfMs, terminatedMs } = threadEnds,
): Promise<void> {
  const { promise: left, reject } = Promise.withResolvers<never>();
  const terminate = setTimeout(() => void thread.terminate(), byItselfMs);
  const leave = setTimeout(() => reject(gone("its thread does not end")), byItselfMs + terminatedMs);
  ask();
  try {
    await Promise.race([exited, left]);
  } finally {
    clearTimeout(terminate);
    clearTimeout(leave);
  }
}

export async function startEngine({ onDemand, wholeCpus, ...options }: EngineOptions): Promise<Engine> {
  const { port1, port2 } = new MessageChannel();
  const threads = options.threads ?? threadsHere(wholeCpus);
  const worker = new Worker(new URL("./thread.ts", import.meta.url), {
    workerData: { port: port2, options: { ...options, threads } },
    transferList: [port2],
    name: "engine",
  });
  const ready = new Promise<EngineInfo>((resolve, reject) => {
    worker.once("error", (cause) => reject(AppError.from(cause, "starting the engine")));
    worker.once("exit", () => reject(gone("its thread ended before it was ready")));
    port1.once("message", (message: FromEngine) => {
      if (message.type === "ready") resolve(message.info);
      else if (message.type === "refused") reject(fromPlain(message.error));
    });
  });
  const info = await ready.catch((error) => {
    port1.close();
    void worker.terminate();
    throw error;
  });
  worker.removeAllListeners();
  return new EngineClient(info, port1, worker, onDemand);
}

export function processorsIn(list: string): number {
  const ranges = list.trim().split(",").filter(Boolean);
  return ranges.reduce((sum, range) => {
    const [first, last = first] = range.split("-").map(Number) as [number, number?];
    return sum + (last as number) - first + 1;
  }, 0);
}

/**
 * Processors: `online` in the machine, `allowed` to this process, `available` after a quota, `whole` requested exclusively; undefined when
 * unknown.
 */
interface Seen {
  readonly online: number;
  readonly allowed: number;
  readonly available: number;
  readonly whole?: number | undefined;
}

/**
 * A process that is restricted to some processors, but not to less time than they have, owns them: by a static CPU manager, or by taskset.
 */
export function ownThreads({ online, allowed, available, whole = allowed }: Seen): number {
  return allowed < online && available >= allowed && allowed <= whole ? allowed : 1;
}

/** 1 where the system does not report processors. */
function threadsHere(whole: number | undefined): number {
  try {
    const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    if (list === undefined) return 1;
    return ownThreads({ online: cpus().length, allowed: processorsIn(list), available: availableParallelism(), whole });
  } catch {
    return 1;
  }
}
