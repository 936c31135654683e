// The scheduler of rows, pure: which ones the next step computes.
import { AppError } from "../../../crds/common.ts";
import { Drafter } from "./drafter.ts";
import { type KvPool, SlotLedger } from "./kv-ledger.ts";
import { Pace } from "./pace.ts";
import { commonTokens, reuseTokensMin } from "./prefixes.ts";
import { defaultLimits, type EngineLimits, type FinishReason, type GenerateEvent } from "./request.ts";
import type { Sampled } from "./sampling/sampler.ts";
import { copiedOf, type GroupPlan, isGuess, type Notice, partsOf, type Step, type StepPart, stepOf } from "./step-plan.ts";
import { checkTicket, order, type Place, type Ticket, Waiting } from "./waiting.ts";

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

/** Smaller chunks would cost more for what every step costs than they spare the others. */
const chunkTokensMin = 16;
/** Tokens of kept beginnings that are copied for prompts before one step while others decode, but for the last prompt's. */
const copiedTokens = { least: 512, most: 65_536 };
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
  readonly #pace: Pace;
  readonly #copyPace = new Pace(copiedTokens);
  /** Of those that decode, the first one of the next step, where they are more than a step takes. */
  #firstDecode = 0;
  #decodedLast = false;
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

  /** Tokens guessed and computed with the one before them, and those of them that came true. */
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

  /** Ends a request before its time: cancelled, draining, or with an error that the caller reports. */
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
  next(apart = false): Step | undefined {
    this.#growOrPreempt();
    const plans = apart ? this.#alternate() : [...this.#decodes(), ...this.#prompts()];
    return plans.length > 0 ? stepOf(this.#ledger.takeChanges(), plans) : undefined;
  }

  #alternate(): readonly GroupPlan[] {
    const prompts = this.#decodedLast ? this.#prompts() : [];
    this.#decodedLast = false;
    if (prompts.length > 0) return prompts;
    const decodes = this.#decodes();
    this.#decodedLast = decodes.length > 0;
    return decodes.length > 0 ? decodes : this.#prompts();
  }

  /** Takes note that the changes of memory before a step took so long. */
  changed(step: Step, ms: number): void {
    this.#copyPace.took(copiedOf(step), ms);
  }

  /** Takes what the step gave: one sampled token for each wanted row, any where the row itself was wanted; undefined where there is none:
   *  the caller then removes the request before the next step, unless a guess before was wrong. */
  complete(step: Step, sampled: readonly (Sampled | undefined)[], ms?: number): void {
    if (ms !== undefined && step.groups.some(({ phase }) => phase === "prefill")) this.#pace.took(step.tokens.length, ms);
    this.spent(ms);
    const given = new Map(step.wanted.map(({ row }, i) => [row, sampled[i]]));
    const parts = partsOf(step).filter(({ id }) => this.#open.has(id)); // others were removed meanwhile
    // All positions first: a request that ends below moves the last slot, and the move copies what that slot has by then.
    for (const part of parts) if (!isGuess(part.group)) this.#written(part, step.tokens);
    // The last slots first: where all end, none moves.
    for (const part of parts.toReversed()) {
      const { id, group, from } = part;
      if (isGuess(group)) this.#verify(part, step.tokens, given);
      else if (given.has(from + group.tokens - 1)) this.#output(id, this.#open.get(id) as Open, given.get(from + group.tokens - 1));
    }
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
  #written({ id, group, from }: StepPart, tokens: Int32Array): void {
    if (group.phase === "decode") {
      this.#ledger.advance(id, tokens[from] as number);
      return;
    }
    const open = this.#open.get(id) as Open;
    this.#ledger.prefilled(id, Uint32Array.from(tokens.subarray(from, from + group.tokens)));
    open.output = Math.max(0, this.#ledger.lengthOf(id) - open.ticket.prompt.length);
    if (open.output > 0) this.#notices.push({ id, event: { type: "progress", position: open.output - 1 } });
    if (this.#ledger.lengthOf(id) === open.text.length) this.#ledger.promote(id);
  }

  /** Lets the first one that waits begin, in a step that computes these already; undefined where none can. */
  #admit(beside: readonly string[]): string | undefined {
    const place = this.#waiting.first();
    if (place === undefined) return undefined;
    const { id } = place;
    const open = this.#open.get(id) as Open;
    const shared = beside.reduce((most, other) => Math.max(most, commonTokens(open.text, (this.#open.get(other) as Open).text)), 0);
    if (!open.ticket.whole && shared >= reuseTokensMin && shared - this.#ledger.reusable(open.text) >= reuseTokensMin) return undefined;
    const admission = this.#ledger.admit(id, open.text, open.ticket.whole);
    if (!admission) return undefined;
    this.#waiting.take(place);
    if (open.started) return id; // it gave its memory up before
    open.started = true;
    this.#notices.push({ id, event: { type: "started", queuedTokens: this.#queuedTokens(), cachedPromptTokens: admission.reused } });
    return id;
  }

  /** Sees to it that all that decode have a block for their next position: the last in order give theirs up. The first one never does,
   *  since the pool holds a whole context, so there is always one that comes to its end. */
  #growOrPreempt(): void {
    for (const id of this.#ledger.decoding()) {
      while (this.#ledger.decoding().includes(id) && !this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1)) this.#preempt();
    }
  }

  /** Those that gave their memory up, and the one of them that is computed again, are still there: a gateway waits for their next token. */
  #showLife(): void {
    for (const id of [...this.#waiting.ids(), ...this.#ledger.prefilling()]) {
      const { started, known } = this.#open.get(id) as Open;
      if (started && known.length > 0) this.#notices.push({ id, event: { type: "progress", position: known.length - 1 } });
    }
  }

  #preempt(): void {
    const active = [...this.#ledger.decoding(), ...this.#ledger.prefilling()];
    const places = active.map((id) => (this.#open.get(id) as Open).place);
    const last = places.reduce((a, b) => (order(a, b) < 0 ? b : a));
    const open = this.#open.get(last.id) as Open;
    this.#preemptions += 1;
    this.#ledger.leave(last.id);
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

  /** What is computed of prompts: those that have begun, then others in their order while there is room. */
  #prompts(): readonly GroupPlan[] {
    const { maxBatchTokens, decodeWaitMs } = this.#limits;
    const decodes = this.#ledger.decoding().length > 0;
    let left = decodes ? this.#pace.within(decodeWaitMs) : maxBatchTokens;
    let copies = decodes ? this.#copyPace.within(decodeWaitMs) : Number.POSITIVE_INFINITY;
    const plans: GroupPlan[] = [];
    const ids = [...this.#ledger.prefilling()];
    for (let at = 0; at === 0 || (left >= chunkTokensMin && copies > 0); at++) {
      const id = ids[at] ?? this.#admit(ids);
      if (id === undefined) break;
      if (ids[at] === undefined) copies -= this.#ledger.lengthOf(id);
      ids[at] = id;
      const plan = this.#chunk(id, left);
      plans.push(plan);
      left -= plan.tokens.length;
      if ((plan.group.past[0] as number) + plan.tokens.length < (this.#open.get(id) as Open).text.length) break;
    }
    return plans;
  }

  #chunk(id: string, most: number): GroupPlan {
    const { ticket, text } = this.#open.get(id) as Open;
    const from = this.#ledger.lengthOf(id);
    const count = Math.min(text.length - from, most);
    const last = from + count === text.length;
    const position = text.length - ticket.prompt.length;
    const { sampling, embed } = ticket;
    const place = { firstSlot: this.#ledger.indexOf(id), batch: 1, past: Int32Array.of(from) };
    return {
      group: { phase: "prefill", tokens: count, ids: [id], ...place },
      tokens: [...text.subarray(from, from + count)],
      wanted: last ? [{ row: count - 1, id, position, sampling, embed }] : [],
    };
  }

  /** The next tokens of those that decode. */
  #decodes(): readonly GroupPlan[] {
    const decoding = this.#ledger.decoding();
    const { maxDecodeBatch } = this.#limits;
    const first = decoding.length > maxDecodeBatch && this.#firstDecode < decoding.length ? this.#firstDecode : 0;
    const ids = decoding.slice(first, first + maxDecodeBatch);
    this.#firstDecode = first + ids.length;
    const [alone] = ids;
    if (alone === undefined) return [];
    const guess = decoding.length === 1 ? this.#guess(alone) : [];
    if (guess.length > 0) return [this.#guesses(alone, guess)];
    const rows = ids.map((id) => this.#open.get(id) as Open);
    const past = Int32Array.from(ids, (id) => this.#ledger.lengthOf(id));
    const wanted = rows.map(({ ticket, output }, row) => ({
      row,
      id: ticket.id,
      position: output,
      sampling: ticket.sampling,
      embed: false,
    }));
    const group = { phase: "decode", firstSlot: first, batch: ids.length, tokens: 1, past, ids } as const;
    return [{ group, tokens: rows.map(({ next }) => next), wanted }];
  }

  /** Tokens that may follow the next one, as many as there is room for. */
  #guess(id: string): readonly number[] {
    const { draftTokens } = this.#limits;
    const open = this.#open.get(id) as Open;
    if (draftTokens === 0) return [];
    open.drafter ??= new Drafter(draftTokens, [...open.ticket.prompt, ...open.known]);
    const guess = open.drafter.guess(Math.min(draftTokens, open.limit - open.output - 1));
    const fits = guess.length > 0 && this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1 + guess.length);
    return fits ? guess : [];
  }

  /** Rows of one request, those after the first as if the guesses had been sampled. */
  #guesses(id: string, guess: readonly number[]): GroupPlan {
    const { ticket, next, output } = this.#open.get(id) as Open;
    const tokens = [next, ...guess];
    const place = { firstSlot: this.#ledger.indexOf(id), batch: 1, past: Int32Array.of(this.#ledger.lengthOf(id)) };
    const { sampling } = ticket;
    return {
      group: { phase: "decode", tokens: tokens.length, ids: [id], ...place },
      tokens,
      wanted: tokens.map((_, row) => ({ row, id, position: output + row, sampling, embed: false, guess: row })),
    };
  }

  /** Takes the tokens sampled after guesses, as far as these were right: each is what it would be had the one before it come alone. */
  #verify({ id, group, from }: StepPart, tokens: Int32Array, given: ReadonlyMap<number, Sampled | undefined>): void {
    const open = this.#open.get(id) as Open;
    let right = 0;
    for (let row = from; row < from + group.tokens; row++) {
      const token = tokens[row] as number;
      if (row > from) {
        if (!this.#open.has(id) || token !== given.get(row - 1)?.token) break;
        right += 1;
      }
      this.#ledger.advance(id, token);
      this.#output(id, open, given.get(row));
    }
    this.#drafted += group.tokens - 1;
    this.#accepted += right;
    open.drafter?.learn(group.tokens - 1, right);
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
