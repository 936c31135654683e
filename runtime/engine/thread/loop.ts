// The engine's loop: runs steps one after another and answers the main thread's messages between them. Frames of other
// ranks are answered between the layers of a running step too, and while a step waits for another rank, so that two ranks
// waiting for each other always get on.
import { setImmediate as macrotask } from "node:timers/promises";
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import type { StepKind } from "../../../crds/telemetry.ts";
import { Languages } from "../../constraints/languages.ts";
import { createRouter } from "../../placement/dispatch.ts";
import type { FrameAnswer, LoadCounters, RemoteFrame } from "../api.ts";
import { Lanes } from "../lanes.ts";
import { Outbound } from "../outbound.ts";
import { embeddingOf } from "../pass/embedding.ts";
import { ExpertTable } from "../pass/expert-table.ts";
import { FrameScheduler } from "../pass/frame-scheduler.ts";
import { Head } from "../pass/head.ts";
import { rangesOf, rowsTravel } from "../pass/layer-ranges.ts";
import { LoadCounter } from "../pass/load-counter.ts";
import { PromptLogprobs, type PromptPorts } from "../pass/prompt-logprobs.ts";
import { forward } from "../pass/step.ts";
import { StepTimes } from "../pass/step-times.ts";
import type { StepTools } from "../pass/step-tools.ts";
import { TransitionSampler } from "../pass/transition-sampler.ts";
import { Batcher } from "../schedule/batch.ts";
import { checkRow, unusableRows } from "../schedule/sampling/finite.ts";
import { OpenSampling } from "../schedule/sampling/open-sampling.ts";
import type { Sampled } from "../schedule/sampling/sampler.ts";
import { decodesOf, idsOf, kindOf, type Step } from "../schedule/step-plan.ts";
import { TracedRequests } from "../schedule/traced.ts";
import { TwoBatchOverlap } from "../schedule/two-batch-overlap.ts";
import { type CallMessage, type FromEngine, type GenerateMessage, type ThreadOptions, type ToEngine, toPlain } from "./messages.ts";
import type { OpenModel } from "./open.ts";
import { Preparing } from "./preparing.ts";
import { changeSlot } from "./slot-changes.ts";
import { loadVocabulary } from "./vocabulary.ts";

/** Kept until `stats` is asked, per kind: more than a device computes between two calls of it. */
const stepSecondsMax = 4_096;

/** Between two pieces of a prefill while others decode. A thread that computes on and on keeps the processor for some milliseconds from
 *  those that carry frames, when there are more of them than processors. */
const yieldMs = 0.05;

export class EngineLoop {
  readonly #port: MessagePort;
  readonly #model: OpenModel;
  readonly #batcher: Batcher;
  readonly #experts: ExpertTable;
  readonly #counter: LoadCounter;
  readonly #transitions: TransitionSampler;
  readonly #times = new StepTimes();
  readonly #scheduler: FrameScheduler;
  readonly #lanes: Lanes;
  /** Nobody wakes who sleeps on it. */
  readonly #never = new Int32Array(new SharedArrayBuffer(4));
  readonly #tools: StepTools;
  readonly #outbound: Outbound;
  #router = { rank: -1, table: createRouter(-1) };
  #down: ReadonlySet<number> = new Set();
  readonly #traced = new TracedRequests();
  readonly #head: Head;
  readonly #languages: Languages;
  readonly #preparing: Preparing;
  readonly #prompts: PromptLogprobs;
  /** The trace of the running step. */
  #traceparent: string | undefined;
  /** What the running step has, or the last one while others follow; undefined when there is nothing to do. */
  #kind: StepKind | undefined;
  #draining = false;
  #closing = false;
  /** Calls that change state wait here for the end of a step. */
  #deferred: (() => void)[] = [];
  #wake: (() => void) | undefined;
  readonly #totals = { prefillTokens: 0, decodeTokens: 0, cachedTokens: 0 };
  readonly #waitedSeconds: Record<StepKind, number> = { prefill: 0, decode: 0, mixed: 0 };
  /** Seconds of each step since the last `stats`. */
  #stepSeconds: Record<StepKind, number[]> = { prefill: [], decode: [], mixed: [] };

