// The engine thread: makes its parts and runs steps.
import { setImmediate as macrotask } from "node:timers/promises";
import type { MessagePort } from "node:worker_threads";
import { Languages } from "../../constraints/languages.ts";
import { predictors } from "../../experts/prefetch/index.ts";
import { splitBlock } from "../../kernels/head-groups.ts";
import { prefixIds } from "../../net/prefix-ids.ts";
import type { ExpectedExperts, GenerateEvent } from "../api.ts";
import { ExpertTable } from "../pass/expert-table.ts";
import { FrameInbox } from "../pass/frame-inbox.ts";
import { FrameScheduler } from "../pass/frame-scheduler.ts";
import { Head } from "../pass/head.ts";
import { rangesOf, rowsTravel } from "../pass/layer-ranges.ts";
import { LoadCounter } from "../pass/load-counter.ts";
import { Prefetch } from "../pass/prefetch.ts";
import { PromptLogprobs } from "../pass/prompt-logprobs.ts";
import { RequestHosts } from "../pass/request-hosts.ts";
import { SpreadHeads } from "../pass/spread-heads.ts";
import { StepTimes } from "../pass/step-times.ts";
import { type ExclusiveUse, HeadsServer } from "../rows/heads-server.ts";
import { Outbound } from "../rows/outbound.ts";
import { PeerConnections } from "../rows/peer-connections.ts";
import { Batcher } from "../schedule/batch.ts";
import { SlotLedger } from "../schedule/kv-ledger.ts";
import { RanksInStep } from "../schedule/ranks-in-step.ts";
import { limitsOn } from "../schedule/request.ts";
import type { Step } from "../schedule/step-plan.ts";
import { TwoBatchOverlap } from "../schedule/two-batch-overlap.ts";
import { Calls, Routing } from "./calls.ts";
import { Interleaver } from "./interleaver.ts";
import { KvOffload } from "./kv-offload.ts";
import { KvTransfers } from "./kv-transfers.ts";
import { Mailbox, StepBoundary } from "./mailbox.ts";
import type { ThreadOptions, ToEngine } from "./messages.ts";
import { OnDemandCalls } from "./on-demand.ts";
import type { OpenModel } from "./open.ts";
import { loadVocabulary, Requests } from "./requests.ts";
import { Steps } from "./steps.ts";

/** A sleep of 0.05 ms: nobody wakes the cell (../DECISIONS.md 2). */
const cell = new Int32Array(new SharedArrayBuffer(4));
/** Tokens of a prompt whose heads other ranks have too (`npm run bench -- ulysses`). */
const spreadFrom = 2_048;
/** The main thread is told at most this often that rows pass. */
const passedEveryMs = 200;
/** Milliseconds of a pause between two steps in which blocks of KV move, and one more block. */
const moveMs = 10;
const yieldProcessor = (): void => void Atomics.wait(cell, 0, 0, 0.05);

function tellPassed(now: () => number, send: Mailbox["send"]): () => void {
  let sentAt = Number.NEGATIVE_INFINITY;
  return () => {
    if (now() - sentAt < passedEveryMs) return;
    sentAt = now();
    send({ type: "passed" });
  };
}

