// The scheduler of rows, pure: which ones the next step computes. A bounded queue, one prompt prefilled at a time in chunks, all
// others decoding. While requests decode, prefill chunks and decode steps take turns, so neither starves. Replayed tokens are
// decode steps whose result is known, or the end of the prompt where a backend computes both to the same bits. The engine thread
// executes the steps; this file never sees numbers of the model.
import { AppError } from "../../../crds/common.ts";
import type { Phase } from "../../../crds/telemetry.ts";
import { SlotLedger, type SlotMove } from "./kv-slots.ts";
import type { OpenSampling } from "./open-sampling.ts";
import type { EngineLimits, FinishReason, GenerateEvent } from "./request.ts";
import type { Sampled } from "./sampling.ts";

export interface Ticket {
  readonly id: string;
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly maxTokens: number;
  readonly sampling: OpenSampling;
  readonly eos: ReadonlySet<number>;
  /** Of those that wait, the lowest number goes first, of equal ones the one that came first. */
  readonly priority: number;
  /** The last prompt token's row is wanted instead of output. */
  readonly embed: boolean;
}

export interface Step {
  readonly phase: Phase;
  readonly moves: readonly SlotMove[];
  readonly tokens: Int32Array; // [batch * tokensPerSlot], slot-major
  readonly firstSlot: number;
  readonly batch: number;
  readonly tokensPerSlot: number;
  readonly past: Int32Array;
  /** Rows whose logits are wanted, and for whom. */
  readonly wanted: readonly Wanted[];
  /** Requests that take part, in slot order. */
  readonly ids: readonly string[];
}

interface Wanted {
  readonly row: number;
  readonly id: string;
  readonly position: number;
  readonly sampling: OpenSampling;
  /** The row itself is wanted. */
  readonly embed: boolean;
}

export interface Notice {
  readonly id: string;
  readonly event: GenerateEvent;
}

interface Open {
  readonly ticket: Ticket;
  /** What is prefilled: the prompt, and the tokens to replay where they may be. */
  readonly text: Uint32Array;
  readonly limit: number; // output tokens, bounded by the context
  /** Output tokens so far, replayed ones included. */
  output: number;
  /** Token to be fed by the next decode step. */
  next: number;
}

const defaultLimits: EngineLimits = { queueRequestsMax: 64, prefillChunkTokens: 128 };
/** Chunk when nobody is decoding: large products are the fastest. */
const chunkTokensAlone = 256;
/** Replayed tokens between two signs of life: well below what a gateway waits for one token. */
const replayNoticeTokens = 8;

export class Batcher {
  readonly #ledger: SlotLedger;
  readonly #context: number;
  readonly #limits: EngineLimits;
  readonly #prefillsReplay: boolean;
  readonly #open = new Map<string, Open>();
  #queue: string[] = [];
  #prefilling: string | undefined;
  #decodedLast = true;
  #notices: Notice[] = [];

  /** `prefillsReplay`: a token's bits are the same in a prefill as in a decode step, so that replay may be the fast one of the two. */
  constructor(slots: number, context: number, limits: Partial<EngineLimits> = {}, prefillsReplay = false) {
    this.#ledger = new SlotLedger(slots);
    this.#prefillsReplay = prefillsReplay;
    this.#context = context;
    this.#limits = { ...defaultLimits, ...limits };
  }

  get slotsUsed(): number {
    return this.#ledger.used;
  }

  get slotsKept(): number {
    return this.#ledger.kept;
  }

  get queued(): number {
    return this.#queue.length;
  }

