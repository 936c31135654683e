// The open requests of the engine thread: constraint, batch, and events to the main thread.

import { Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import type { Languages } from "../../constraints/languages.ts";
import { type TextOrder, type TokenTexts, Vocabulary } from "../../constraints/vocabulary.ts";
import { saltedStart } from "../../net/prefix-ids.ts";
import type { PromptLogprobs } from "../pass/prompt-logprobs.ts";
import type { RequestHosts } from "../pass/request-hosts.ts";
import type { Batcher } from "../schedule/batch.ts";
import type { GenerateEvent } from "../schedule/request.ts";
import { OpenSampling } from "../schedule/sampling/open-sampling.ts";
import type { StepBoundary } from "./mailbox.ts";
import { type FromEngine, type GenerateMessage, toPlain } from "./messages.ts";
import type { OpenModel } from "./open.ts";

const preparingMax = 64;

interface Parts {
  readonly model: Pick<OpenModel, "finalNorm" | "info">;
  readonly batcher: Batcher;
  readonly languages: Languages;
  readonly prompts: Pick<PromptLogprobs, "add" | "drop">;
  readonly hosts: Pick<RequestHosts, "take">;
  readonly boundary: StepBoundary;
  readonly send: (message: FromEngine) => void;
}

type Notice = ReturnType<Batcher["takeNotices"]>[number];

export class Requests {
  cachedTokens = 0;
  readonly #parts: Parts;
  readonly #traced = new TracedRequests();
  readonly #preparing = new Set<string>();
  #draining = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async generate(message: GenerateMessage): Promise<void> {
    const { batcher, boundary, languages, model, prompts, send } = this.#parts;
    try {
      if (message.sampling.constraint && !(await this.#prepare(message.id))) return;
      if (this.#draining) throw new AppError("this worker is draining; ask another", { code: "Draining", retry: "backoff" });
      if (message.embed && !model.finalNorm)
        throw new AppError("embeddings: this model has no norm before its head", { code: "InvalidRequest" });
      const sampling = new OpenSampling(message, languages);
      const start = saltedStart(message.cacheSalt);
      batcher.submit({ ...message, sampling, eos: new Set(message.eos), whole: message.promptLogprobs, start });
      if (message.promptLogprobs) prompts.add(message.id, message.prompt, message.sampling.topLogprobs);
      if (message.traceparent) this.#traced.add(message.id, message.traceparent);
      this.flush(); // `queued` is sent during a long step too
      boundary.wake();
    } catch (caught) {
      send({ type: "requestFailed", id: message.id, error: toPlain(caught) });
    }
  }

  cancel(id: string): void {
    this.#preparing.delete(id);
    this.#parts.batcher.remove(id, "cancelled");
    this.#parts.boundary.wake();
  }

  drain(on: boolean): Promise<void> {
    const { batcher, boundary } = this.#parts;
    this.#draining = on;
    return boundary.atStepEnd(() => {
      if (this.#draining) for (const id of batcher.openIds()) batcher.remove(id, "draining");
    });
  }

  fail(id: string, caught: unknown, reason: "failed" | "unusable" = "failed"): void {
    this.flush();
    this.#parts.batcher.remove(id, reason);
    this.#forget(id);
    this.#parts.send({ type: "requestFailed", id, error: toPlain(caught) });
  }

  flush(): void {
    const notices = this.#parts.batcher.takeNotices().map((notice): Notice => {
      const { id, event } = notice;
      return event.type === "finish" ? { id, event: { ...event, hosts: this.#parts.hosts.take(id) } } : notice;
    });
    for (const { id, event } of notices) {
      if (event.type === "finish") this.#forget(id);
      if (event.type === "started") this.cachedTokens += event.cachedPromptTokens;
    }
    if (notices.length > 0) this.#parts.send({ type: "events", notices });
  }

  traceOf(ids: readonly string[]): string | undefined {
    return this.#traced.take(ids);
  }

  /** False when the request was cancelled meanwhile. Throws AppError `Busy`. */
  async #prepare(id: string): Promise<boolean> {
    if (this.#preparing.size >= preparingMax)
      throw new AppError("too many requests wait for the tokenizer", { code: "Busy", retry: { afterMs: 1000 } });
    this.#preparing.add(id);
    try {
      await this.#parts.languages.prepare();
    } catch (caught) {
      this.#preparing.delete(id);
      throw caught;
    }
    if (this.#preparing.delete(id)) return true;
    const event: GenerateEvent = { type: "finish", reason: "cancelled", outputTokens: 0 };
    this.#parts.send({ type: "events", notices: [{ id, event }] });
    return false;
  }

  #forget(id: string): void {
    this.#parts.hosts.take(id);
    this.#traced.drop(id);
    this.#parts.prompts.drop(id);
  }
}

/** Prefill chunks and decode steps; each has layers x ranks spans. */
export const tracedStepsMax = 2;

/** Traces the first steps of each traced request; a step belongs to the trace of its first one. */
export class TracedRequests {
  readonly #left = new Map<string, { readonly traceparent: string; steps: number }>();

  add(id: string, traceparent: string): void {
    this.#left.set(id, { traceparent, steps: tracedStepsMax });
  }

  take(ids: readonly string[]): string | undefined {
    if (this.#left.size === 0) return undefined;
    for (const id of ids) {
      const entry = this.#left.get(id);
      if (entry === undefined) continue;
      entry.steps--;
      if (entry.steps === 0) this.#left.delete(id);
      return entry.traceparent;
    }
    return undefined;
  }

  drop(id: string): void {
    this.#left.delete(id);
  }
}

const loadMs = 10_000;

/** Throws AppError for an unreadable tokenizer. */
export function loadVocabulary(dir: string): Promise<Vocabulary> {
  const worker = new Worker(new URL("./vocabulary-thread.ts", import.meta.url), { workerData: { dir }, name: "vocabulary" });
  return new Promise<Vocabulary>((resolve, reject) => {
    const refuse = (why: string) => reject(new AppError(`${dir}: ${why}`, { code: "BadTokenizer" }));
    const late = setTimeout(() => {
      refuse(`the tokenizer was not read within ${loadMs / 1000} s`);
      void worker.terminate();
    }, loadMs);
    worker.on("message", ({ texts, order }: { texts: TokenTexts; order: TextOrder }) => resolve(new Vocabulary(texts, order)));
    worker.on("error", (cause) => refuse(cause instanceof Error ? cause.message : String(cause)));
    worker.on("exit", () => {
      clearTimeout(late);
      refuse("its thread ended");
    });
  });
}
