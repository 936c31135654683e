// Answers without HTTP: what they need, and the pieces of one whose only worker gives these tokens.

import { Answer, type AnswerDeps, type Piece } from "../../../runtime/gateway/api/answer.ts";
import type { GenerationRequest } from "../../../runtime/gateway/api/generation-request.ts";
import type { Generation, TopToken, WorkerEvent } from "../../../runtime/gateway/routing/failover.ts";
import { failoverLimits } from "../../../runtime/gateway/routing/patience.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { createMetrics } from "../../../runtime/observe/runtime-metrics.ts";
import { createTracing } from "../../../runtime/observe/trace.ts";
import { byteText } from "./byte-text.ts";

export const newMetrics = () => createMetrics({ process: "gateway", version: "0", constants: {} });

export function answerDeps(events: (generation: Generation) => AsyncIterable<WorkerEvent>, changed: Partial<AnswerDeps> = {}): AnswerDeps {
  return {
    ...{ textModel: byteText, metrics: newMetrics(), log: silentLog, maxContext: 1_000, requestTimeoutMs: 60_000 },
    ...{ limits: failoverLimits, drawSeed: () => 1n, now: Date.now },
    workers: { start: (generation) => ({ rank: 0, events: events(generation), close: () => {} }), changed: async () => {} },
    ...changed,
  };
}

export interface Told {
  readonly ids: readonly number[];
  /** The likeliest tokens, with each. */
  readonly top?: readonly TopToken[];
  readonly finish?: "stop" | "length";
  readonly prompt?: readonly number[];
  /** Runs after each piece. */
  readonly onPiece?: () => void;
}

export async function piecesOf(asked: object, told: Told, changed: Partial<AnswerDeps> = {}): Promise<Piece[]> {
  const { ids, top, finish = "stop", prompt = [1], onPiece = () => {} } = told;
  const events = async function* (): AsyncGenerator<WorkerEvent> {
    for (const [position, id] of ids.entries()) yield { type: "token", id, position, logprob: -1, ...(top ? { top } : {}) };
    yield { type: "finish", reason: finish };
  };
  const tracing = await createTracing({ service: "gateway" });
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
  const job = { sampling, stops: [], logprobs: false, ignoreEos: false, ...asked } as unknown as GenerationRequest;
  const span = tracing.start("a", { role: "server", attributes: {} });
  const request = { id: "a", token: "t", job, prompt, maxTokens: ids.length, seed: 1n, span, signal: new AbortController().signal };
  const pieces: Piece[] = [];
  for await (const piece of new Answer(request, answerDeps(events, changed)).pieces()) {
    pieces.push(piece);
    onPiece();
  }
  return pieces;
}