  openIds(): readonly string[] {
    return [...this.#open.keys()];
  }

  /** Takes a request into the queue; throws AppError `InvalidRequest`, `ContextOverflow` or `Busy`. */
  submit(ticket: Ticket): void {
    checkTicket(ticket, this.#context);
    if (this.#queue.length >= this.#limits.queueRequestsMax) {
      throw new AppError(`queue: ${this.#queue.length} requests wait already; try again later`, { code: "Busy", retry: { afterMs: 1000 } });
    }
    const limit = Math.min(ticket.maxTokens, this.#context - ticket.prompt.length);
    const text = this.#prefillsReplay ? joined(ticket.prompt, ticket.replay) : ticket.prompt;
    this.#open.set(ticket.id, { ticket, text, limit, output: 0, next: 0 });
    const behind = this.#queue.findIndex((id) => (this.#open.get(id)?.ticket.priority ?? 0) > ticket.priority);
    this.#queue.splice(behind < 0 ? this.#queue.length : behind, 0, ticket.id);
    this.#notices.push({ id: ticket.id, event: { type: "queued", queuedTokens: this.#queuedTokens() } });
  }

  /** Ends a request before its time: cancelled, draining, or with an error that the caller reports. After `unusable` no later prompt
   *  is built on what was computed for it. */
  remove(id: string, reason: FinishReason | "failed" | "unusable"): void {
    const open = this.#open.get(id);
    if (!open) return;
    if (reason !== "failed" && reason !== "unusable")
      this.#notices.push({ id, event: { type: "finish", reason, outputTokens: open.output } });
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
    const decoding = this.#ledger.decoding();
    const prefill = this.#prefilling !== undefined && (decoding.length === 0 || this.#decodedLast);
    if (prefill) return this.#prefillStep(this.#prefilling as string, decoding.length);
    return decoding.length > 0 ? this.#decodeStep(decoding) : undefined;
  }

  /** Takes what the step gave: one sampled token for each wanted row, any where the row itself was wanted; undefined where there is
   *  none: the caller then removes the request before the next step. */
  complete(step: Step, sampled: readonly (Sampled | undefined)[]): void {
    this.#decodedLast = step.phase === "decode";
    const given = new Map(step.wanted.map(({ id }, i) => [id, sampled[i]]));
    // All positions first: a request that ends below moves the last slot, and the move copies what that slot has by then.
    if (step.phase === "decode") for (const id of step.ids) if (this.#open.has(id)) this.#ledger.advance(id);
    for (const id of step.ids) {
      const open = this.#open.get(id);
      if (!open) continue; // removed meanwhile
      if (step.phase === "prefill") {
        this.#ledger.prefilled(id, Uint32Array.from(step.tokens));
        open.output = Math.max(0, this.#ledger.lengthOf(id) - open.ticket.prompt.length);
        if (open.output > 0) this.#notices.push({ id, event: { type: "progress", position: open.output - 1 } });
        if (this.#ledger.lengthOf(id) < open.text.length) continue;
        this.#prefilling = undefined;
        this.#ledger.promote(id);
      }
      this.#output(id, open, given.get(id));
    }
  }

  #admit(): void {
    const id = this.#queue[0];
    if (id === undefined || this.#prefilling !== undefined) return;
    const open = this.#open.get(id) as Open;
    const admission = this.#ledger.admit(id, open.text);
    if (!admission) return;
    this.#queue.shift();
    this.#prefilling = id;
    this.#notices.push({ id, event: { type: "started", queuedTokens: this.#queuedTokens(), cachedPromptTokens: admission.reused } });
  }

  #queuedTokens(): number {
    return this.#queue.reduce((sum, id) => sum + (this.#open.get(id)?.text.length ?? 0), 0);
  }

  #prefillStep(id: string, decoding: number): Step {
    const { ticket, text } = this.#open.get(id) as Open;
    const from = this.#ledger.lengthOf(id);
    const chunk = Math.max(2, decoding > 0 ? this.#limits.prefillChunkTokens : Math.max(chunkTokensAlone, this.#limits.prefillChunkTokens));
    const count = chunkOf(text.length - from, chunk);
    const last = from + count === text.length;
    const position = text.length - ticket.prompt.length;
    const wanted =
      last && position === ticket.replay.length ? [{ row: count - 1, id, position, sampling: ticket.sampling, embed: ticket.embed }] : [];
    return {
      phase: "prefill",
      moves: this.#ledger.takeMoves(),
      tokens: Int32Array.from(text.subarray(from, from + count)),
      firstSlot: decoding,
      batch: 1,
      tokensPerSlot: count,
      past: Int32Array.of(from),
      wanted,
      ids: [id],
    };
  }

  #decodeStep(ids: readonly string[]): Step {
    const rows = ids.map((id) => this.#open.get(id) as Open);
    return {
      phase: "decode",
      moves: this.#ledger.takeMoves(),
      tokens: Int32Array.from(rows, ({ next }) => next),
      firstSlot: 0,
      batch: ids.length,
      tokensPerSlot: 1,
      past: Int32Array.from(ids, (id) => this.#ledger.lengthOf(id)),
      wanted: rows.flatMap(({ ticket, output }, row) =>
        output < ticket.replay.length ? [] : [{ row, id: ticket.id, position: output, sampling: ticket.sampling, embed: false }],
      ),
      ids,
    };
  }

  /** The next output token: replayed, or the sampled one, which is reported. */
  #output(id: string, open: Open, sampled: Sampled | undefined): void {
    if (open.ticket.embed) {
      if (sampled) this.remove(id, "stop"); // the row was all that was wanted
      return;
    }
    const position = open.output;
    const replayed = open.ticket.replay[position];
    const token = replayed ?? sampled?.token;
    if (token === undefined) return;
    open.output += 1;
    open.next = token;
    if (replayed === undefined) this.#notices.push({ id, event: tokenEvent(token, position, sampled) });
    else if (position % replayNoticeTokens === 0) this.#notices.push({ id, event: { type: "progress", position } });
    const reason: FinishReason | undefined = open.ticket.eos.has(token) ? "stop" : open.output >= open.limit ? "length" : undefined;
    if (!reason) return;
    this.#notices.push({ id, event: { type: "finish", reason, outputTokens: open.output } });
    this.#release(id);
  }

  #release(id: string, reusable = true): void {
    const waiting = this.#queue.indexOf(id);
    if (waiting >= 0) this.#queue.splice(waiting, 1);
    else this.#ledger.leave(id, reusable);
    if (this.#prefilling === id) this.#prefilling = undefined;
    this.#open.delete(id);
  }
}

function tokenEvent(id: number, position: number, sampled: Sampled | undefined): GenerateEvent {
  const event = { type: "token", id, position, logprob: sampled?.logprob ?? 0 } as const;
  return sampled?.top ? { ...event, top: sampled.top } : event;
}

/** Tokens of the next chunk. Never leaves a single token behind and never is one, unless the prompt has only one:
 *  one token on a past takes the decode path of a backend, whose bits differ from a prefill's. */
export function chunkOf(left: number, chunk: number): number {
  if (left <= chunk) return left;
  if (left - chunk !== 1) return chunk;
  return chunk > 2 ? chunk - 1 : left;
}

function joined(a: Uint32Array, b: Uint32Array): Uint32Array {
  const both = new Uint32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

function checkTicket({ prompt, replay, maxTokens }: Ticket, context: number): void {
  const invalid = (message: string): AppError => new AppError(message, { code: "InvalidRequest" });
  if (prompt.length === 0) throw invalid("prompt: has no tokens");
  if (maxTokens < 1) throw invalid(`max_tokens: ${maxTokens}, at least 1`);
  if (replay.length >= maxTokens) throw invalid(`replay: ${replay.length} tokens, but max_tokens is ${maxTokens}`);
  if (prompt.length + replay.length >= context) {
    throw new AppError(
      `prompt: ${prompt.length + replay.length} tokens leave no room to answer in a context of ${context}; shorten the prompt`,
      { code: "ContextOverflow" },
    );
  }
}