/** Each part is given those before it. */
function partsOf({ drain, send }: Mailbox, model: OpenModel, options: ThreadOptions) {
  const { program, backend, store, embed, blocks, info, pool } = model;
  const now = (): number => performance.now();
  const [boundary, routing] = [new StepBoundary(), new Routing()];
  const measured = { counter: new LoadCounter(info, options.oversubscribed), times: new StepTimes() };
  const [isExact, limits] = [backend.numericClass === "exact", limitsOf(model, options)];
  const offload = offloadOf(model, options, { now, send });
  const ledger = new SlotLedger(pool, prefixIds(info.modelDigest, info.numerics), offload);
  const batcher = new Batcher(pool, ledger, limits, isExact ? program.layers.length : 1);
  const experts = new ExpertTable({ backend, store, program, codec: options.codec, counter: measured.counter });
  const inbox = new FrameInbox(experts, now, new RanksInStep(program.layers.flatMap(({ kind }, layer) => (kind === "moe" ? [layer] : []))));
  const onDemand = new OnDemandCalls(send, () => measured.counter.takeUses());
  const ways = { serve: inbox.serve.bind(inbox), onDemand: onDemand.run.bind(onDemand) };
  const { oversubscribed, minGatePercent = 0 } = options;
  const areMine = (layer: number, experts: readonly number[]): boolean =>
    experts.every((expert) => routing.table.hostsOf(layer, expert).includes(routing.rank));
  const loads = oversubscribed ? areMine : undefined;
  const divided = dividedHeads(model, options, experts);
  const connections = new PeerConnections({
    model,
    ...ways,
    ...divided?.host,
    loads,
    onFrames: inbox.announce.bind(inbox),
    report: (counts) => send({ type: "connections", counts }),
  });
  const outbound = new Outbound({ connections, ...ways, loads, serve: inbox.serveOwn.bind(inbox) });
  const scheduler = new FrameScheduler({
    ...{ experts, inbox, now, oversubscribed, yieldProcessor, takeMessages: drain },
    poll: () => connections.poll(),
    waitMs: limits.decodeWaitMs,
    prefillLock: backend.hasPrefillQueue ? experts.prefillLock : undefined,
    pendingAnswers: () => outbound.pending,
  });
  const { head, prompts } = headOf(model, { experts, scheduler, send });
  const languages = new Languages(info.vocab, () => loadVocabulary(options.storeDir), now);
  const hosts = new RequestHosts((layer, expert) => routing.table.hostsOf(layer, expert));
  const requests = new Requests({ hosts, model, batcher, languages, prompts, boundary, send });
  const prefetch = prefetchOf(model, options, { experts, ...measured, serves: (layer, expert) => areMine(layer, [expert]), send });
  const tools = {
    ...{ ...measured, program, embed, blocks, experts, scheduler, prefetch, passed: tellPassed(now, send) },
    ...{ allocators: { prefill: [], decode: [] }, overlap: new TwoBatchOverlap() },
    ...{ router: () => routing, dispatch: outbound.dispatch.bind(outbound) },
    ...(minGatePercent > 0 ? { minGatePercent } : { ranges: rangesOf(model, experts) }),
  };
  const spread = divided?.spreadOver(connections, scheduler);
  const serving = { batcher, connections, requests, send, offload };
  const steps = new Steps({ ...serving, hosts, model, languages, scheduler, spread, head, prompts, tools });
  const run = async (step: Step): Promise<void> => {
    requests.flush();
    await steps.run(step);
    requests.flush();
    await macrotask(); // lets messages, loads and replies in
  };
  const pace = { tokenMs: () => steps.promptTokenMs, isBusy: () => batcher.slotsUsed > 0 };
  const transfers = new KvTransfers({ ...pace, ledger, kv: model.kv, boundary, change: steps.change.bind(steps), offload });
  const interleaver = new Interleaver({ batcher, run, move: () => transfers.next(), waitMs: limits.decodeWaitMs, now });
  const mixed = (): Promise<void> | undefined => {
    const step = batcher.next(rowsTravel(routing, program.layers));
    return step && run(step);
  };
  if (isExact) scheduler.between = () => interleaver.between();
  const next = isExact ? () => interleaver.next() : mixed;
  const calls = new Calls({ ...serving, experts, inbox, outbound, onDemand, routing, boundary, steps, transfers, measured });
  const tellPrefixes = prefixTeller(ledger, send);
  return { batcher, boundary, calls, connections, divided, languages, next, onDemand, requests, scheduler, tellPrefixes, transfers };
}

function prefixTeller(ledger: SlotLedger, send: Mailbox["send"]) {
  return (): void => {
    const changed = ledger.takePrefixes();
    if (changed !== undefined) send({ type: "prefixes", changed });
  };
}

function limitsOf({ backend, program }: OpenModel, { limits }: ThreadOptions) {
  const asked = limitsOn(backend.takesManyRows(program), limits);
  return backend.prefillEqualsDecode ? asked : { ...asked, draftTokens: 0 };
}

type HeadParts = { readonly experts: ExpertTable; readonly scheduler: FrameScheduler; readonly send: Mailbox["send"] };

function headOf(model: OpenModel, { experts, scheduler, send }: HeadParts) {
  const head = new Head(model.head, model.program, experts.lock);
  const between = () => scheduler.betweenGraphs();
  const tell = (id: string, event: GenerateEvent): void => send({ type: "events", notices: [{ id, event }] });
  return { head, prompts: new PromptLogprobs({ head, vocab: model.program.vocab, between, tell }) };
}

