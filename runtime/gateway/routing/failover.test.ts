// Failover as such, over workers in memory that break in any way at any token: the client sees every token once.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import type { FailoverReason } from "../../../crds/names.ts";
import {
  type Attempt,
  type Generated,
  type Generation,
  generate,
  type Shunned,
  type Stall,
  type WorkerEvent,
  type Workers,
} from "./failover.ts";
import { failoverLimits } from "./patience.ts";

const truth = (position: number) => 1000 + position * 3;
const silences = { answerMs: 30, firstTokenMs: 30, perPromptTokenMs: 0, nextTokenMs: 30 };
const limits = { ...failoverLimits, ...silences, noWorkerMs: 200, queueMs: 200, startedAttemptsMax: 50 };

interface Fault {
  /** Tokens this attempt sends before it breaks. */
  readonly after: number;
  readonly kind: "error" | "expert" | "lost" | "draining" | "end" | "silent" | "busy" | "repeat" | "gap" | "kept" | "differs" | "none";
}

function generation(maxTokens: number, extra: Partial<Generation> = {}): Generation {
  return {
    ...{ requestId: "r", prompt: [1, 2, 3], maxTokens, sampling: { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: false } },
    ...{ eos: [], deadlineUnixMs: Date.now() + 10_000, traceparent: "", signal: new AbortController().signal, ...extra },
  };
}

