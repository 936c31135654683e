// Runs a gateway's request on the engine, with deadline, cancellation, one span and heartbeats while it computes.
import { AppError } from "../../crds/common.ts";
import type { ConstraintName } from "../../crds/names.ts";
import type { Engine, GenerateEvent as EngineEvent, KvText, FinishReason as Reason, Sampling } from "../engine/engine.ts";
import { leftMs, slackMs } from "../net/call-deadline.ts";
import {
  type AliveEvent,
  AliveEventSchema,
  type AliveRequest,
  FinishReason,
  type GenerateEvent,
  GenerateEventSchema,
  type GenerateRequest,
  type Inference,
  type Sender,
  type Sampling as WireSampling,
} from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, type ServerWritable, toStatus } from "../net/grpc.ts";
import { fromSender } from "../net/mapping.ts";
import { create, type HandlersOf } from "../net/service.ts";
import type { PeerIdentity } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";
import type { Metrics } from "../observe/runtime-metrics.ts";
import { sampledTraceId, type Tracing } from "../observe/trace.ts";
import type { KeptAnswers, Run } from "./kept-answers.ts";
import type { BringOptions } from "./kv-fetch.ts";
import type { PrefixLog } from "./prefix-log.ts";
import type { ServiceRecord } from "./service-record.ts";

export interface GenerateOptions {
  readonly engine: Pick<Engine, "generate" | "passed">;
  readonly deploymentUid: string;
  readonly caller: (call: Caller) => PeerIdentity;
  readonly notReady: () => string | undefined;
  readonly refuses: () => boolean;
  readonly kvUse: () => number | undefined;
  readonly prefixes: Pick<PrefixLog, "open">;
  readonly answers: KeptAnswers;
  /** Brings what is missing of a text from elsewhere; `rank`: one that may have it. */
  readonly bringKv?: ((text: () => KvText, rank: number | undefined, options: BringOptions) => Promise<void> | undefined) | undefined;
  readonly onGap: (ms: number) => void;
  readonly record: Pick<ServiceRecord, "ended" | "failed" | "first">;
  readonly metrics: Metrics<"worker">;
  readonly tracing: Tracing;
  readonly log: Log;
}

/** The main thread sends heartbeats, since it never computes. */
const aliveEveryMs = 400;

type Call = ServerWritable<GenerateRequest, GenerateEvent>;
type AliveCall = ServerWritable<AliveRequest, AliveEvent>;
type Result = Reason | "error";

const reasons: Readonly<Record<Reason, FinishReason>> = {
  stop: FinishReason.STOP,
  length: FinishReason.LENGTH,
  cancelled: FinishReason.CANCELLED,
  draining: FinishReason.DRAINING,
};

export function createInferenceServer(options: GenerateOptions): HandlersOf<typeof Inference> {
  return {
    generate: (call) => {
      serve(call, options).then(
        () => call.end(),
        (error) => void call.emit("error", toStatus(error)),
      );
    },
    alive: (call) => {
      try {
        fromGateway(call, call.request.sender, options);
        showLife(call, options);
      } catch (error) {
        call.emit("error", toStatus(error));
      }
    },
    kept: async ({ sender, id, stop, digest }, call) => {
      fromGateway(call, sender, options);
      return options.answers.look(id, stop ? digest : undefined);
    },
  };
}

function showLife(call: AliveCall, { engine, kvUse, prefixes }: GenerateOptions): void {
  const told = prefixes.open();
  const show = () => {
    if (call.cancelled || call.writableNeedDrain) return; // a gateway that does not read gets no heartbeats
    const [use, changes] = [kvUse(), told.next()];
    const known = { ...(use === undefined ? {} : { kvUse: use }), ...(changes === undefined ? {} : { prefixes: changes }) };
    call.write(create(AliveEventSchema, { nextMs: aliveEveryMs, passed: engine.passed(), ...known }));
  };
  const timer = setInterval(show, aliveEveryMs);
  const end = (): void => {
    clearInterval(timer);
    told.close();
  };
  for (const event of ["cancelled", "close", "error"] as const) call.on(event, end);
  show();
}

async function serve(call: Call, options: GenerateOptions): Promise<void> {
  const { keep, replay, deadlineUnixMs } = call.request;
  fromGateway(call, call.request.sender, options);
  const kept = keep && options.answers.find(keep, replay);
  if (kept) options.metrics.add("enodia_worker_resumed_total", 1);
  const run = kept ?? begin(call.request, options);
  run.allow(leftMs(call, Number(deadlineUnixMs), slackMs.generate));
  return run.read(call);
}

function begin(request: GenerateRequest, options: GenerateOptions): Run {
  const { keep, sampling, replay } = request;
  accepts(options);
  const whole = replay.length === 0 || sampling?.logprobs !== true; // a failover brings no log-probabilities
  const run = options.answers.begin(whole ? keep : undefined, replay);
  generate(request, options, run).then(
    () => run.end(),
    (error) => run.end(AppError.from(error)),
  );
  return run;
}