/** Undefined where heads of prompts stay on their rank: nobody asked, or bits or blocks do not allow it. */
function dividedHeads({ backend, blocks, program, info }: OpenModel, options: ThreadOptions, experts: ExpertTable) {
  const { prefillParallelism: ranks = 1, prefillParallelismFrom: from = spreadFrom, kvType } = options;
  const splits = program.layers.flatMap(({ block }) => splitBlock(block) ?? []);
  const isDivided = splits.length === blocks.length && blocks.every(({ part }) => part !== undefined);
  if (ranks === 1 || program.kvHeads === 1 || backend.numericClass !== "exact" || !isDivided) return undefined;
  const exclusively: ExclusiveUse = (work) => experts.lock.run(() => work("main"));
  const kv = { context: info.maxContext, type: kvType ?? "f32" };
  const server = new HeadsServer({ backend, blocks, splits, kv, exclusively, now: () => performance.now() });
  const spreadOver = (connections: PeerConnections, scheduler: FrameScheduler): SpreadHeads => {
    const others = () => connections.following(ranks - 1);
    return new SpreadHeads({ blocks, splits, from, others, ask: connections.askHeads, scheduler });
  };
  return { host: { serveHeads: server.answer.bind(server) }, spreadOver, close: () => server.close() };
}

/** Undefined where what leaves KV memory is computed again. */
function offloadOf(
  { kv: { positionBytes } }: OpenModel,
  { kvOffloadBytes: bytes = 0 }: ThreadOptions,
  { now, send }: { readonly now: () => number; readonly send: Mailbox["send"] },
) {
  return bytes > 0 ? new KvOffload({ bytes, positionBytes, now, onKept: (block) => send({ type: "keptKv", block }) }) : undefined;
}

type PrefetchParts = Pick<ConstructorParameters<typeof Prefetch>[0], "experts" | "serves"> & {
  readonly counter: LoadCounter;
  readonly send: Mailbox["send"];
};

function prefetchOf({ program, info, routers }: OpenModel, { prefetch, oversubscribed }: ThreadOptions, parts: PrefetchParts) {
  const { counter, send, ...rest } = parts;
  if (prefetch === undefined || !oversubscribed) return undefined;
  const tell = (expected: ExpectedExperts): void => send({ type: "expect", expected: { ...expected, used: counter.takeUses() } });
  return new Prefetch({ ...rest, kind: predictors[prefetch], grid: info, hidden: program.hidden, routers, tell });
}

export class EngineLoop {
  readonly #model: OpenModel;
  readonly #mailbox: Mailbox;
  readonly #parts: ReturnType<typeof partsOf>;

  constructor(port: MessagePort, model: OpenModel, options: ThreadOptions) {
    this.#model = model;
    this.#mailbox = new Mailbox(port);
    this.#parts = partsOf(this.#mailbox, model, options);
    this.#mailbox.listen(
      (message) => this.#receive(message),
      () => void this.#parts.scheduler.serveWaiting(),
    );
  }

  /** Runs until `close`; throws when the backend cannot compute any more. */
  async run(): Promise<void> {
    await this.#run().finally(() => this.#parts.connections.close()); // open connections would keep callers and the thread waiting
    await this.#parts.divided?.close();
    await this.#model.close();
    this.#mailbox.close();
  }

  async #run(): Promise<void> {
    const { batcher, boundary, calls, languages, next, requests, scheduler, tellPrefixes, transfers } = this.#parts;
    for (;;) {
      requests.flush();
      tellPrefixes();
      boundary.pass();
      if (calls.closing) return;
      const fault = this.#model.backend.fault();
      if (fault) throw fault;
      const moved = transfers.moveFor(moveMs);
      if (moved) await moved;
      const step = next();
      requests.flush();
      if (step) {
        await step;
        await scheduler.betweenGraphs();
      } else if (moved) await macrotask();
      else {
        scheduler.running = undefined;
        if (batcher.openIds().length === 0) languages.rest();
        await boundary.sleep(() => void scheduler.serveWaiting()); // takes messages, one of which may wake the loop
      }
    }
  }

  #receive(message: ToEngine): void {
    const { boundary, calls, onDemand, requests } = this.#parts;
    switch (message.type) {
      case "ranOnDemand":
      case "onDemandFailed":
        onDemand.answered(message);
        return;
      case "generate":
        void requests.generate(message);
        break;
      case "cancel":
        requests.cancel(message.id);
        break;
      case "call":
        void calls.answer(message);
        break;
    }
    boundary.wake();
  }
}