  constructor(port: MessagePort, model: OpenModel, options: ThreadOptions) {
    const { program, backend, store, embed, blocks, head } = model;
    this.#port = port;
    this.#model = model;
    this.#batcher = new Batcher(model.pool, backend.prefillEqualsDecode ? options.limits : { ...options.limits, draftTokens: 0 });
    this.#counter = new LoadCounter(model.info);
    this.#languages = new Languages(model.info.vocab, () => loadVocabulary(options.storeDir));
    const tell: PromptPorts["tell"] = (id, event) => this.#send({ type: "events", notices: [{ id, event }] });
    this.#preparing = new Preparing(this.#languages, tell);
    this.#transitions = new TransitionSampler(model.info);
    this.#experts = new ExpertTable({ backend, store, program, codec: options.codec, counter: this.#counter });
    this.#lanes = new Lanes({
      model,
      serve: (batch) => this.#scheduler.serve(batch),
      onFrames: () => void this.#scheduler.serveWaiting(),
      tell: (news) => this.#send({ type: "lanes", news }),
    });
    this.#outbound = new Outbound(this.#lanes, (message, transfer) => this.#send(message, transfer));
    this.#scheduler = new FrameScheduler({
      experts: this.#experts,
      poll: () => this.#lanes.poll(),
      takeMessages: () => this.#drainPort(),
      own: () => this.#kind,
      ownWaits: () => this.#outbound.pending > 0,
      now: () => performance.now(),
      yieldProcessor: () => void Atomics.wait(this.#never, 0, 0, yieldMs),
    });
    this.#head = new Head(head, program, this.#experts.lock);
    this.#prompts = new PromptLogprobs({
      head: this.#head,
      vocab: program.vocab,
      between: () => this.#scheduler.betweenGraphs(),
      tell,
    });
    this.#tools = {
      program,
      embed,
      blocks,
      experts: this.#experts,
      counter: this.#counter,
      transitions: this.#transitions,
      times: this.#times,
      router: () => this.#router,
      dispatch: (frame, gatesOf) => this.#dispatch(frame, gatesOf),
      scheduler: this.#scheduler,
      allocators: [],
      ranges: rangesOf(model, this.#experts),
      overlap: new TwoBatchOverlap(),
    };
    port.on("message", (message: ToEngine) => {
      this.#receive(message);
      this.#drainPort(); // frames that came together are computed together
      void this.#scheduler.serveWaiting();
    });
  }

  /** Runs until `close`; throws when the backend can compute nothing any more, since no later step or frame could be answered. */
  async run(): Promise<void> {
    await this.#steps().finally(() => this.#lanes.close()); // after an error too: they would keep callers waiting, and the thread alive
    await this.#model.close();
    this.#port.close();
  }

  async #steps(): Promise<void> {
    for (;;) {
      this.#flushNotices();
      for (const change of this.#deferred.splice(0)) change();
      if (this.#closing) return;
      const fault = this.#model.backend.fault();
      if (fault) throw fault;
      const step = this.#batcher.next(rowsTravel(this.#router, this.#model.program.layers));
      this.#flushNotices();
      if (step) {
        this.#kind = kindOf(step.tokens.length, decodesOf(step));
        await this.#execute(step);
        await this.#scheduler.betweenGraphs();
        await macrotask(); // lets messages, loads and replies in
      } else {
        this.#kind = undefined;
        const woken = new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        void this.#scheduler.serveWaiting(); // takes in messages too, one of which may be what is waited for
        await woken;
        this.#wake = undefined;
      }
    }
  }

  async #execute(step: Step): Promise<void> {
    const start = performance.now();
    this.#traceparent = this.#traced.take(idsOf(step));
    // An error here ends the engine: the memory would no longer be what the batcher believes, and a text might be read as another's.
    for (const change of step.changes) await changeSlot(this.#model.kv, change);
    const changedAt = performance.now();
    this.#batcher.changed(step, changedAt - start);
    try {
      const kv = { cache: this.#model.kv, groups: step.groups };
      const x = await forward(this.#tools, step.tokens, kv, decodesOf(step));
      const unusable = unusableRows(step, x, this.#model.program.hidden);
      await this.#prompts.tell(step, x, unusable);
      const ms = performance.now() - changedAt;
      this.#experts.stepTook(ms);
      this.#batcher.complete(step, await this.#sample(step, x, unusable), ms);
      const open = this.#batcher.openIds(); // what comes after a text's end is nobody's
      for (const [id, error] of unusable) if (open.includes(id)) this.#fail(id, error, "unusable");
    } catch (caught) {
      this.#batcher.spent(performance.now() - start);
      for (const id of idsOf(step)) this.#fail(id, caught);
    }
    this.#count(step, (performance.now() - start) / 1000);
  }

  /** A token for each wanted row, but for requests that are `unusable`; those whose logits are so join them. Rows after a guess that was
   *  wrong get none: their request goes on from the row before, and each of its positions is chosen once. */
  async #sample(step: Step, x: Float32Array, unusable: Map<string, AppError>): Promise<(Sampled | undefined)[]> {
    const { wanted } = step;
    const { hidden } = this.#model.program;
    const tokens = wanted.filter(({ embed }) => !embed);
    return this.#head.run(x, tokens, (choose) => {
      let next = 0;
      let last: Sampled | undefined;
      return wanted.map(({ id, row, sampling, position, embed, guess }) => {
        const own = embed ? next : next++;
        const wrong = guess !== undefined && guess > 0 && last?.token !== step.tokens[row];
        if (wrong) last = undefined;
        if (wrong || unusable.has(id)) return undefined;
        const values = x.subarray(row * hidden, (row + 1) * hidden);
        try {
          if (embed) return this.#embed(id, values);
          if (guess !== undefined) checkRow(values, position);
          last = choose(own, sampling, position);
          sampling.accept(last.token, position);
          return last;
        } catch (caught) {
          unusable.set(id, AppError.from(caught));
          return undefined;
        }
      });
    });
  }

  /** Returns what stands for the token that is not drawn. */
  #embed(id: string, row: Float32Array): Sampled {
    const values = embeddingOf(row, this.#model.finalNorm as Float32Array);
    this.#send({ type: "events", notices: [{ id, event: { type: "embedding", values } }] });
    return { token: 0, logprob: 0 };
  }

  #dispatch(frame: RemoteFrame, gatesOf: () => Float32Array): Promise<FrameAnswer> {
    return this.#outbound.dispatch(this.#traceparent === undefined ? frame : { ...frame, traceparent: this.#traceparent }, gatesOf);
  }

  #drainPort(): void {
    for (let got = receiveMessageOnPort(this.#port); got; got = receiveMessageOnPort(this.#port)) this.#receive(got.message as ToEngine);
  }

  #receive(message: ToEngine): void {
    switch (message.type) {
      case "dispatched":
      case "dispatchFailed":
        this.#outbound.answered(message);
        return;
      case "generate":
        void this.#generate(message);
        break;
      case "cancel":
        this.#preparing.takeBack(message.id);
        this.#later(() => this.#batcher.remove(message.id, "cancelled"));
        break;
      case "call":
        void this.#answer(message);
        break;
    }
    this.#wake?.();
  }

  async #generate(message: GenerateMessage): Promise<void> {
    try {
      if (message.sampling.constraint && !(await this.#preparing.wait(message.id))) return;
      if (this.#draining) throw new AppError("this worker is draining; ask another", { code: "Draining", retry: "backoff" });
      if (message.embed && !this.#model.finalNorm)
        throw new AppError("embeddings: this model has no norm before its head", { code: "InvalidRequest" });
      const sampling = new OpenSampling(message, this.#languages);
      this.#batcher.submit({ ...message, sampling, eos: new Set(message.eos), whole: message.promptLogprobs });
      if (message.promptLogprobs) this.#prompts.add(message.id, message.prompt, message.sampling.topLogprobs);
      if (message.traceparent) this.#traced.add(message.id, message.traceparent);
      this.#flushNotices(); // that it is queued, even in the middle of a long step
      this.#wake?.();
    } catch (caught) {
      this.#send({ type: "requestFailed", id: message.id, error: toPlain(caught) });
    }
  }

  async #answer(message: CallMessage): Promise<void> {
    try {
      const result = await this.#call(message);
      const transfer = result instanceof Float32Array ? [result.buffer as ArrayBuffer] : [];
      this.#send({ type: "answer", id: message.id, result }, transfer);
    } catch (caught) {
      this.#send({ type: "failed", id: message.id, error: toPlain(caught) });
    }
  }

  async #call(message: CallMessage): Promise<unknown> {
    switch (message.method) {
      case "runExperts":
        return this.#scheduler.serve(message.argument);
      case "loadExpert":
        await macrotask(); // not between two layers of a running step: a slice of a load takes time
        return this.#experts.load(message.argument.layer, message.argument.expert, message.argument.unit);
      case "unloadExpert":
        await macrotask();
        return this.#experts.unload(message.argument.layer, message.argument.expert);
      case "setRouting":
        return this.#atStepEnd(() => {
          const { rank, layers } = message.argument;
          if (rank !== this.#router.rank) this.#router = { rank, table: createRouter(rank) };
          this.#router.table.setDown(this.#down);
          this.#router.table.setTables(layers);
        });
      case "setDown":
        this.#down = new Set(message.argument);
        return this.#router.table.setDown(this.#down);
      case "openLanes":
        return this.#lanes.open(message.argument);
      case "setLanes":
        return this.#lanes.set(message.argument);
      case "counters":
        return this.#takeCounters(message.argument.transitions);
      case "stats": {
        const { slotsUsed, slotsKept, blocksUsed, blocksKept, preemptions, drafts, queued } = this.#batcher;
        const stepSeconds = this.#stepSeconds;
        this.#stepSeconds = { prefill: [], decode: [], mixed: [] };
        return {
          ...this.#totals,
          stepSeconds,
          waitedSeconds: this.#waitedSeconds,
          slotsUsed,
          slotsKept,
          blocksUsed,
          blocksKept,
          preemptions,
          ...drafts,
          queuedRequests: queued,
          hostedExperts: this.#experts.count,
          rowsFor: this.#counter.rowsFor,
        };
      }
      case "drain":
        this.#draining = message.argument;
        return this.#atStepEnd(() => {
          if (this.#draining) for (const id of this.#batcher.openIds()) this.#batcher.remove(id, "draining");
        });
      case "close":
        this.#outbound.fail(new AppError("engine: closing", { code: "EngineStopped", retry: "backoff" }));
        this.#lanes.close(); // a step that waits for a lane ends, too
        return this.#atStepEnd(() => {
          this.#closing = true;
        });
    }
  }

  #takeCounters(wanted: boolean): LoadCounters {
    const { prefill, decode } = this.#counter.take();
    const transitions = this.#transitions.take(wanted);
    const seconds = this.#times.take();
    return {
      prefill: { ...prefill, seconds: seconds.prefill, ...(transitions.prefill ? { transitions: transitions.prefill } : {}) },
      decode: { ...decode, seconds: seconds.decode, ...(transitions.decode ? { transitions: transitions.decode } : {}) },
    };
  }

  #later(change: () => void): void {
    this.#deferred.push(change);
    this.#wake?.();
  }

  #atStepEnd(change: () => void): Promise<void> {
    return new Promise((resolve) =>
      this.#later(() => {
        change();
        resolve();
      }),
    );
  }

  #fail(id: string, caught: unknown, reason: "failed" | "unusable" = "failed"): void {
    this.#flushNotices(); // tokens that came before the error
    this.#batcher.remove(id, reason);
    this.#forget(id);
    this.#send({ type: "requestFailed", id, error: toPlain(caught) });
  }

  #forget(id: string): void {
    this.#traced.drop(id);
    this.#prompts.drop(id);
  }

  #flushNotices(): void {
    const notices = this.#batcher.takeNotices();
    for (const { id, event } of notices) {
      if (event.type === "finish") this.#forget(id);
      if (event.type === "started") this.#totals.cachedTokens += event.cachedPromptTokens;
    }
    if (notices.length > 0) this.#send({ type: "events", notices });
  }

  #count(step: Step, seconds: number): void {
    const [rows, decodes] = [step.tokens.length, decodesOf(step)];
    const kind = kindOf(rows, decodes);
    this.#totals.decodeTokens += decodes;
    this.#totals.prefillTokens += rows - decodes;
    this.#waitedSeconds[kind] += Math.max(0, this.#scheduler.waitedMs) / 1000;
    if (this.#stepSeconds[kind].length < stepSecondsMax) this.#stepSeconds[kind].push(seconds);
  }

  #send(message: FromEngine, transfer: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, transfer);
  }
}
