// The scheduler of rows, pure: which ones the next step computes. A bounded queue, one prompt prefilled at a time in chunks, all
// others decoding. While requests decode, prefill chunks and decode steps take turns, so neither starves. Where the memory of all is
// not enough, the last in order gives its own up and is computed again later; nobody sees it but by the pause. Replayed tokens are
// the end of the prompt: a token's bits are the same in both, or nobody counts on them. The engine thread executes the steps; this file
// never sees numbers of the model.
import { AppError } from "../../../crds/common.ts";
import { Drafter } from "./drafts.ts";
import { type KvPool, SlotLedger } from "./kv-slots.ts";
import { Pace } from "./pace.ts";
import type { Notice, Step } from "./plan.ts";
import type { EngineLimits, FinishReason, GenerateEvent } from "./request.ts";
import type { Sampled } from "./sampling.ts";
import { checkTicket, type Ticket } from "./ticket.ts";
import { order, type Place, Waiting } from "./waiting.ts";

interface Open {
  readonly ticket: Ticket;
  readonly place: Place;
  /** What is prefilled: the prompt, and the tokens to replay. */
  text: Uint32Array;
  readonly limit: number; // output tokens, bounded by the context
  /** Output tokens that are known: those to replay, then those sampled here. */
  readonly known: number[];
  /** Output tokens so far, replayed ones included. */
  output: number;
  /** Token to be fed by the next decode step. */
  next: number;
  started: boolean;
  /** Guesses at its next tokens, once it is alone in a decode step. */
  drafter: Drafter | undefined;
}

const defaultLimits: EngineLimits = {
  queueRequestsMax: 64,
  prefillChunkTokens: 128,
  maxBatchTokens: 256,
  maxDecodeBatch: 64,
  decodeWaitMs: 20,
  draftTokens: 0,
};
/** Smaller chunks would cost more for what every step costs than they spare the others. */
const chunkTokensMin = 16;
/** Signs of life of a request that gave its memory up come after so many steps, or so many milliseconds of them. */
const waitNoticeSteps = 32;
const waitNoticeMs = 2_000;

export class Batcher {
  readonly #ledger: SlotLedger;
  readonly #pool: KvPool;
  readonly #limits: EngineLimits;
  readonly #open = new Map<string, Open>();
  readonly #waiting = new Waiting();
  #arrivals = 0;
  #preemptions = 0;
  #drafted = 0;
  #accepted = 0;
  #prefilling: string | undefined;
  readonly #pace: Pace;
  /** Of those that decode, the first one of the next step, where they are more than a step takes. */
  #turn = 0;
  #decodedLast = true;
  #steps = 0;
  #stepMs = 0;
  #notices: Notice[] = [];

  constructor(pool: KvPool, limits: Partial<EngineLimits> = {}) {
    this.#ledger = new SlotLedger(pool);
    this.#pool = pool;
    this.#limits = { ...defaultLimits, ...limits };
    const { prefillChunkTokens, maxBatchTokens } = this.#limits;
    const most = Math.min(prefillChunkTokens, maxBatchTokens);
    this.#pace = new Pace({ least: Math.min(chunkTokensMin, most), most });
  }

  get slotsUsed(): number {
    return this.#ledger.used;
  }

  get slotsKept(): number {
    return this.#ledger.kept;
  }

  get blocksUsed(): number {
    return this.#ledger.blocksUsed;
  }

  get blocksKept(): number {
    return this.#ledger.blocksKept;
  }

  /** Requests that gave their memory up, since the start. */
  get preemptions(): number {
    return this.#preemptions;
  }

