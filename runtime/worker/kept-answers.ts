// Answers that this rank keeps for other gateways (DECISIONS.md 6): who reads them, and when they are dropped.
import { AppError } from "../../crds/common.ts";
import { FinishReason, type GenerateEvent, GenerateEventSchema, type Keep } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "../net/service.ts";

export interface KeptBounds {
  /** An answer that nobody reads is kept for so long, and computed for so long. */
  readonly unreadMs: number;
  readonly answers: number;
  /** Estimates, of all answers and of one. */
  readonly bytes: number;
  readonly answerBytes: number;
  /** Answers that are computed without a reader: those that had none for `unreadGraceMs`, since a client that repeats does it at once. */
  readonly unread: number;
  readonly unreadGraceMs: number;
  /** Answers of any age: a batch's worth. */
  readonly unreadAtOnce: number;
}

export const keptBounds: KeptBounds = {
  ...{ unreadMs: 60_000, answers: 512, bytes: 32 * 2 ** 20, answerBytes: 4 * 2 ** 20 },
  ...{ unread: 8, unreadGraceMs: 5_000, unreadAtOnce: 64 },
};

/** Bytes that an event takes, and each of its numbers. */
const eventBytes = 200;
const valueBytes = 12;

/** A call that reads an answer. */
export interface Reader {
  readonly cancelled: boolean;
  write(event: GenerateEvent): unknown;
  on(event: "cancelled", listener: () => void): unknown;
}

interface Hooks {
  readonly onGrown: (bytes: number) => void;
  /** Its last reader left, or it ended. */
  readonly onLeft: (failed: boolean) => void;
}

/** One generation, and those who read it. */
export class Run {
  readonly keep: Keep | undefined;
  readonly ids: number[];
  readonly late = new AppError("the request's deadline has passed", { code: "DeadlineExceeded", operation: "generating" });
  readonly #abort = new AbortController();
  readonly #over = Promise.withResolvers<void>();
  readonly #readers = new Set<Reader>();
  readonly #hooks: Hooks;
  #events: GenerateEvent[] | undefined;
  /** Nobody wants it but its readers. */
  #stopped = false;
  /** Its first reader has come. */
  #begun = false;
  /** Tokens among its events; those of a replay come once it is started. */
  #told = 0;
  #endsAt = 0;
  #timer: NodeJS.Timeout | undefined;
  bytes: number;
  isOver = false;
  /** It has all its tokens. */
  isWhole = false;

