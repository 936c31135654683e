// The engine of a rank whose keys and values move: requests, scheduler, ledger, interleaver and transfers of production, in the order of the
// engine's loop, around rows that say which text they are of.
import { AppError } from "../../crds/common.ts";
import type { Languages } from "../../runtime/constraints/languages.ts";
import type { ChangedPrefixes, EngineKv, GenerateEvent, GenerateRequest } from "../../runtime/engine/engine.ts";
import { Batcher } from "../../runtime/engine/schedule/batch.ts";
import { type SlotChange, SlotLedger } from "../../runtime/engine/schedule/kv-ledger.ts";
import { defaultLimits } from "../../runtime/engine/schedule/request.ts";
import { decodesOf, partsOf, type Step } from "../../runtime/engine/schedule/step-plan.ts";
import { Interleaver } from "../../runtime/engine/thread/interleaver.ts";
import { KvTransfers } from "../../runtime/engine/thread/kv-transfers.ts";
import { StepBoundary } from "../../runtime/engine/thread/mailbox.ts";
import { type FromEngine, fromPlain } from "../../runtime/engine/thread/messages.ts";
import { Requests } from "../../runtime/engine/thread/requests.ts";
import { prefixIds } from "../../runtime/net/prefix-ids.ts";
import type { VirtualClock } from "./clock.ts";
import { type EngineParts, SimEngine } from "./engine.ts";

/** Small, so that requests are preempted and reusable prefixes evicted all the time. */
export const kvPool = { slots: 6, context: 640, blocks: 44, blockTokens: 32 };
export const kvVocab = 997;
/** Layers of a row, each a chain of its own over the tokens, and the bytes of all. */
const layers = 4;
export const positionBytes = layers * Uint32Array.BYTES_PER_ELEMENT;
const empty = 0xdeadbeef;
/** A message between the main thread and the engine's. */
const hopMs = 0.05;
const copyMs = 0.2;
const decodeMs = 25;
/** As the engine's loop has it. */
const moveMs = 10;

function mixed(a: number, b: number): number {
  let h = Math.imul((a ^ b) + 0x9e3779b9, 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35);
  return (h ^ (h >>> 13)) >>> 0;
}
const hashOf = (text: string): number => [...text].reduce((h, c) => mixed(h, c.charCodeAt(0)), 7);
const first = (salt: string, layer: number): number => mixed(hashOf(salt), layer);

/** The words of all positions of a text, as a rank of that class computes them. */
export function rowsOf(tokens: ArrayLike<number>, salt: string, numerics: string): Uint32Array {
  const rows = new Uint32Array(tokens.length * layers);
  for (let layer = 0; layer < layers; layer++) {
    const own = mixed(hashOf(numerics), layer);
    let chain = first(salt, layer);
    for (let at = 0; at < tokens.length; at++) {
      chain = mixed(chain, tokens[at] as number);
      rows[at * layers + layer] = chain ^ own;
    }
  }
  return rows;
}

/** What attention over these rows says, on a rank of that class; the same on all that have the right ones. */
function tokenOf(rows: Uint32Array, positions: number, numerics: string): number {
  const own = Uint32Array.from({ length: layers }, (_, layer) => mixed(hashOf(numerics), layer));
  let h = 1;
  for (let i = 0; i < positions * layers; i++) h = mixed(h, (rows[i] as number) ^ (own[i % layers] as number));
  return h % kvVocab;
}

/** The text that follows. */
export function textAfter(prompt: readonly number[], salt: string, count: number): number[] {
  const tokens = [...prompt];
  while (tokens.length < prompt.length + count) tokens.push(tokenOf(rowsOf(tokens, salt, ""), tokens.length, ""));
  return tokens.slice(prompt.length);
}

interface KvEngineParts extends EngineParts {
  readonly rank: number;
  /** Milliseconds of a prompt's token. */
  readonly tokenMs: number;
  /** The identity's roots. */
  readonly identity: readonly string[];
  readonly onPrefixes: (changed: ChangedPrefixes) => void;
}

