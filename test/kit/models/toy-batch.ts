// The batcher with a model in miniature: the "logits" of a row are a hash of the tokens before it, so a request that is fed a
// wrong token, a wrong slot or a wrong position says something else than it says alone.
import assert from "node:assert/strict";
import fc from "fast-check";
import { Languages } from "../../../runtime/constraints/languages.ts";
import { Batcher } from "../../../runtime/engine/schedule/batch.ts";
import { type KvPool, type SlotChange, SlotLedger } from "../../../runtime/engine/schedule/kv-ledger.ts";
import type { GenerateEvent } from "../../../runtime/engine/schedule/request.ts";
import { OpenSampling } from "../../../runtime/engine/schedule/sampling/open-sampling.ts";
import { copiedOf, decodesOf, type Step } from "../../../runtime/engine/schedule/step-plan.ts";
import type { Ticket } from "../../../runtime/engine/schedule/waiting.ts";
import { placesOf } from "../../../runtime/kernels/kv-groups.ts";
import { prefixIds } from "../../../runtime/net/prefix-ids.ts";

export const context = 64;
const settings = { temperature: 0, topP: 1, topK: 0, seed: 1n };
const none = new Uint32Array(0);
const languages = new Languages(1, () => Promise.reject(new Error("not asked for")));
const sampling = new OpenSampling({ sampling: settings, prompt: none, replay: none, eos: [] }, languages);

export function ticket(id: string, prompt: readonly number[], rest: Partial<Ticket> = {}): Ticket {
  const kind = { priority: 0, embed: false };
  return { id, prompt: Uint32Array.from(prompt), replay: none, maxTokens: 8, sampling, eos: new Set([7]), ...kind, ...rest };
}

export const blockTokens = 8;

/** A pool of so many slots; `blocks` unset: each slot may be full. */
export function pool(slots: number, rest: Partial<KvPool> = {}): KvPool {
  return { slots, context, blocks: slots * Math.ceil(context / blockTokens), blockTokens, ...rest };
}

export const batcherOf = (of: KvPool, limits = {}): Batcher => new Batcher(of, new SlotLedger(of, prefixIds("toy")), limits);

/** Executes steps on slots of tokens, as a model would on KV; what lies beyond the pool is a failure. */
export class Toy {
  readonly batcher: Batcher;
  readonly pool: KvPool;
  readonly msPerToken: number | undefined;
  /** Rows travel to other ranks. */
  apart = false;
  /** What copies are said to take. */
  msPerCopied = 0;
  /** Tokens that the next one depends on; few make texts that repeat themselves. */
  readonly memory: number;
  readonly slots: number[][];
  readonly events = new Map<string, GenerateEvent[]>();
  readonly steps: Step[] = [];
  /** Set: prompts and decodes have steps of their own; it is called before each row of a prompt and tells whether others decode then. */
  between: (() => boolean) | undefined;
  /** Called while a step is computed. */
  during: (step: Step) => void = () => {};
  /** Rows for which no token is known yet. */
  isLate = (_id: string): boolean => false;

  /** `msPerToken`: what steps are said to take. */
  constructor(slots: number, limits = {}, rest: Partial<KvPool> = {}, msPerToken?: number, memory = context) {
    this.memory = memory;
    this.msPerToken = msPerToken;
    this.pool = pool(slots, rest);
    this.batcher = batcherOf(this.pool, limits);
    this.slots = Array.from({ length: slots }, () => []);
  }

  change(change: SlotChange): void {
    if (change.kind === "trim") this.slots[change.slot]!.length = Math.min(this.slots[change.slot]!.length, change.length);
    else if (change.kind === "write") {
      const slot = this.slots[change.slot]!;
      assert.ok(slot.length >= change.from && change.data.length === change.length, "a block behind what was not written");
      slot.splice(change.from, change.length, ...change.data);
    } else {
      assert.ok(this.slots[change.from]!.length >= change.length, "a copy of what was not written");
      this.slots[change.to] = this.slots[change.from]!.slice(0, change.length);
      if (change.kind === "move") this.slots[change.from] = [];
    }
  }

  /** `lost`: a request for which no token can be chosen. */
  step(lost?: string): boolean {
    const step = this.between ? (this.batcher.nextPrompts() ?? this.batcher.nextDecodes()) : this.batcher.next(this.apart);
    this.collect();
    if (step) this.#run(step, lost);
    return step !== undefined;
  }

  #decode(): void {
    const step = this.batcher.nextDecodes();
    this.collect();
    if (step) this.#run(step);
  }

  #run(step: Step, lost?: string): void {
    this.steps.push(step);
    for (const change of step.changes) this.change(change);
    this.batcher.changed(step, this.msPerCopied * copiedOf(step));
    const sums: number[] = [];
    const isPrompt = decodesOf(step) === 0;
    for (const { slot: index, position } of placesOf(step.groups)) {
      if (isPrompt && this.between?.()) this.#decode();
      const slot = this.slots[index]!;
      assert.ok(slot.length >= position, "past beyond what was written");
      slot.length = position;
      slot.push(step.tokens[sums.length]!);
      sums.push(slot.slice(-this.memory).reduce((hash, token) => (Math.imul(hash, 31) + token + 1) >>> 0, 17) % 20);
    }
    assert.equal(sums.length, step.tokens.length);
    this.during(step);
    const blocks = this.slots.reduce((sum, slot) => sum + Math.ceil(slot.length / blockTokens), 0);
    assert.ok(blocks <= this.pool.blocks, `${blocks} blocks are written of ${this.pool.blocks}`);
    const late = new Set(lost === undefined ? [] : [lost]);
    this.batcher.complete(
      step,
      step.wanted.map(({ row, id }) => {
        if (this.isLate(id)) late.add(id); // and so are guesses behind it
        return late.has(id) ? undefined : { token: sums[row]!, logprob: 0 };
      }),
      this.msPerToken && this.msPerToken * step.tokens.length,
    );
    this.collect();
  }

  collect(): void {
    for (const { id, event } of this.batcher.takeNotices()) this.events.set(id, [...(this.events.get(id) ?? []), event]);
  }

  run(stepsMax = 5000): void {
    for (let i = 0; this.step(); i++) assert.ok(i < stepsMax, "never comes to rest");
  }

  tokens(id: string): number[] {
    return (this.events.get(id) ?? []).flatMap((event) => (event.type === "token" ? [event.id] : []));
  }

  finish(id: string): string | undefined {
    const last = this.events.get(id)?.at(-1);
    return last?.type === "finish" ? last.reason : undefined;
  }
}

export function alone(request: Ticket): number[] {
  const toy = new Toy(1);
  toy.batcher.submit({ ...request, replay: new Uint32Array(0) });
  toy.run();
  return toy.tokens(request.id);
}

/** Each event once, in order, as a reader wants them. */
export function checkEvents(events: readonly GenerateEvent[]): void {
  const said = events.map(({ type }) => type).filter((type) => type !== "progress" && type !== "token");
  // One that gave its memory up before it said a token queues and starts again.
  const types = said.filter((type, i) => type === "finish" || i >= said.lastIndexOf("queued"));
  assert.deepEqual(types, ["queued", "started", "finish"].slice(0, types.length - 1).concat("finish"));
  const positions = events.flatMap((event) => (event.type === "token" ? [event.position] : []));
  assert.deepEqual(positions, [...positions.keys()]);
}

export const prompts = fc.array(fc.integer({ min: 8, max: 12 }), { minLength: 1, maxLength: 45 });