  /** `replay`: the tokens that it goes on from. */
  constructor(keep: Keep | undefined, replay: readonly number[], hooks: Hooks) {
    this.keep = keep;
    this.ids = [...replay];
    this.#events = keep && [];
    this.#hooks = hooks;
    this.bytes = keep ? eventBytes + keep.note.length : 0;
    this.#over.promise.catch(nothing); // its readers are told
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get isRead(): boolean {
    return this.#readers.size > 0;
  }

  add(message: GenerateEvent): void {
    const { event } = message;
    if (event.case === "token") {
      this.ids[event.value.position] = event.value.id;
      this.#told = event.value.position + 1;
    }
    if (event.case === "finish") this.isWhole = event.value.reason === FinishReason.STOP || event.value.reason === FinishReason.LENGTH;
    for (const reader of this.#readers) send(reader, message);
    if (this.#events === undefined) return;
    this.#events.push(message);
    const bytes = eventBytes + valueBytes * valuesOf(message);
    this.bytes += bytes;
    this.#hooks.onGrown(bytes);
  }

  /** What a failover brought, for readers from the first token on. */
  addReplay(ids: readonly number[]): void {
    if (this.#events === undefined) return;
    for (const [position, id] of ids.entries())
      this.add(create(GenerateEventSchema, { event: { case: "token", value: { id, position } } }));
  }

  end(error?: AppError): void {
    this.isOver = true;
    this.ids.length = this.#told;
    clearTimeout(this.#timer);
    const stopped = this.keep && this.signal.aborted ? keptEnded() : undefined;
    if (error ?? stopped) this.#over.reject(error ?? stopped);
    else this.#over.resolve();
    this.#readers.clear();
    this.#hooks.onLeft(error !== undefined);
  }

  /** Sends what there is and what comes; ends as the generation does. */
  read(reader: Reader): Promise<void> {
    for (const event of this.#events ?? []) send(reader, toldAgain(event));
    if (this.isOver) return this.#over.promise;
    this.#stopped = false;
    this.#begun = true;
    this.#readers.add(reader);
    const left = () => {
      if (!this.#readers.delete(reader) || this.isRead) return;
      if (this.#events === undefined || this.#stopped) this.#abort.abort(gone());
      this.#hooks.onLeft(false);
    };
    reader.on("cancelled", left);
    if (reader.cancelled) left();
    return this.#over.promise;
  }

  stop(): void {
    this.#stopped = true;
    if (!this.isRead) this.#abort.abort(gone());
  }

  /** It goes on for its readers alone. */
  forget(): void {
    this.#events = undefined;
    if (this.#begun && !this.isRead) this.#abort.abort(gone());
  }

  /** It may take so long from now, or longer where another reader said so; undefined = for ever. */
  allow(leftMs = Number.POSITIVE_INFINITY): void {
    const endsAt = performance.now() + leftMs;
    if (this.isOver || endsAt <= this.#endsAt) return;
    this.#endsAt = endsAt;
    clearTimeout(this.#timer);
    if (Number.isFinite(leftMs)) this.#timer = setTimeout(() => this.#abort.abort(this.late), leftMs);
  }

  /** True where its tokens and `replay` begin alike, it has or will have more, and an end of it is the answer's. */
  continues(replay: readonly number[]): boolean {
    if (replay.some((id, at) => at < this.ids.length && this.ids[at] !== id)) return false;
    if (!this.isOver) return !this.signal.aborted;
    return this.ids.length > replay.length || (this.isWhole && this.ids.length === replay.length);
  }
}

export class KeptAnswers {
  readonly #bounds: KeptBounds;
  readonly #now: () => number;
  /** The oldest first, and since when they are not read. */
  readonly #runs = new Map<string, { readonly run: Run; unreadSince: number | undefined }>();
  #bytes = 0;

  constructor(now: () => number, bounds = keptBounds) {
    this.#now = now;
    this.#bounds = bounds;
  }

  get size(): { readonly answers: number; readonly bytes: number } {
    return { answers: this.#runs.size, bytes: this.#bytes };
  }

  /** Throws `KeyReused` for another request under the same id. */
  find({ id, digest }: Keep, replay: readonly number[]): Run | undefined {
    const run = this.#runs.get(id)?.run;
    if (run?.keep && Buffer.compare(run.keep.digest, digest) !== 0)
      throw new AppError("another request has this key", { code: "KeyReused", operation: "generating" });
    return run?.continues(replay) ? run : undefined;
  }

  begin(keep: Keep | undefined, replay: readonly number[] = []): Run {
    const id = keep?.id ?? "";
    const run: Run = new Run(keep, replay, {
      onGrown: (bytes) => {
        if (this.#runs.get(id)?.run !== run) return;
        this.#bytes += bytes;
        this.#makeRoom(id);
      },
      onLeft: (failed) => {
        const entry = this.#runs.get(id);
        if (entry?.run !== run) return;
        if (failed) return this.drop(id);
        entry.unreadSince = this.#now();
        this.#boundUnread();
      },
    });
    if (keep === undefined) return run;
    this.drop(id);
    this.#runs.set(id, { run, unreadSince: undefined });
    this.#bytes += run.bytes;
    this.#makeRoom(id);
    return run;
  }

  /** `stopped`: the digest of a request whose caller wants no more. */
  look(id: string, stopped?: Uint8Array): { kept: boolean; tokens?: number; note?: Uint8Array; over?: boolean } {
    const run = this.#runs.get(id)?.run;
    if (run === undefined) return { kept: false };
    if (stopped && run.keep && Buffer.compare(run.keep.digest, stopped) === 0) run.stop();
    return { kept: true, tokens: run.ids.length, note: run.keep?.note ?? new Uint8Array(), over: run.isOver };
  }

  drop(id: string): void {
    const run = this.#runs.get(id)?.run;
    if (run === undefined) return;
    this.#runs.delete(id);
    this.#bytes -= run.bytes;
    run.forget();
  }

  /** Drops what nobody has read for long. */
  sweep(): void {
    this.#boundUnread();
    const now = this.#now();
    for (const [id, { run, unreadSince }] of this.#runs)
      if (!run.isRead && unreadSince !== undefined && now - unreadSince >= this.#bounds.unreadMs) this.drop(id);
  }

  /** Ended answers go first, the oldest of them, and then the one that needs the room. */
  #makeRoom(id: string): void {
    const { answers, bytes, answerBytes } = this.#bounds;
    if ((this.#runs.get(id)?.run.bytes ?? 0) > answerBytes) this.drop(id);
    while (this.#runs.size > answers || this.#bytes > bytes) {
      const ended = [...this.#runs].find(([other, { run }]) => other !== id && run.isOver);
      this.drop(ended?.[0] ?? id);
      if (ended === undefined) return;
    }
  }

  #boundUnread(): void {
    const unread = [...this.#runs].filter(([, { run }]) => !run.isOver && !run.isRead && !run.signal.aborted);
    const ages = unread.map(([id, { unreadSince }]) => ({ id, ms: this.#now() - (unreadSince ?? this.#now()) }));
    ages.sort((a, b) => b.ms - a.ms);
    const { unread: most, unreadGraceMs, unreadAtOnce } = this.#bounds;
    const old = ages.filter(({ ms }) => ms >= unreadGraceMs).length;
    for (const { id } of ages.slice(0, Math.max(0, old - most, ages.length - unreadAtOnce))) this.drop(id);
  }
}

/** What it says of the rank's queue is no news. */
function toldAgain(message: GenerateEvent): GenerateEvent {
  const { event } = message;
  if (event.case === "queued") return create(GenerateEventSchema, { event: { ...event, value: { ...event.value, again: true } } });
  if (event.case === "started") return create(GenerateEventSchema, { event: { ...event, value: { ...event.value, again: true } } });
  return message;
}

function send(reader: Reader, event: GenerateEvent): void {
  if (!reader.cancelled) reader.write(event);
}

function valuesOf({ event }: GenerateEvent): number {
  if (event.case === "prompt") return event.value.logprobs.length + 2 * event.value.topIds.length;
  return event.case === "token" ? 1 + 2 * event.value.topIds.length : 1;
}

/** The rank is well, and computes the rest for whoever asks again. */
const keptEnded = () => new AppError("the answer was stopped before its end", { code: "KeptEnded", operation: "generating" });
const gone = () => new AppError("the caller went away", { code: "Cancelled" });

function nothing(): void {}