async function generate(request: GenerateRequest, options: GenerateOptions, run: Run): Promise<void> {
  const attributes = {
    "enodia.request": request.requestId,
    "enodia.prompt_tokens": request.prompt.length,
    "enodia.replay_tokens": request.replay.length,
  };
  const span = options.tracing.start("worker.generate", { parent: request.traceparent, role: "server", attributes });
  const { requestId } = request;
  const { traceId } = span;
  let result: Result = "error";
  try {
    result = await pump(request, options, run, span.traceparent);
    if (result === "cancelled" && run.signal.reason === run.late) throw run.late;
    if (result !== "error") options.record.ended(result);
    span.set({ "enodia.finish": result });
  } catch (error) {
    span.fail(error);
    const ours = options.record.failed(error);
    // Full queues are too frequent for the log; metrics count them.
    if (ours && AppError.from(error).code !== "QueueFull") options.log.warn({ err: error, requestId, traceId }, "request failed");
    throw error;
  } finally {
    span.end();
    options.metrics.add("enodia_worker_requests_total", 1, { result });
    options.log.debug({ requestId, traceId, result }, "request ended");
  }
}

async function pump(request: GenerateRequest, options: GenerateOptions, run: Run, traceparent: string): Promise<Result> {
  const startedAt = performance.now();
  let previousAt: number | undefined;
  let result: Result = "error";
  // Log-probabilities of a prompt come with all of its rows.
  const { prompt, replay, kvRank, cacheSalt } = request;
  const text = () => ({ tokens: Uint32Array.from([...prompt, ...replay]), cacheSalt });
  const after = request.promptLogprobs ? undefined : options.bringKv?.(text, kvRank, { signal: run.signal, must: replay.length > 0 });
  const events = options.engine.generate({
    prompt,
    replay,
    cacheSalt,
    maxTokens: request.maxTokens,
    sampling: samplingOf(request.sampling),
    eos: request.eos,
    priority: request.priority,
    embed: request.embed,
    promptLogprobs: request.promptLogprobs,
    after,
    signal: run.signal,
    // Frames of traced requests use Dispatch, so others are not named.
    ...(options.tracing.enabled && sampledTraceId(traceparent) !== undefined ? { traceparent } : {}),
  });
  for await (const event of events) {
    if (event.type === "token") {
      const now = performance.now();
      if (previousAt === undefined) {
        options.metrics.observeTraced(traceparent, "enodia_worker_time_to_first_token_seconds", (now - startedAt) / 1000);
        options.record.first(now - startedAt);
      } else options.onGap(now - previousAt);
      previousAt = now;
    }
    if (event.type === "finish") result = event.reason;
    // A cancelled call gets no answer: its caller is gone or sees the deadline.
    if (result !== "cancelled") run.add(toEvent(event));
    if (event.type === "started") run.addReplay(request.replay);
  }
  return result;
}

/** The engine checks the values; unset is 0 and means off. */
function samplingOf(sampling: WireSampling | undefined): Sampling {
  if (!sampling) return { temperature: 0, topP: 1, topK: 0, seed: 0n };
  const { temperature, topK, seed, logprobs, topLogprobs, minP, presencePenalty, frequencyPenalty, bias, constraint, minTokens } = sampling;
  const held = constraint === "" ? {} : { constraint: { name: constraint as ConstraintName, spec: sampling.constraintSpec } };
  return {
    temperature,
    topP: sampling.topP || 1,
    topK,
    seed,
    logprobs,
    topLogprobs,
    minP,
    presencePenalty,
    frequencyPenalty,
    repetitionPenalty: sampling.repetitionPenalty || 1,
    bias: bias.map(({ id, value }) => ({ id, value })),
    minTokens,
    ...held,
  };
}

function fromGateway(call: Caller, sender: Sender | undefined, options: GenerateOptions): void {
  const identity = options.caller(call);
  if (identity.role !== "gateway")
    throw new AppError(`a ${identity.role} may not ask for tokens`, { code: "Forbidden", operation: "generating" });
  if (fromSender(sender).deploymentUid !== options.deploymentUid) {
    throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation: "generating" });
  }
}

function accepts(options: GenerateOptions): void {
  if (options.refuses())
    throw new AppError("this worker is leaving; ask another", { code: "Draining", operation: "generating", retry: "backoff" });
  const reason = options.notReady();
  if (reason !== undefined)
    throw new AppError(`this worker is not ready: ${reason}`, { code: "NotReady", operation: "generating", retry: "backoff" });
}

function toEvent(event: EngineEvent): GenerateEvent {
  if (event.type === "token") {
    const { id, position, logprob, top } = event;
    const likeliest = top ? { topIds: [...top.ids], topLogprobs: [...top.logprobs] } : {};
    return create(GenerateEventSchema, { event: { case: "token", value: { id, position, logprob, ...likeliest } } });
  }
  if (event.type === "prompt") {
    const { position, tokens } = event;
    const topIds = tokens.flatMap(({ top }) => [...(top?.ids ?? [])]);
    const topLogprobs = tokens.flatMap(({ top }) => [...(top?.logprobs ?? [])]);
    const value = { position, logprobs: tokens.map(({ logprob }) => logprob), topIds, topLogprobs };
    return create(GenerateEventSchema, { event: { case: "prompt", value } });
  }
  if (event.type === "embedding") {
    return create(GenerateEventSchema, { event: { case: "embedding", value: { values: [...event.values] } } });
  }
  if (event.type === "queued")
    return create(GenerateEventSchema, { event: { case: "queued", value: { queuedTokens: event.queuedTokens } } });
  if (event.type === "progress") return create(GenerateEventSchema, { event: { case: "progress", value: { position: event.position } } });
  if (event.type === "started") {
    const { queuedTokens, cachedPromptTokens: cachedTokens } = event;
    return create(GenerateEventSchema, { event: { case: "started", value: { queuedTokens, cachedTokens } } });
  }
  return create(GenerateEventSchema, {
    event: { case: "finish", value: { reason: reasons[event.reason], hosts: [...(event.hosts ?? [])] } },
  });
}