  /** Tokens guessed and computed with the one before them, and those of them that came true, since the start. */
  get drafts(): { readonly drafted: number; readonly accepted: number } {
    return { drafted: this.#drafted, accepted: this.#accepted };
  }

  get queued(): number {
    return this.#waiting.length;
  }

  openIds(): readonly string[] {
    return [...this.#open.keys()];
  }

  /** Takes a request into the queue; throws AppError `InvalidRequest`, `ContextOverflow` or `Busy`. */
  submit(ticket: Ticket): void {
    const { context } = this.#pool;
    checkTicket(ticket, context);
    if (this.#waiting.length >= this.#limits.queueRequestsMax) {
      throw new AppError(`queue: ${this.#waiting.length} requests wait already; try again later`, {
        code: "Busy",
        retry: { afterMs: 1000 },
      });
    }
    const { id, prompt, replay, priority } = ticket;
    const place: Place = { id, priority, arrival: this.#arrivals++, overtaken: 0 };
    const limit = Math.min(ticket.maxTokens, context - prompt.length);
    const counts = { output: 0, next: 0, started: false, drafter: undefined };
    this.#open.set(id, { ticket, place, text: textOf(prompt, replay), limit, known: [...replay], ...counts });
    this.#waiting.add(place);
    this.#notices.push({ id, event: { type: "queued", queuedTokens: this.#queuedTokens() } });
  }

  /** Ends a request before its time: cancelled, draining, or with an error that the caller reports. After `unusable` no later prompt
   *  is built on what was computed for it. */
  remove(id: string, reason: FinishReason | "failed" | "unusable"): void {
    const open = this.#open.get(id);
    if (!open) return;
    if (reason !== "failed" && reason !== "unusable") this.#finish(id, open, reason);
    this.#release(id, reason !== "unusable");
  }

  /** Events since the last call, in order. */
  takeNotices(): readonly Notice[] {
    const notices = this.#notices;
    this.#notices = [];
    return notices;
  }

  /** The next step, or undefined when there is nothing to do. */
  next(): Step | undefined {
    this.#admit();
    const prefills = (): boolean => this.#prefilling !== undefined && (this.#ledger.decoding().length === 0 || this.#decodedLast);
    if (!prefills()) this.#makeRoom();
    const decoding = this.#ledger.decoding();
    if (prefills()) return this.#prefillStep(this.#prefilling as string, decoding.length);
    return decoding.length > 0 ? this.#decodeStep(decoding) : undefined;
  }

  /** Takes what the step gave: one sampled token for each wanted row, any where the row itself was wanted; undefined where there is none:
   *  the caller then removes the request before the next step, unless a guess before was wrong. `ms`: the time that the step took, by
   *  which chunks are made. */
  complete(step: Step, sampled: readonly (Sampled | undefined)[], ms?: number): void {
    if (step.phase === "prefill" && ms !== undefined) this.#pace.took(step.tokens.length, ms);
    this.spent(ms);
    if (step.phase === "decode" && step.tokensPerSlot > 1) {
      this.#verify(step, sampled);
      return;
    }
    const given = new Map(step.wanted.map(({ id }, i) => [id, sampled[i]]));
    const open = step.ids.filter((id) => this.#open.has(id)); // others were removed meanwhile
    // All positions first: a request that ends below moves the last slot, and the move copies what that slot has by then.
    for (const id of open) this.#written(id, step);
    for (const id of open) if (this.#prefilling !== id) this.#output(id, this.#open.get(id) as Open, given.get(id));
  }

  /** Takes note that a step took so long, whatever came of it. */
  spent(ms = 0): void {
    this.#steps += 1;
    this.#stepMs += ms;
    if (this.#steps < waitNoticeSteps && this.#stepMs < waitNoticeMs) return;
    this.#steps = 0;
    this.#stepMs = 0;
    this.#showLife();
  }

  /** Takes note of what a step wrote for a request, which decodes from now on if that was the end of its text. */
  #written(id: string, step: Step): void {
    if (step.phase === "decode") {
      this.#ledger.advance(id, step.tokens[step.ids.indexOf(id)] as number);
      return;
    }
    const open = this.#open.get(id) as Open;
    this.#ledger.prefilled(id, Uint32Array.from(step.tokens));
    open.output = Math.max(0, this.#ledger.lengthOf(id) - open.ticket.prompt.length);
    if (open.output > 0) this.#notices.push({ id, event: { type: "progress", position: open.output - 1 } });
    if (this.#ledger.lengthOf(id) < open.text.length) return;
    this.#prefilling = undefined;
    this.#ledger.promote(id);
  }

  #admit(): void {
    const place = this.#waiting.first();
    if (place === undefined || this.#prefilling !== undefined) return;
    const { id } = place;
    const open = this.#open.get(id) as Open;
    const admission = this.#ledger.admit(id, open.text);
    if (!admission) return;
    this.#waiting.take(place);
    this.#prefilling = id;
    if (open.started) return; // it gave its memory up before
    open.started = true;
    this.#notices.push({ id, event: { type: "started", queuedTokens: this.#queuedTokens(), cachedPromptTokens: admission.reused } });
  }

  /** Sees to it that all that decode have a block for their next position: the last in order give theirs up. The first one never
   *  does, since the pool holds a whole context, so there is always one that comes to its end. */
  #makeRoom(): void {
    for (const id of this.#ledger.decoding()) {
      while (this.#inMemory(id) && !this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1)) this.#preempt();
    }
  }

  /** Those that gave their memory up, and the one of them that is computed again, are still there: a gateway waits for their next token. */
  #showLife(): void {
    for (const id of [...this.#waiting.ids(), ...(this.#prefilling === undefined ? [] : [this.#prefilling])]) {
      const { started, known } = this.#open.get(id) as Open;
      if (started && known.length > 0) this.#notices.push({ id, event: { type: "progress", position: known.length - 1 } });
    }
  }

  #inMemory(id: string): boolean {
    return this.#prefilling === id || this.#ledger.decoding().includes(id);
  }

  #preempt(): void {
    const active = [...this.#ledger.decoding(), ...(this.#prefilling === undefined ? [] : [this.#prefilling])];
    const places = active.map((id) => (this.#open.get(id) as Open).place);
    const last = places.reduce((a, b) => (order(a, b) < 0 ? b : a));
    const open = this.#open.get(last.id) as Open;
    this.#preemptions += 1;
    this.#ledger.leave(last.id);
    if (this.#prefilling === last.id) this.#prefilling = undefined;
    open.text = textOf(open.ticket.prompt, open.known);
    open.output = 0;
    this.#waiting.add(last);
    if (open.known.length > 0) return;
    open.started = false; // it said nothing yet, and queues as at first
    this.#notices.push({ id: last.id, event: { type: "queued", queuedTokens: this.#queuedTokens() } });
  }

  #queuedTokens(): number {
    let tokens = 0;
    for (const id of this.#waiting.ids()) tokens += this.#open.get(id)?.text.length ?? 0;
    return tokens;
  }

  #prefillStep(id: string, decoding: number): Step {
    this.#decodedLast = false; // here and not when it is done: a prefill that fails has had its turn, too
    const { ticket, text } = this.#open.get(id) as Open;
    const from = this.#ledger.lengthOf(id);
    const { maxBatchTokens, decodeWaitMs } = this.#limits;
    const count = Math.min(text.length - from, decoding > 0 ? this.#pace.within(decodeWaitMs) : maxBatchTokens);
    const last = from + count === text.length;
    const position = text.length - ticket.prompt.length;
    const { sampling, embed } = ticket;
    const wanted = last ? [{ row: count - 1, id, position, sampling, embed }] : [];
    return {
      phase: "prefill",
      changes: this.#ledger.takeChanges(),
      tokens: Int32Array.from(text.subarray(from, from + count)),
      firstSlot: decoding,
      batch: 1,
      tokensPerSlot: count,
      past: Int32Array.of(from),
      wanted,
      ids: [id],
    };
  }

  #decodeStep(decoding: readonly string[]): Step {
    this.#decodedLast = true;
    const { maxDecodeBatch } = this.#limits;
    const first = decoding.length > maxDecodeBatch && this.#turn < decoding.length ? this.#turn : 0;
    const ids = decoding.slice(first, first + maxDecodeBatch);
    this.#turn = first + ids.length;
    const [alone] = ids;
    const guess = decoding.length === 1 && alone !== undefined ? this.#guess(alone) : [];
    if (alone !== undefined && guess.length > 0) return this.#guessStep(alone, guess);
    const rows = ids.map((id) => this.#open.get(id) as Open);
    return {
      phase: "decode",
      changes: this.#ledger.takeChanges(),
      tokens: Int32Array.from(rows, ({ next }) => next),
      firstSlot: first,
      batch: ids.length,
      tokensPerSlot: 1,
      past: Int32Array.from(ids, (id) => this.#ledger.lengthOf(id)),
      wanted: rows.map(({ ticket, output }, row) => ({ row, id: ticket.id, position: output, sampling: ticket.sampling, embed: false })),
      ids,
    };
  }

  /** Tokens that may follow the next one, as many as there is room for. Only where they are computed to the bits of single steps. */
  #guess(id: string): readonly number[] {
    const { draftTokens } = this.#limits;
    const open = this.#open.get(id) as Open;
    if (draftTokens === 0) return [];
    open.drafter ??= new Drafter(draftTokens, [...open.ticket.prompt, ...open.known]);
    const guess = open.drafter.guess(Math.min(draftTokens, open.limit - open.output - 1));
    const fits = guess.length > 0 && this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1 + guess.length);
    return fits ? guess : [];
  }

  /** A decode step whose next rows are computed at once, as if the guesses had been sampled. */
  #guessStep(id: string, guess: readonly number[]): Step {
    const { ticket, next, output } = this.#open.get(id) as Open;
    const tokens = Int32Array.of(next, ...guess);
    return {
      phase: "decode",
      changes: this.#ledger.takeChanges(),
      tokens,
      firstSlot: this.#ledger.indexOf(id),
      batch: 1,
      tokensPerSlot: tokens.length,
      past: Int32Array.of(this.#ledger.lengthOf(id)),
      wanted: Array.from(tokens, (_, row) => ({ row, id, position: output + row, sampling: ticket.sampling, embed: false })),
      ids: [id],
    };
  }

  /** Takes the tokens sampled after guesses, as far as these were right: each is what it would be had the one before it come alone. */
  #verify(step: Step, sampled: readonly (Sampled | undefined)[]): void {
    const [id = ""] = step.ids;
    const open = this.#open.get(id);
    if (!open) return; // removed meanwhile
    let right = 0;
    for (const [row, token] of step.tokens.entries()) {
      if (row > 0) {
        if (!this.#open.has(id) || token !== sampled[row - 1]?.token) break;
        right += 1;
      }
      this.#ledger.advance(id, token);
      this.#output(id, open, sampled[row]);
    }
    this.#drafted += step.tokensPerSlot - 1;
    this.#accepted += right;
    open.drafter?.learn(step.tokensPerSlot - 1, right);
  }

  /** The next output token, as it was sampled. */
  #output(id: string, open: Open, sampled: Sampled | undefined): void {
    if (open.ticket.embed) {
      if (sampled) this.remove(id, "stop"); // the row was all that was wanted
      return;
    }
    if (sampled === undefined) return;
    const { token } = sampled;
    const position = open.output;
    open.output += 1;
    open.next = token;
    open.known.push(token);
    open.drafter?.push(token);
    this.#notices.push({ id, event: tokenEvent(sampled, position) });
    const reason: FinishReason | undefined = open.ticket.eos.has(token) ? "stop" : open.output >= open.limit ? "length" : undefined;
    if (!reason) return;
    this.#finish(id, open, reason);
    this.#release(id);
  }

  #finish(id: string, open: Open, reason: FinishReason): void {
    this.#notices.push({ id, event: { type: "finish", reason, outputTokens: Math.max(open.output, open.known.length) } });
  }

  #release(id: string, reusable = true): void {
    if (!this.#waiting.drop(id)) this.#ledger.leave(id, reusable);
    if (this.#prefilling === id) this.#prefilling = undefined;
    this.#open.delete(id);
  }
}

function textOf(prompt: Uint32Array, output: ArrayLike<number>): Uint32Array {
  const both = new Uint32Array(prompt.length + output.length);
  both.set(prompt);
  both.set(output, prompt.length);
  return both;
}

function tokenEvent({ token, logprob, top }: Sampled, position: number): GenerateEvent {
  const event = { type: "token", id: token, position, logprob } as const;
  return top ? { ...event, top } : event;
}