export class KvEngine extends SimEngine {
  readonly kv: EngineKv;
  readonly ledger: SlotLedger;
  readonly transfers: KvTransfers;
  readonly batcher: Batcher;
  readonly #clock: VirtualClock;
  readonly #parts: KvEngineParts;
  readonly #memory: Uint32Array[];
  readonly #boundary = new StepBoundary();
  readonly #interleaver: Interleaver;
  readonly #requests: Requests;
  readonly #streams = new Map<string, Stream>();
  readonly #salts = new Map<string, string>();
  #next = 0;
  #hasComputed = false;

  constructor(parts: KvEngineParts) {
    super(parts);
    this.#parts = parts;
    this.#clock = parts.clock;
    this.#memory = Array.from({ length: kvPool.slots }, () => new Uint32Array(kvPool.context * layers).fill(empty));
    this.ledger = new SlotLedger(kvPool, prefixIds(...parts.identity));
    this.batcher = new Batcher(kvPool, this.ledger, { prefillChunkTokens: 64 }, layers);
    const rows = (slot: number) => this.#memory[slot] as Uint32Array;
    const kv = {
      positionBytes,
      readRows: (slot: number, from: number, count: number) =>
        new Uint8Array(rows(slot).slice(from * layers, (from + count) * layers).buffer),
      writeRows: (slot: number, from: number, data: Uint8Array) => rows(slot).set(new Uint32Array(data.slice().buffer), from * layers),
    } as never;
    const change = (each: SlotChange) => this.#change(each);
    const tokenMs = () => (this.#hasComputed ? parts.tokenMs : undefined);
    this.transfers = new KvTransfers({ ledger: this.ledger, kv, boundary: this.#boundary, change, tokenMs });
    const { decodeWaitMs: waitMs } = defaultLimits;
    const [run, move] = [(step: Step) => this.#run(step), () => this.transfers.next()];
    this.#interleaver = new Interleaver({ batcher: this.batcher, run, move, waitMs, now: () => performance.now() });
    this.#requests = new Requests({
      ...{ model: { info: parts.info, finalNorm: undefined }, batcher: this.batcher, boundary: this.#boundary },
      ...{ languages: { vocab: kvVocab } as Languages, prompts: { add: () => {}, drop: () => {} } },
      hosts: { take: () => [{ rank: parts.rank, share: 1 }] },
      send: (message) => this.#said(message),
    });
    this.kv = {
      look: (text) => this.#asked(async () => this.transfers.look(text)),
      read: (block) => this.#asked(() => this.transfers.read(block)),
      write: (written) => this.#asked(() => this.transfers.write(written)),
    };
    void this.#loop();
  }

  override async *generate(request: GenerateRequest): AsyncGenerator<GenerateEvent> {
    const { maxTokens, sampling, eos, priority = 0, cacheSalt = "", signal } = request;
    const id = `r${this.#next++}`;
    const stream = new Stream();
    this.#streams.set(id, stream);
    this.#salts.set(id, cacheSalt);
    const texts = { prompt: Uint32Array.from(request.prompt), replay: Uint32Array.from(request.replay ?? []) };
    const asked = { ...({ type: "generate", id, maxTokens, sampling, eos, priority, cacheSalt } as const), ...texts };
    await request.after;
    const cancel = () => void this.#asked(async () => this.#requests.cancel(id));
    signal?.addEventListener("abort", cancel, { once: true });
    void this.#asked(() => this.#requests.generate({ ...asked, embed: false, promptLogprobs: false }));
    if (signal?.aborted) cancel();
    let finished = false;
    try {
      while (!finished) {
        const event = await stream.next();
        finished = event.type === "finish";
        yield event;
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.#streams.delete(id);
      if (!finished) cancel();
    }
  }

  override load() {
    return { queuedTokens: 0, activeRequests: this.#streams.size };
  }

  override async drain(on = true): Promise<void> {
    await this.#asked(() => this.#requests.drain(on));
  }

  /** As the engine thread gets its messages: in order, whatever runs. */
  async #asked<T>(work: () => Promise<T>): Promise<T> {
    await this.#clock.sleep(hopMs);
    const done = work();
    this.#boundary.wake();
    return await done;
  }

  #said(message: FromEngine): void {
    if (message.type === "requestFailed") this.#streams.get(message.id)?.fail(fromPlain(message.error));
    if (message.type === "events") for (const { id, event } of message.notices) this.#streams.get(id)?.push(event);
  }

  async #loop(): Promise<void> {
    for (;;) {
      this.#requests.flush();
      this.#boundary.pass();
      const changed = this.ledger.takePrefixes();
      if (changed !== undefined) this.#parts.onPrefixes(changed);
      const moved = this.transfers.moveFor(moveMs);
      if (moved) await moved;
      const step = this.#interleaver.next();
      this.#requests.flush();
      if (step) await step;
      else if (moved) await this.#clock.sleep(0);
      else await this.#boundary.sleep(() => {});
    }
  }

  async #run(step: Step): Promise<void> {
    this.#requests.flush();
    for (const change of step.changes) await this.#change(change);
    this.batcher.changed(step, 0);
    const decodes = decodesOf(step);
    const ms = decodes * 0.5 + (decodes > 0 ? decodeMs : 0) + (step.tokens.length - decodes) * this.#parts.tokenMs;
    for (let layer = 0; layer < layers; layer++) {
      this.#compute(step, layer);
      await this.#clock.sleep(ms / layers);
      if (decodes === 0) await this.#interleaver.between();
    }
    const sampled = step.wanted.map(({ id, sampling, position }) => {
      const { slot, end } = this.#placeOf(step, id);
      const token = tokenOf(slot, end, this.#parts.info.numerics);
      sampling.accept(token, position);
      return { token, logprob: 0 };
    });
    this.#hasComputed ||= decodes === 0;
    this.batcher.complete(step, sampled, ms);
    this.#requests.flush();
    await this.#clock.sleep(0);
  }

  #placeOf(step: Step, id: string): { readonly slot: Uint32Array; readonly end: number } {
    const part = partsOf(step).find((each) => each.id === id);
    if (part === undefined) throw new AppError(`${id} is in no step`, { code: "Internal" });
    const { group, past } = part;
    return { slot: this.#memory[group.firstSlot + group.ids.indexOf(id)] as Uint32Array, end: past + group.tokens };
  }

  /** Writes the rows of one layer behind those that are there. */
  #compute(step: Step, layer: number): void {
    const own = mixed(hashOf(this.#parts.info.numerics), layer);
    for (const { id, group, past, from } of partsOf(step)) {
      const { slot } = this.#placeOf(step, id);
      for (let t = 0; t < group.tokens; t++) {
        const at = (past + t) * layers + layer;
        const before = past + t === 0 ? first(this.#salts.get(id) ?? "", layer) : (slot[at - layers] as number) ^ own;
        slot[at] = mixed(before >>> 0, step.tokens[from + t] as number) ^ own;
      }
    }
  }

  /** What is freed, and what is moved away from, says nothing any more. */
  async #change(change: SlotChange): Promise<void> {
    if (change.kind === "trim") {
      this.#memory[change.slot]?.fill(empty, change.length * layers);
      return;
    }
    if (change.kind === "write") throw new TypeError("no tier is behind this memory");
    const [from, to] = [this.#memory[change.from] as Uint32Array, this.#memory[change.to] as Uint32Array];
    to.fill(empty).set(from.subarray(0, change.length * layers));
    if (change.kind === "move") from.fill(empty);
    await this.#clock.sleep(copyMs);
  }
}

/** Events of a request for its one reader. */
class Stream {
  readonly #events: GenerateEvent[] = [];
  #error: AppError | undefined;
  #wake = () => {};

  push(event: GenerateEvent): void {
    this.#events.push(event);
    this.#wake();
  }
  fail(error: AppError): void {
    this.#error = error;
    this.#wake();
  }
  async next(): Promise<GenerateEvent> {
    for (;;) {
      const event = this.#events.shift();
      if (event) return event;
      if (this.#error) throw this.#error;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
