// Converts between failover.ts's types and Generate messages.
import { AppError } from "../../../crds/common.ts";
import {
  type GenerateEvent,
  type PromptLogprobs,
  type Token,
  FinishReason as WireFinish,
} from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, toSender } from "../../net/mapping.ts";
import type { Span } from "../../observe/trace.ts";
import type { Generation, WorkerEvent } from "./failover.ts";

const finishReasons: Partial<Record<WireFinish, "stop" | "length" | "draining">> = {
  [WireFinish.STOP]: "stop",
  [WireFinish.LENGTH]: "length",
  [WireFinish.DRAINING]: "draining",
};

/** Undefined for events of later releases. */
export function fromMessage({ event }: GenerateEvent): WorkerEvent | undefined {
  if (event.case === "queued") return { type: "queued", ...event.value };
  if (event.case === "started") return { type: "started", ...event.value };
  if (event.case === "progress") return { type: "progress", position: event.value.position };
  if (event.case === "token") return fromToken(event.value);
  if (event.case === "embedding") return { type: "embedding", values: event.value.values };
  if (event.case === "prompt") return fromPrompt(event.value);
  if (event.case !== "finish") return undefined;
  const reason = finishReasons[event.value.reason];
  if (reason === undefined) throw new AppError(`gave the request up, finish reason ${event.value.reason}`, { code: "Lost" });
  return { type: "finish", reason, hosts: event.value.hosts };
}

function fromToken({ id, position, logprob, topIds, topLogprobs }: Token): WorkerEvent {
  if (topIds.length === 0) return { type: "token", id, position, logprob };
  const top = topIds.map((one, i) => ({ id: one, logprob: topLogprobs[i] ?? Number.NEGATIVE_INFINITY }));
  return { type: "token", id, position, logprob, top };
}

function fromPrompt({ position, logprobs, topIds, topLogprobs }: PromptLogprobs): WorkerEvent {
  const count = logprobs.length === 0 ? 0 : topIds.length / logprobs.length;
  if (!Number.isInteger(count)) throw new AppError(`sent ${topIds.length} likely tokens for ${logprobs.length}`, { code: "Lost" });
  const topOf = (at: number) =>
    topIds.slice(at * count, (at + 1) * count).map((id, i) => ({ id, logprob: topLogprobs[at * count + i] ?? Number.NEGATIVE_INFINITY }));
  return { type: "prompt", position, tokens: logprobs.map((logprob, at) => ({ logprob, top: topOf(at) })) };
}

function samplingOf({ constraint, bias = [], ...rest }: Generation["sampling"]) {
  return { ...rest, bias: [...bias], constraint: constraint?.name ?? "", constraintSpec: constraint?.spec ?? "" };
}

interface Asked {
  readonly generation: Generation;
  readonly replay: readonly number[];
  readonly span: Span;
  /** Unix ms, wall clock. */
  readonly deadline: number;
  readonly kvRank: number | undefined;
  /** One token is wanted, and the rank that goes on keeps the answer. */
  readonly handsOver: boolean;
}

export function toRequest(identity: Identity, { generation, replay, span, deadline, kvRank, handsOver }: Asked) {
  const keep = handsOver ? undefined : generation.keep;
  return {
    sender: toSender(identity),
    requestId: generation.requestId,
    prompt: [...generation.prompt],
    replay: [...replay],
    maxTokens: handsOver ? 1 : generation.maxTokens,
    sampling: samplingOf(generation.sampling),
    eos: [...generation.eos],
    priority: generation.priority ?? 0,
    embed: generation.embed ?? false,
    cacheSalt: generation.cacheSalt ?? "",
    promptLogprobs: generation.promptLogprobs === true && replay.length === 0, // after a token the client has all of it
    keep: keep && { id: keep.id, digest: keep.digest, note: keep.note },
    deadlineUnixMs: BigInt(deadline),
    traceparent: span.traceparent,
    ...(kvRank === undefined ? {} : { kvRank }),
  };
}
