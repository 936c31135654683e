// The scheduler of rows, pure.
import { AppError } from "../../../crds/common.ts";
import { Drafter } from "./drafter.ts";
import type { KvPool, SlotLedger } from "./kv-ledger.ts";
import { chunkOf, decodesOfAll, guessesOf, isLate, type Open, textOf, tokenEvent } from "./open-requests.ts";
import { ChunkPace, Pace } from "./pace.ts";
import { commonTokens, reuseTokensMin } from "./prefixes.ts";
import { defaultLimits, type EngineLimits, type FinishReason } from "./request.ts";
import { type LeaveReason, RunningSteps } from "./running-steps.ts";
import type { Sampled } from "./sampling/sampler.ts";
import { copiedOf, decodesOf, type GroupPlan, isGuess, type Notice, partsOf, type Step, type StepPart, stepOf } from "./step-plan.ts";
import { checkTicket, order, type Place, type Ticket, Waiting } from "./waiting.ts";

/** With smaller chunks 32 requests that come at once have less than half of the tokens a second, since they begin one after the other. */
const chunkTokensMin = 16;
/** Copied tokens of reusable prefixes before one step while others decode, except for the last prompt's. */
const copiedTokens = { least: 512, most: 65_536 };
/** A preempted request reports progress this often. */
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
  #swappedTokens = 0;
  #drafted = 0;
  #accepted = 0;
  readonly #pace: ChunkPace;
  readonly #copyPace = new Pace(copiedTokens);
  #firstDecode = 0;
  #decodedLast = false;
  /** Those that had no token in the last step. */
  #late: readonly string[] = [];
  readonly #running = new RunningSteps();
  readonly #graphs: number;
  #steps = 0;
  #stepMs = 0;
  #notices: Notice[] = [];

  /** `graphs`: a step of prompts is left for one that decodes at so many places. */
  constructor(pool: KvPool, ledger: SlotLedger, limits: Partial<EngineLimits> = {}, graphs = 1) {
    this.#ledger = ledger;
    this.#pool = pool;
    this.#graphs = graphs;
    this.#limits = { ...defaultLimits, ...limits };
    const { prefillChunkTokens, maxBatchTokens } = this.#limits;
    const most = Math.min(prefillChunkTokens, maxBatchTokens);
    this.#pace = new ChunkPace({ least: Math.min(chunkTokensMin, most), most });
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

  get preemptions(): number {
    return this.#preemptions;
  }

  /** Positions of preempted requests that a tier gave back. */
  get swappedTokens(): number {
    return this.#swappedTokens;
  }

  get drafts(): { readonly drafted: number; readonly accepted: number } {
    return { drafted: this.#drafted, accepted: this.#accepted };
  }

  get queued(): number {
    return this.#waiting.length;
  }

  openIds(): readonly string[] {
    return [...this.#open.keys()];
  }

  /** Tokens to be computed of an open request before its next one. */
  lengthOf(id: string): number {
    return this.#open.get(id)?.text.length ?? 0;
  }

  /** Throws AppError `InvalidRequest`, `ContextOverflow` or `Busy`. */
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

  /** Ends a request early: cancelled, draining, or failed with an error that the caller reports. */
  remove(id: string, reason: LeaveReason): void {
    const open = this.#open.get(id);
    if (!open) return;
    if (this.#isNeeded(id)) {
      this.#running.leaveLater(id, reason);
      return;
    }
    if (reason !== "failed" && reason !== "unusable") this.#finish(id, open, reason);
    this.#release(id, reason !== "unusable");
  }

  takeNotices(): readonly Notice[] {
    const notices = this.#notices;
    this.#notices = [];
    return notices;
  }

  /** Undefined when there is nothing to do. */
  next(apart = false): Step | undefined {
    this.#growOrPreempt();
    return this.#stepOf(apart ? this.#alternate() : [...this.#decodes(), ...this.#prompts()]);
  }

  /** A step of prompts alone, during which steps that decode may run; undefined also while one runs (../DECISIONS.md 12). */
  nextPrompts(): Step | undefined {
    return this.#running.none ? this.#stepOf(this.#prompts()) : undefined;
  }

  /** A step that decodes; undefined also where it has to wait for the memory of a prompt whose step runs. */
  nextDecodes(): Step | undefined {
    return this.#growOrPreempt() ? this.#stepOf(this.#decodes()) : undefined;
  }

  #stepOf(plans: readonly GroupPlan[]): Step | undefined {
    if (plans.length === 0) return undefined;
    const step = stepOf(this.#ledger.takeChanges(), plans);
    this.#running.add(step);
    if (decodesOf(step) === 0) this.#ledger.held = true;
    return step;
  }

  #alternate(): readonly GroupPlan[] {
    const prompts = this.#decodedLast ? this.#prompts() : [];
    this.#decodedLast = false;
    if (prompts.length > 0) return prompts;
    const decodes = this.#decodes();
    this.#decodedLast = decodes.length > 0;
    return decodes.length > 0 ? decodes : this.#prompts();
  }

  changed(step: Step, ms: number): void {
    this.#copyPace.took(copiedOf(step), ms);
  }

  /**
   * One sampled token per requested row. Undefined means none yet: the row is computed again in the next step, unless the caller removes
   * the request before it.
   */
  complete(step: Step, sampled: readonly (Sampled | undefined)[], ms?: number): void {
    if (ms !== undefined) this.#pace.took(step.tokens.length, decodesOf(step), ms);
    const given = new Map(step.wanted.map(({ row }, i) => [row, sampled[i]]));
    const parts = partsOf(step).filter(({ id }) => this.#open.has(id));
    // All positions are noted first: a request that ends moves the last slot, as it is then.
    const late = new Set(parts.filter((part) => isLate(part, given)));
    this.#late = [...late].map(({ id }) => id);
    const whole = parts.filter((part) => !isGuess(part.group) && this.#written(part, step.tokens, late.has(part)));
    this.#ended(step);
    for (const { id } of whole) this.#ledger.promote(id);
    // The last slot goes first: where all end, none moves.
    for (const part of parts.toReversed()) {
      const { id, group, from } = part;
      if (late.has(part)) continue;
      if (isGuess(group)) this.#verify(part, step.tokens, given);
      else if (given.has(from + group.tokens - 1)) this.#output(id, this.#open.get(id) as Open, given.get(from + group.tokens - 1));
    }
    this.#leave();
    this.#spent(ms);
  }

  /** Instead of `complete`, where the step ended with an error. */
  failed(step: Step, ms: number): void {
    this.#ended(step);
    this.#leave();
    this.#spent(ms);
  }

  #ended(step: Step): void {
    this.#running.ended(step);
    if (decodesOf(step) === 0) this.#ledger.held = false;
  }

  #leave(): void {
    for (const [id, reason] of this.#running.takeLeaving()) this.remove(id, reason);
  }

  #isNeeded(id: string): boolean {
    return this.#running.need(id, this.#ledger.decoding().includes(id));
  }

  #spent(ms = 0): void {
    this.#steps += 1;
    this.#stepMs += ms;
    if (this.#steps < waitNoticeSteps && this.#stepMs < waitNoticeMs) return;
    this.#steps = 0;
    this.#stepMs = 0;
    this.#showLife();
  }

  /** True for a prompt at its end. The last row of a late one is computed again as a decode, which needs no place among the prompts. */
  #written({ id, group, from }: StepPart, tokens: Int32Array, late: boolean): boolean {
    if (group.phase === "decode") {
      if (!late) this.#ledger.advance(id, tokens[from] as number);
      return false;
    }
    const open = this.#open.get(id) as Open;
    const last = from + group.tokens - 1;
    this.#ledger.prefilled(id, Uint32Array.from(tokens.subarray(from, late ? last : last + 1)));
    const length = this.#ledger.lengthOf(id) + (late ? 1 : 0);
    open.output = Math.max(0, length - open.ticket.prompt.length);
    open.next = tokens[last] as number;
    if (open.output > 0) this.#notices.push({ id, event: { type: "progress", position: open.output - 1 } });
    return length === open.text.length;
  }

  #admit(beside: readonly string[]): string | undefined {
    const place = this.#waiting.first();
    if (place === undefined) return undefined;
    const { id } = place;
    const open = this.#open.get(id) as Open;
    const { whole, start } = open.ticket;
    const others = beside.map((other) => this.#open.get(other) as Open).filter(({ ticket }) => ticket.start === start);
    const shared = others.reduce((most, { text }) => Math.max(most, commonTokens(open.text, text)), 0);
    const text = { tokens: open.text, start };
    if (!whole && shared >= reuseTokensMin && shared - this.#ledger.reusable(text) >= reuseTokensMin) return undefined;
    const admission = this.#ledger.admit(id, text, whole);
    if (!admission) return undefined;
    this.#waiting.take(place);
    if (open.started) this.#swappedTokens += admission.restored ?? 0;
    if (open.started) return id;
    open.started = true;
    this.#notices.push({ id, event: { type: "started", queuedTokens: this.#queuedTokens(), cachedPromptTokens: admission.reused } });
    return id;
  }

  /** False where the one to preempt is needed (../DECISIONS.md 6). */
  #growOrPreempt(): boolean {
    for (const id of this.#ledger.decoding()) {
      while (this.#ledger.decoding().includes(id) && !this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1))
        if (!this.#preempt()) return false;
    }
    return true;
  }

  #showLife(): void {
    for (const id of [...this.#waiting.ids(), ...this.#ledger.prefilling(), ...this.#late]) {
      const { started = false, known = [] } = this.#open.get(id) ?? {};
      if (started && known.length > 0) this.#notices.push({ id, event: { type: "progress", position: known.length - 1 } });
    }
  }

  #preempt(): boolean {
    const active = [...this.#ledger.decoding(), ...this.#ledger.prefilling()];
    const places = active.map((id) => (this.#open.get(id) as Open).place);
    const last = places.reduce((a, b) => (order(a, b) < 0 ? b : a));
    if (this.#isNeeded(last.id)) return false;
    const open = this.#open.get(last.id) as Open;
    this.#preemptions += 1;
    this.#ledger.leave(last.id);
    open.text = textOf(open.ticket.prompt, open.known);
    open.output = 0;
    this.#waiting.add(last);
    if (open.known.length > 0) return true;
    open.started = false;
    this.#notices.push({ id: last.id, event: { type: "queued", queuedTokens: this.#queuedTokens() } });
    return true;
  }

  #queuedTokens(): number {
    let tokens = 0;
    for (const id of this.#waiting.ids()) tokens += this.#open.get(id)?.text.length ?? 0;
    return tokens;
  }

  #prompts(): readonly GroupPlan[] {
    const { maxBatchTokens, decodeWaitMs } = this.#limits;
    const decodes = this.#ledger.decoding().length > 0;
    let left = decodes ? this.#pace.within(decodeWaitMs * this.#graphs) : maxBatchTokens;
    let copies = decodes ? this.#copyPace.within(decodeWaitMs) : Number.POSITIVE_INFINITY;
    const plans: GroupPlan[] = [];
    const ids = [...this.#ledger.prefilling()];
    for (let at = 0; at === 0 || (left >= chunkTokensMin && copies > 0); at++) {
      const id = ids[at] ?? this.#admit(ids);
      if (id === undefined) break;
      if (ids[at] === undefined) copies -= this.#ledger.lengthOf(id);
      ids[at] = id;
      const plan = chunkOf(this.#open.get(id) as Open, { slot: this.#ledger.indexOf(id), past: this.#ledger.lengthOf(id) }, left);
      plans.push(plan);
      left -= plan.tokens.length;
      if ((plan.group.past[0] as number) + plan.tokens.length < (this.#open.get(id) as Open).text.length) break;
    }
    return plans;
  }

  #decodes(): readonly GroupPlan[] {
    const decoding = this.#ledger.decoding();
    const { maxDecodeBatch } = this.#limits;
    const first = decoding.length > maxDecodeBatch && this.#firstDecode < decoding.length ? this.#firstDecode : 0;
    const ids = decoding.slice(first, first + maxDecodeBatch);
    this.#firstDecode = first + ids.length;
    const [alone] = ids;
    if (alone === undefined) return [];
    const guess = decoding.length === 1 ? this.#guess(alone) : [];
    if (guess.length > 0) {
      const place = { slot: this.#ledger.indexOf(alone), past: this.#ledger.lengthOf(alone) };
      return [guessesOf(this.#open.get(alone) as Open, place, guess)];
    }
    const past = Int32Array.from(ids, (id) => this.#ledger.lengthOf(id));
    return [
      decodesOfAll(
        ids.map((id) => this.#open.get(id) as Open),
        { slot: first, past },
      ),
    ];
  }

  #guess(id: string): readonly number[] {
    const { draftTokens } = this.#limits;
    const open = this.#open.get(id) as Open;
    if (draftTokens === 0) return [];
    open.drafter ??= new Drafter(draftTokens, [...open.ticket.prompt, ...open.known]);
    const guess = open.drafter.guess(Math.min(draftTokens, open.limit - open.output - 1));
    const fits = guess.length > 0 && this.#ledger.grow(id, this.#ledger.lengthOf(id) + 1 + guess.length);
    return fits ? guess : [];
  }

  /** Accepts sampled tokens as long as the guesses before them were right. */
  #verify({ id, group, from }: StepPart, tokens: Int32Array, given: ReadonlyMap<number, Sampled | undefined>): void {
    const open = this.#open.get(id) as Open;
    let right = 0;
    for (let row = from; row < from + group.tokens; row++) {
      const token = tokens[row] as number;
      if (row > from) {
        if (!this.#open.has(id) || token !== given.get(row - 1)?.token) break;
        right += 1;
      }
      if (given.get(row) === undefined) break; // computed again
      this.#ledger.advance(id, token);
      this.#output(id, open, given.get(row));
    }
    this.#drafted += group.tokens - 1;
    this.#accepted += right;
    open.drafter?.learn(group.tokens - 1, right);
  }

  #output(id: string, open: Open, sampled: Sampled | undefined): void {
    if (open.ticket.embed) {
      if (sampled) this.remove(id, "stop");
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
