// Failover as such, over workers in memory that break in any way at any token: the client sees every token once.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import type { FailoverReason } from "../../../crds/names.ts";
import { type Attempt, type Generated, type Generation, generate, type Stall, type WorkerEvent, type Workers } from "./failover.ts";
import { failoverLimits } from "./patience.ts";

const truth = (position: number) => 1000 + position * 3;
const silences = { answerMs: 30, firstTokenMs: 30, perPromptTokenMs: 0, nextTokenMs: 30 };
const limits = { ...failoverLimits, ...silences, noWorkerMs: 200, queueMs: 200, startedAttemptsMax: 50 };

interface Fault {
  /** Tokens this attempt sends before it breaks. */
  readonly after: number;
  readonly kind: "error" | "expert" | "lost" | "draining" | "end" | "silent" | "busy" | "queued" | "repeat" | "gap" | "none";
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
    if (fault?.kind === "queued") await closed;
    yield { type: "started", queuedTokens: 0 };
    for (let position = from; position < generation.maxTokens; position++) {
      if (fault && position - from >= fault.after) {
        if (fault.kind === "error") throw new AppError("bad", { code: "EngineStopped" });
        if (fault.kind === "expert") throw new AppError("expert 3 had no host", { code: "ExpertUnavailable" });
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
    kind: fc.constantFrom("error", "expert", "lost", "draining", "end", "silent", "busy", "repeat", "gap", "none") as fc.Arbitrary<
      Fault["kind"]
    >,
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
  for (const [kind, want] of new Map<Fault["kind"], FailoverReason>([
    ["error", "error"],
    ["expert", "error"],
    ["lost", "lost"],
    ["draining", "draining"],
    ["end", "lost"],
    ["silent", "silent"],
    ["gap", "lost"],
  ])) {
    const reasons: string[] = [];
    await collect(
      generate(
        generation(6),
        new Memory([{ after: 2, kind }], 6),
        { ...limits, noWorkerMs: 5_000 },
        {
          onFailover: (reason, _rank, tokens) => reasons.push(`${reason} ${tokens}`),
        },
      ),
    );
    assert.deepEqual(reasons, [`${want} 2`], kind);
  }
});

test("a stall says where its time went, also when the next worker is lost too", async () => {
  let now = 0;
  const spend = (ms: number) => {
    now += ms;
  };
  const token = (position: number): WorkerEvent => ({ type: "token", id: truth(position), position, logprob: 0 });
  const scripts: (() => AsyncGenerator<WorkerEvent>)[] = [
    async function* () {
      yield { type: "started", queuedTokens: 0 };
      yield token(0);
      spend(1_700);
      throw new AppError("no sign of life", { code: "Silent" });
    },
    async function* () {
      yield { type: "queued", queuedTokens: 0 };
      spend(300);
      throw new AppError("gone", { code: "Unavailable" });
    },
    async function* () {
      spend(100);
      yield { type: "started", queuedTokens: 0 };
      spend(900);
      yield token(1);
      yield { type: "finish", reason: "length" };
    },
  ];
  let asked = 0;
  const workers: Workers = {
    start: () => ({ rank: asked, events: scripts[asked++]?.() as AsyncGenerator<WorkerEvent>, close: () => {} }),
    changed: async () => {},
  };
  const stalls: Stall[] = [];
  await collect(
    generate(generation(2, { deadlineUnixMs: 1e9 }), workers, failoverLimits, {
      now: () => now,
      onRecovered: (stall) => stalls.push(stall),
    }),
  );
  assert.deepEqual(stalls, [{ fromRank: 0, rank: 2, tokensReplayed: 1, detectionMs: 1_700, failoverMs: 400, replayMs: 900 }]);
});

test("a worker that dies after the last token needs no other worker", async () => {
  const byLength = new Memory([{ after: 4, kind: "end" }], 5);
  const eos = truth(3);
  const byEos = await collect(generate(generation(9, { eos: [eos] }), byLength, limits));
  assert.deepEqual(byEos, { ids: [0, 1, 2, 3].map(truth), finish: "stop" });
  assert.equal(byLength.replays.length, 1);
});

test("no worker within the limit is an error that says so, and when to come back", async () => {
  const none = Array.from({ length: 100_000 }, (): Fault => ({ after: 0, kind: "none" }));
  await assert.rejects(collect(generate(generation(3), new Memory(none, 3), limits)), {
    code: "NoWorker",
    message: "nobody",
    retry: { afterMs: 5_000 },
  });
});

test("workers that stay full are an error of their own", async () => {
  const busy = Array.from({ length: 100_000 }, (): Fault => ({ after: 0, kind: "busy" }));
  await assert.rejects(collect(generate(generation(3), new Memory(busy, 3), limits)), { code: "QueueFull" });
});

test("a request that breaks every worker that takes it stops after a few", async () => {
  const poison = Array.from({ length: 1000 }, (): Fault => ({ after: 0, kind: "lost" }));
  const workers = new Memory(poison, 3);
  await assert.rejects(collect(generate(generation(3), workers, { ...limits, startedAttemptsMax: 6 })), {
    code: "NoWorker",
    message: "gone",
  });
  assert.equal(workers.replays.length, 6);
});

test("logits that are no numbers at several workers in a row end the request with the error that names them", async () => {
  let asked = 0;
  const workers: Workers = {
    start: () => ({
      rank: asked++,
      close: () => {},
      events: (async function* (): AsyncGenerator<WorkerEvent> {
        yield { type: "started", queuedTokens: 0 };
        throw new AppError("logit 5 of output token 0 is NaN", { code: "UnusableLogits" });
      })(),
    }),
    changed: async () => {},
  };
  const want = { code: "UnusableLogits", message: "logit 5 of output token 0 is NaN" };
  await assert.rejects(collect(generate(generation(3), workers, limits)), want);
  assert.equal(asked, limits.internalErrorsMax);
});

test("an error of the request itself is not tried elsewhere", async () => {
  const workers: Workers = {
    start: () => ({
      rank: 0,
      close: () => {},
      events: (async function* (): AsyncGenerator<WorkerEvent> {
        yield { type: "started", queuedTokens: 0 };
        throw new AppError("prompt is 9 tokens, the context holds 8", { code: "ContextOverflow" });
      })(),
    }),
    changed: async () => {},
  };
  await assert.rejects(collect(generate(generation(3), workers, limits)), { code: "ContextOverflow" });
});

test("the deadline ends a request that is waiting", async () => {
  const none = Array.from({ length: 100_000 }, (): Fault => ({ after: 0, kind: "none" }));
  await assert.rejects(collect(generate(generation(3, { deadlineUnixMs: Date.now() + 20 }), new Memory(none, 3), limits)), {
    code: "DeadlineExceeded",
  });
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

test("a request queued longer than a worker may be sought goes on elsewhere when its worker drains", async () => {
  const clock = { now: 1_000 };
  const workers: Workers = {
    start: () => ({
      rank: 0,
      close: () => {},
      events: (async function* (): AsyncGenerator<WorkerEvent> {
        yield { type: "queued", queuedTokens: 50 };
        if (clock.now === 1_000) {
          clock.now += 10 * limits.noWorkerMs;
          return yield { type: "finish", reason: "draining" };
        }
        yield { type: "started", queuedTokens: 0 };
        yield { type: "token", id: 7, position: 0, logprob: 0 };
        yield { type: "finish", reason: "length" };
      })(),
    }),
    changed: async () => {},
  };
  const request = generation(1, { deadlineUnixMs: 1e9 });
  const answer = generate(request, workers, { ...limits, queueMs: 1e6 }, { now: () => clock.now });
  assert.deepEqual(await collect(answer), { ids: [7], finish: "length" });
});

test("workers that drain while a request is in their queue are no sign against the request", async () => {
  const events = async function* (): AsyncGenerator<WorkerEvent> {
    yield { type: "queued", queuedTokens: 0 };
    yield { type: "finish", reason: "draining" };
  };
  let left = 20;
  const good = new Memory([], 2);
  const workers: Workers = {
    start: (request, replay) => (left-- > 0 ? { rank: left, close: () => {}, events: events() } : good.start(request, replay)),
    changed: async () => {},
  };
  assert.equal((await collect(generate(generation(2), workers, { ...limits, startedAttemptsMax: 2 }))).finish, "length");
});

test("a place in a queue that never comes is no fault of the worker: the client is told to come again", async () => {
  const closed: boolean[] = [];
  const inner = new Memory([{ after: 0, kind: "queued" }], 3);
  const workers: Workers = {
    start(request, replay) {
      const attempt = inner.start(request, replay);
      if ("none" in attempt) return attempt;
      return {
        ...attempt,
        close(failed) {
          closed.push(failed);
          attempt.close(failed);
        },
      };
    },
    changed: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  };
  const late = generate(generation(3), workers, { ...limits, queueMs: 60, nextTokenMs: 10, firstTokenMs: 10, answerMs: 10 });
  await assert.rejects(collect(late), { code: "QueueFull", retry: { afterMs: 2_000 } });
  assert.deepEqual(closed, [false]);
});

test("a replay longer than the wait for a token is no silence", async () => {
  const events = async function* (): AsyncGenerator<WorkerEvent> {
    yield { type: "queued", queuedTokens: 0 };
    yield { type: "started", queuedTokens: 0 };
    for (let position = 0; position < 8; position++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      yield { type: "progress", position };
    }
    yield { type: "token", id: 9, position: 0, logprob: 0 };
    yield { type: "finish", reason: "length" };
  };
  let attempts = 0;
  const workers: Workers = { start: () => ({ rank: attempts++, close: () => {}, events: events() }), changed: async () => {} };
  const patient = { ...limits, firstTokenMs: 100, nextTokenMs: 100 };
  assert.deepEqual(await collect(generate(generation(1), workers, patient)), { ids: [9], finish: "length" });
  assert.equal(attempts, 1);
});

test("a worker that hangs in the middle of a replay is given up as soon as one that hangs between tokens", async () => {
  const events = async function* (): AsyncGenerator<WorkerEvent> {
    yield { type: "started", queuedTokens: 0 };
    yield { type: "progress", position: 0 };
    await new Promise(() => {});
  };
  const good = new Memory([], 1);
  let asked = 0;
  const workers: Workers = {
    start: (request, replay) => (asked++ === 0 ? { rank: 9, close: () => {}, events: events() } : good.start(request, replay)),
    changed: async () => {},
  };
  const answer = collect(generate(generation(1), workers, { ...limits, firstTokenMs: 60_000 }));
  const late = AbortSignal.timeout(20_000);
  const tooLate = new Promise((_, reject) => late.addEventListener("abort", () => reject(new Error("it was waited for"))));
  assert.deepEqual(await Promise.race([answer, tooLate]), { ids: [truth(0)], finish: "length" });
});

test("an expert that no rank has ends a request once a worker could not be sought longer, and no worker is blamed", async () => {
  const clock = { now: 0 };
  const blamed: boolean[] = [];
  const workers: Workers = {
    start: () => ({
      rank: blamed.length,
      close: (failed) => void blamed.push(failed),
      events: (async function* (): AsyncGenerator<WorkerEvent> {
        yield { type: "started", queuedTokens: 0 };
        clock.now += 30_000; // what a source waits for an expert
        throw new AppError("expert 3 had no host", { code: "ExpertUnavailable" });
      })(),
    }),
    changed: async () => {},
  };
  const answer = generate(generation(3, { deadlineUnixMs: 600_000 }), workers, failoverLimits, { now: () => clock.now });
  await assert.rejects(collect(answer), { code: "NoWorker", message: "expert 3 had no host" });
  assert.deepEqual(blamed, [false, false]);
});

test("a deadline that a worker finds passed ends the request, and the worker is not blamed", async () => {
  const blamed: boolean[] = [];
  const workers: Workers = {
    start: () => ({
      rank: 0,
      close: (failed) => void blamed.push(failed),
      events: (async function* (): AsyncGenerator<WorkerEvent> {
        yield { type: "started", queuedTokens: 0 };
        throw new AppError("the request's deadline has passed", { code: "DeadlineExceeded" });
      })(),
    }),
    changed: async () => {},
  };
  await assert.rejects(collect(generate(generation(3), workers, limits)), { code: "DeadlineExceeded" });
  assert.deepEqual(blamed, [false]);
});