/** Each attempt takes the next fault; when they are used up, attempts finish. */
class Memory implements Workers {
  readonly faults: Fault[];
  readonly replays: number[][] = [];
  readonly maxTokens: number;
  open = 0;
  constructor(faults: readonly Fault[], maxTokens: number) {
    this.faults = [...faults];
    this.maxTokens = maxTokens;
  }
  start(generation: Generation, replay: readonly number[]): Attempt | { none: string } {
    const fault = this.faults.shift();
    if (fault?.kind === "none") return { none: "nobody" };
    this.replays.push([...replay]);
    this.open++;
    const stop = Promise.withResolvers<void>();
    const close = () => {
      this.open--;
      stop.resolve();
    };
    return { rank: this.replays.length % 3, events: this.events(generation, replay.length, fault, stop.promise), close };
  }
  async *events(generation: Generation, from: number, fault: Fault | undefined, closed: Promise<void>): AsyncGenerator<WorkerEvent> {
    if (fault?.kind === "busy") throw new AppError("full", { code: "QueueFull" });
    yield { type: "queued", queuedTokens: 0 };
    yield { type: "started", queuedTokens: 0 };
    for (let position = from; position < generation.maxTokens; position++) {
      if (fault && position - from >= fault.after) {
        if (fault.kind === "error") throw new AppError("bad", { code: "EngineStopped" });
        if (fault.kind === "expert") throw new AppError("expert 3 had no host", { code: "ExpertUnavailable" });
        if (fault.kind === "kept") throw new AppError("stopped", { code: "KeptEnded" });
        if (fault.kind === "differs" && position > 0) yield { type: "token", id: 5, position: position - 1, logprob: 0 };
        if (fault.kind === "lost") throw new AppError("gone", { code: "Unavailable" });
        if (fault.kind === "draining") yield { type: "finish", reason: "draining" };
        if (fault.kind === "end" || fault.kind === "draining") return;
        if (fault.kind === "gap") yield { type: "token", id: 5, position: position + 1, logprob: 0 };
        if (fault.kind === "repeat") yield { type: "token", id: truth(position - 1), position: position - 1, logprob: 0 };
        if (fault.kind === "silent") await closed;
      }
      yield { type: "token", id: truth(position), position, logprob: 0 };
    }
    yield { type: "finish", reason: "length" };
  }
  changed(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

async function collect(source: AsyncGenerator<Generated>): Promise<{ ids: number[]; finish: string | undefined }> {
  const ids: number[] = [];
  for await (const event of source) {
    if (event.type === "token") ids.push(event.id);
    if (event.type === "finish") return { ids, finish: event.reason };
  }
  return { ids, finish: undefined };
}

test("whatever breaks at whatever token, the client sees every token once and in order", async () => {
  const fault = fc.record({
    after: fc.nat(6),
    kind: fc.constantFrom(
      "error",
      "expert",
      "lost",
      "draining",
      "end",
      "silent",
      "busy",
      "repeat",
      "gap",
      "kept",
      "differs",
      "none",
    ) as fc.Arbitrary<Fault["kind"]>,
  });
  await fc.assert(
    fc.asyncProperty(fc.array(fault, { maxLength: 8 }), fc.integer({ min: 1, max: 20 }), async (faults, maxTokens) => {
      const workers = new Memory(faults, maxTokens);
      const { ids, finish } = await collect(generate(generation(maxTokens), workers, { ...limits, noWorkerMs: 5_000 }));
      assert.deepEqual(
        ids,
        Array.from({ length: maxTokens }, (_, i) => truth(i)),
      );
      assert.equal(finish, "length");
      assert.equal(workers.open, 0, "every attempt is closed");
      for (const replay of workers.replays) assert.deepEqual(replay, ids.slice(0, replay.length), "replays are what was said");
    }),
    { numRuns: 150 },
  );
});

test("each way to break has its reason", async () => {
  const reasonOf: Partial<Record<Fault["kind"], FailoverReason>> = {
    ...{ error: "error", expert: "error", lost: "lost", draining: "draining", end: "lost", silent: "silent", gap: "lost" },
  };
  for (const [kind, want] of Object.entries(reasonOf)) {
    const reasons: string[] = [];
    const onFailover = (reason: FailoverReason, _rank: number, tokens: number) => void reasons.push(`${reason} ${tokens}`);
    const workers = new Memory([{ after: 2, kind: kind as Fault["kind"] }], 6);
    await collect(generate(generation(6), workers, { ...limits, noWorkerMs: 5_000 }, { onFailover }));
    assert.deepEqual(reasons, [`${want} 2`], kind);
  }
});

test("a kept answer that was stopped, or that takes another way, is computed on, and its rank is not at fault", async () => {
  const kinds = ["kept", "differs", "lost"] as const;
  for (const kind of kinds) {
    let failovers = 0;
    const shunned: number[][] = [];
    const failed: boolean[] = [];
    class Watched extends Memory {
      override start(of: Generation, replay: readonly number[], { avoid }: Shunned = { avoid: new Set(), busy: new Set() }) {
        shunned.push([...avoid]);
        const attempt = super.start(of, replay);
        if ("none" in attempt) return attempt;
        return { ...attempt, close: (bad: boolean) => void failed.push(bad) };
      }
    }
    const workers = new Watched([{ after: 2, kind }], 6);
    const { ids } = await collect(generate(generation(6), workers, limits, { onFailover: () => failovers++ }));
    const atFault = kind === "lost";
    assert.deepEqual([ids.length, failovers, failed, shunned], [6, atFault ? 1 : 0, [atFault, false], [[], atFault ? [1] : []]], kind);
  }
});

/** What a worker does next: an event, an error, time that passes, nothing for ever; or no worker is there. */
type Step = WorkerEvent | AppError | number | "hangs" | "none";
const [queued, started] = [{ type: "queued", queuedTokens: 0 } as const, { type: "started", queuedTokens: 0 } as const];
const [ends, drains] = [{ type: "finish", reason: "length" } as const, { type: "finish", reason: "draining" } as const];
const token = (position: number): WorkerEvent => ({ type: "token", id: truth(position), position, logprob: 0 });
const fails = (code: string, message = code): AppError => new AppError(message, { code });

/** Each attempt takes the next script, the last one again and again. */
class Scripted implements Workers {
  readonly #scripts: readonly (readonly Step[])[];
  readonly blamed: boolean[] = [];
  attempts = 0;
  nowMs = 0;

  constructor(scripts: readonly (readonly Step[])[]) {
    this.#scripts = scripts;
  }

  start(): Attempt | { none: string } {
    const script = this.#scripts[Math.min(this.attempts, this.#scripts.length - 1)] ?? [];
    if (script[0] === "none") return { none: "nobody" };
    return { rank: this.attempts++, events: this.#events(script), close: (failed) => void this.blamed.push(failed) };
  }

  async *#events(script: readonly Step[]): AsyncGenerator<WorkerEvent> {
    for (const step of script) {
      if (step === "hangs" || step === "none") await new Promise(() => {});
      else if (step instanceof AppError) throw step;
      else if (typeof step === "number") this.nowMs += step;
      else yield step;
    }
  }

  changed(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

test("a stall says where its time went, also when the next worker is lost too", async () => {
  const workers = new Scripted([
    [started, token(0), 1_700, fails("Silent")],
    [queued, 300, fails("Unavailable")],
    [100, started, 900, token(1), ends],
  ]);
  const stalls: Stall[] = [];
  const hooks = { now: () => workers.nowMs, onRecovered: (stall: Stall) => void stalls.push(stall) };
  await collect(generate(generation(2, { deadlineUnixMs: 1e9 }), workers, failoverLimits, hooks));
  assert.deepEqual(stalls, [{ fromRank: 0, rank: 2, tokensReplayed: 1, detectionMs: 1_700, failoverMs: 400, replayMs: 900 }]);
});

interface Case {
  readonly scripts: readonly (readonly Step[])[];
  readonly extra?: Partial<Generation>;
  readonly limits?: Partial<typeof limits>;
  /** The clock is the scripts'. */
  readonly timed?: true;
  /** Positions of the tokens, and how the answer ends; or the error. */
  readonly want: readonly [positions: readonly number[], finish: string] | object;
  readonly attempts?: number;
  readonly blamed?: readonly boolean[];
}

const progress = Array.from({ length: 8 }, (_, position): WorkerEvent => ({ type: "progress", position }));

const cases: Readonly<Record<string, Case>> = {
  "a worker that dies after the last token needs no other worker": {
    scripts: [[started, token(0), token(1), fails("Unavailable")]],
    extra: { eos: [truth(1)] },
    want: [[0, 1], "stop"],
    attempts: 1,
  },
  "no worker within the limit is an error that says so, and when to come back": {
    scripts: [["none"]],
    want: { code: "NoWorker", message: "nobody", retry: { afterMs: 5_000 } },
  },
  "workers that stay full are an error of their own": { scripts: [[fails("QueueFull")]], want: { code: "QueueFull" } },
  "a request that breaks every worker that takes it stops after a few": {
    scripts: [[queued, started, fails("Unavailable", "gone")]],
    limits: { startedAttemptsMax: 6 },
    want: { code: "NoWorker", message: "gone" },
    attempts: 6,
  },
  "logits that are no numbers at several workers in a row end the request with the error that names them": {
    scripts: [[started, fails("UnusableLogits", "logit 5 of output token 0 is NaN")]],
    want: { code: "UnusableLogits", message: "logit 5 of output token 0 is NaN" },
    attempts: limits.internalErrorsMax,
  },
  "an error of the request itself is not tried elsewhere": {
    scripts: [[started, fails("ContextOverflow")]],
    want: { code: "ContextOverflow" },
    attempts: 1,
  },
  "the deadline ends a request that is waiting": {
    scripts: [["none"]],
    extra: { deadlineUnixMs: Date.now() + 20 },
    want: { code: "DeadlineExceeded" },
  },
  "a deadline that a worker finds passed ends the request, and the worker is not blamed": {
    scripts: [[started, fails("DeadlineExceeded")]],
    want: { code: "DeadlineExceeded" },
    blamed: [false],
  },
  "a request queued longer than a worker may be sought goes on elsewhere when its worker drains": {
    scripts: [
      [queued, 10 * limits.noWorkerMs, drains],
      [queued, started, token(0), ends],
    ],
    timed: true,
    limits: { queueMs: 1e6 },
    want: [[0], "length"],
  },
  "workers that drain while a request is in their queue are no sign against the request": {
    scripts: [...Array.from({ length: 20 }, () => [queued, drains]), [started, token(0), ends]],
    limits: { startedAttemptsMax: 2 },
    want: [[0], "length"],
    attempts: 21,
  },
  "a place in a queue that never comes is no fault of the worker: the client is told to come again": {
    scripts: [[queued, "hangs"]],
    limits: { queueMs: 60, nextTokenMs: 10, firstTokenMs: 10, answerMs: 10 },
    want: { code: "QueueFull", retry: { afterMs: 2_000 } },
    blamed: [false],
  },
  "a worker that hangs in the middle of a replay is given up as soon as one that hangs between tokens": {
    scripts: [
      [started, ...progress.slice(0, 1), "hangs"],
      [started, token(0), ends],
    ],
    limits: { firstTokenMs: 60_000 },
    want: [[0], "length"],
  },
  "an expert that no rank has ends a request once a worker could not be sought longer, and no worker is blamed": {
    scripts: [[started, 30_000, fails("ExpertUnavailable", "expert 3 had no host")]], // what a source waits for an expert
    timed: true,
    limits: failoverLimits,
    want: { code: "NoWorker", message: "expert 3 had no host" },
    blamed: [false, false],
  },
};

for (const [name, { scripts, extra = {}, limits: own, timed, want, attempts, blamed }] of Object.entries(cases)) {
  test(name, { timeout: 30_000 }, async () => {
    const workers = new Scripted(scripts);
    const request = generation(9, timed ? { deadlineUnixMs: 600_000, ...extra } : extra);
    const answer = collect(generate(request, workers, { ...limits, ...own }, timed ? { now: () => workers.nowMs } : {}));
    if (Array.isArray(want)) assert.deepEqual(await answer, { ids: want[0].map(truth), finish: want[1] });
    else await assert.rejects(answer, want as object);
    if (attempts !== undefined) assert.equal(workers.attempts, attempts);
    if (blamed !== undefined) assert.deepEqual(workers.blamed, blamed);
  });
}

test("a replay longer than the wait for a token is no silence", async () => {
  const slow = async function* (): AsyncGenerator<WorkerEvent> {
    yield started;
    for (const event of progress) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      yield event;
    }
    yield* [token(0), ends];
  };
  let attempts = 0;
  const workers: Workers = { start: () => ({ rank: attempts++, close: () => {}, events: slow() }), changed: async () => {} };
  const answer = collect(generate(generation(1), workers, { ...limits, firstTokenMs: 100, nextTokenMs: 100 }));
  assert.deepEqual(await answer, { ids: [truth(0)], finish: "length" });
  assert.equal(attempts, 1);
});

test("a client that goes away closes the attempt and starts no other", async () => {
  const abort = new AbortController();
  const workers = new Memory([{ after: 2, kind: "silent" }], 9);
  const seen: number[] = [];
  await assert.rejects(
    async () => {
      for await (const event of generate(generation(9, { signal: abort.signal }), workers, limits)) {
        if (event.type === "token") seen.push(event.id);
        if (seen.length === 2) abort.abort();
      }
    },
    { code: "Cancelled" },
  );
  assert.equal(workers.open, 0);
  assert.equal(workers.replays.length, 1);
});

test("a rank for prefill ends with one token, and the next rank goes on from it; that is no failover", async () => {
  for (const [maxTokens, ends] of [
    [5, []],
    [5, [1_000]],
    [1, []],
  ] as const) {
    const workers = new Memory([], maxTokens);
    const start = workers.start.bind(workers);
    workers.start = (asked, replay) => {
      const attempt = start(replay.length === 0 ? { ...asked, maxTokens: 1 } : asked, replay);
      return { ...(attempt as Attempt), handsOver: replay.length === 0 };
    };
    const told: string[] = [];
    const hooks = { onHandover: (from: number, rank: number) => told.push(`${from} ${rank}`), onFailover: () => told.push("failover") };
    const { ids, finish } = await collect(generate(generation(maxTokens, { eos: [...ends] }), workers, limits, hooks));
    const isOne = maxTokens === 1 || ends.length > 0;
    assert.deepEqual(
      ids,
      Array.from({ length: isOne ? 1 : maxTokens }, (_, i) => truth(i)),
    );
    assert.equal(finish, "length");
    assert.deepEqual([workers.replays, told, workers.open], isOne ? [[[]], [], 0] : [[[], [truth(0)]], ["1 2"], 0]);
  }
});
