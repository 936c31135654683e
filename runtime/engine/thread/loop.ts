// The engine thread: makes its parts and runs steps.
import { setImmediate as macrotask } from "node:timers/promises";
import type { MessagePort } from "node:worker_threads";
import { Languages } from "../../constraints/languages.ts";
import type { PeerCounts } from "../api.ts";
import { Outbound } from "../outbound.ts";
import { ExpertTable } from "../pass/expert-table.ts";
import { FrameInbox } from "../pass/frame-inbox.ts";
import { FrameScheduler } from "../pass/frame-scheduler.ts";
import { Head } from "../pass/head.ts";
import { rangesOf, rowsTravel } from "../pass/layer-ranges.ts";
import { LoadCounter } from "../pass/load-counter.ts";
import { PromptLogprobs } from "../pass/prompt-logprobs.ts";
import { StepTimes } from "../pass/step-times.ts";
import { PeerConnections } from "../peer-connections.ts";
import { Batcher } from "../schedule/batch.ts";
import { TwoBatchOverlap } from "../schedule/two-batch-overlap.ts";
import { Calls, Routing } from "./calls.ts";
import { Mailbox, StepBoundary } from "./mailbox.ts";
import type { ThreadOptions, ToEngine } from "./messages.ts";
import { OnDemandCalls } from "./on-demand.ts";
import type { OpenModel } from "./open.ts";
import { loadVocabulary, Requests } from "./requests.ts";
import { Steps } from "./steps.ts";

/** ../DECISIONS.md 2 */
const yieldMs = 0.05;

export class EngineLoop {
  readonly #model: OpenModel;
  readonly #mailbox: Mailbox;
  readonly #boundary = new StepBoundary();
  readonly #routing = new Routing();
  readonly #batcher: Batcher;
  readonly #connections: PeerConnections;
  readonly #onDemand: OnDemandCalls;
  readonly #scheduler: FrameScheduler;
  readonly #requests: Requests;
  readonly #steps: Steps;
  readonly #calls: Calls;

  constructor(port: MessagePort, model: OpenModel, options: ThreadOptions) {
    const { program, backend, store, embed, blocks, info } = model;
    const now = (): number => performance.now();
    this.#model = model;
    this.#mailbox = new Mailbox(port);
    const { drain, send } = this.#mailbox;
    const measured = { counter: new LoadCounter(info), times: new StepTimes() };
    const batcher = new Batcher(model.pool, backend.prefillEqualsDecode ? options.limits : { ...options.limits, draftTokens: 0 });
    const experts = new ExpertTable({ backend, store, program, codec: options.codec, counter: measured.counter });
    const inbox = new FrameInbox(experts, now);
    const onDemand = new OnDemandCalls(send);
    const ways = { serve: inbox.serve.bind(inbox), onDemand: onDemand.run.bind(onDemand) };
    const report = (counts: PeerCounts): void => send({ type: "connections", counts });
    const connections = new PeerConnections({ model, ...ways, onFrames: () => inbox.announce(), report });
    const outbound = new Outbound({ connections, ...ways, serve: inbox.serveOwn.bind(inbox) });
    const never = new Int32Array(new SharedArrayBuffer(4));
    const scheduler = new FrameScheduler({
      ...{ experts, inbox, now, takeMessages: drain },
      poll: () => connections.poll(),
      pendingAnswers: () => outbound.pending,
      yieldProcessor: () => void Atomics.wait(never, 0, 0, yieldMs),
    });
    const head = new Head(model.head, program, experts.lock);
    const prompts = new PromptLogprobs({
      ...{ head, vocab: program.vocab, between: () => scheduler.betweenGraphs() },
      tell: (id, event) => send({ type: "events", notices: [{ id, event }] }),
    });
    const languages = new Languages(info.vocab, () => loadVocabulary(options.storeDir));
    const requests = new Requests({ model, batcher, languages, prompts, boundary: this.#boundary, send });
    const tools = {
      ...{ ...measured, program, embed, blocks, experts, scheduler, allocators: [] },
      router: () => this.#routing,
      dispatch: outbound.dispatch.bind(outbound),
      ranges: rangesOf(model, experts),
      overlap: new TwoBatchOverlap(),
    };
    this.#steps = new Steps({ model, batcher, requests, experts, scheduler, head, prompts, tools, send });
    this.#calls = new Calls({
      ...{ batcher, boundary: this.#boundary, experts, inbox, connections, outbound, requests, routing: this.#routing, steps: this.#steps },
      ...{ measured, onDemand, send },
    });
    [this.#batcher, this.#connections, this.#onDemand, this.#scheduler, this.#requests] = [
      batcher,
      connections,
      onDemand,
      scheduler,
      requests,
    ];
    this.#mailbox.listen(
      (message) => this.#receive(message),
      () => void scheduler.serveWaiting(),
    );
  }

  /** Runs until `close`; throws when the backend cannot compute any more. */
  async run(): Promise<void> {
    await this.#run().finally(() => this.#connections.close()); // open connections would keep callers and the thread waiting
    await this.#model.close();
    this.#mailbox.close();
  }

  async #run(): Promise<void> {
    for (;;) {
      this.#requests.flush();
      this.#boundary.pass();
      if (this.#calls.closing) return;
      const fault = this.#model.backend.fault();
      if (fault) throw fault;
      const step = this.#batcher.next(rowsTravel(this.#routing, this.#model.program.layers));
      this.#requests.flush();
      if (step) {
        await this.#steps.run(step);
        await this.#scheduler.betweenGraphs();
        await macrotask(); // lets messages, loads and replies in
      } else {
        this.#scheduler.running = undefined;
        await this.#boundary.sleep(() => void this.#scheduler.serveWaiting()); // takes messages, one of which may wake the loop
      }
    }
  }

  #receive(message: ToEngine): void {
    switch (message.type) {
      case "ranOnDemand":
      case "onDemandFailed":
        this.#onDemand.answered(message);
        return;
      case "generate":
        void this.#requests.generate(message);
        break;
      case "cancel":
        this.#requests.cancel(message.id);
        break;
      case "call":
        void this.#calls.answer(message);
        break;
    }
    this.#boundary.wake();
  }
}
