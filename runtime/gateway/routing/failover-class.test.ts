// A stream whose worker is lost while the others of its class are full: they are asked again for a bounded time.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { choose } from "./choose-worker.ts";
import { type Attempt, type Generation, generate, type Shunned, type WorkerEvent, type Workers } from "./failover.ts";
import { failoverLimits } from "./patience.ts";
import type { Candidate } from "./policies/policy.ts";

const ownClassMs = 1_000;
const request: Generation = {
  ...{ requestId: "r", prompt: [1, 2, 3], maxTokens: 4, sampling: { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: false } },
  ...{ eos: [], deadlineUnixMs: 60_000, traceparent: "", signal: new AbortController().signal },
};

const idle = { requests: 0, found: 0, lastChosen: 0 } as const;

/** Rank 0 computes two tokens and is lost, rank 1 of its class is full until then, rank 2 is of another class. */
class Three implements Workers {
  readonly asked: number[] = [];
  readonly freeAt: number;
  nowMs = 0;
  #lost = false;

  constructor(freeAt: number) {
    this.freeAt = freeAt;
  }

  start(generation: Generation, replay: readonly number[], shunned: Shunned): Attempt | { none: string } {
    const candidates = ["one", "one", "another"].map((numerics, rank): Candidate => {
      const lost = rank === 0 && this.#lost;
      return { rank, numerics, state: lost ? "lost" : "active", suspect: false, ...idle, queuedTokens: rank * 1_000 };
    });
    const { rank } = choose(candidates, 0, { ...shunned, ...(replay.length > 0 ? { numerics: "one" } : {}) });
    assert.ok(rank !== undefined);
    this.asked.push(rank);
    return { rank, events: this.events(rank, generation, replay.length), close: () => {} };
  }

  async *events(rank: number, { maxTokens }: Generation, from: number): AsyncGenerator<WorkerEvent> {
    if (rank === 1 && this.nowMs < this.freeAt) throw new AppError("full", { code: "QueueFull" });
    yield { type: "started", queuedTokens: 0 };
    for (let position = from; position < maxTokens; position++) {
      if (rank === 0 && position === 2) {
        this.#lost = true;
        throw new AppError("gone", { code: "Lost" });
      }
      yield { type: "token", id: 10 + position, position, logprob: 0 };
    }
    yield { type: "finish", reason: "length" };
  }

  async changed(): Promise<void> {
    this.nowMs += 100;
  }
}

async function asked(freeAt: number): Promise<readonly number[]> {
  const workers = new Three(freeAt);
  const ids: number[] = [];
  for await (const event of generate(request, workers, { ...failoverLimits, ownClassMs }, { now: () => workers.nowMs })) {
    if (event.type === "token") ids.push(event.id);
  }
  assert.deepEqual(ids, [10, 11, 12, 13]);
  return workers.asked;
}

test("a full worker of the class that computed the stream is waited for", async () => {
  assert.deepEqual(await asked(500), [0, 1, 1, 1, 1, 1, 1]);
});

test("after a bounded time another class goes on", async () => {
  const ranks = await asked(Number.POSITIVE_INFINITY);
  assert.equal(ranks.at(-1), 2);
  assert.equal(ranks.filter((rank) => rank === 1).length, ownClassMs / 100);
});

/** Ranks 0 and 1 of a class take turns to fail, each for a moment after some tokens; rank 2 is of another class. */
class Turns implements Workers {
  readonly asked: number[] = [];
  readonly #suspects = new Set<number>();

  start({ maxTokens }: Generation, replay: readonly number[], { avoid, busy }: Shunned): Attempt | { none: string } {
    const candidates = ["one", "one", "another"].map((numerics, rank): Candidate => {
      return { rank, numerics, state: "active", suspect: this.#suspects.has(rank), ...idle, queuedTokens: rank * 1_000 };
    });
    const { rank } = choose(candidates, 0, { avoid, busy, ...(replay.length > 0 ? { numerics: "one" } : {}) });
    assert.ok(rank !== undefined);
    this.asked.push(rank);
    this.#suspects.clear(); // the moment is over while this one computes
    const close = (failed: boolean): void => {
      if (failed) this.#suspects.add(rank);
    };
    return { rank, events: this.events(replay.length, maxTokens), close };
  }

  async *events(from: number, maxTokens: number): AsyncGenerator<WorkerEvent> {
    yield { type: "started", queuedTokens: 0 };
    yield { type: "token", id: from, position: from, logprob: 0 };
    if (from + 1 < maxTokens) throw new AppError("gone", { code: "Lost" });
    yield { type: "finish", reason: "length" };
  }

  changed(): Promise<void> {
    return Promise.resolve();
  }
}

test("a rank that failed before the last token is one to go on with, rather than one of another class", async () => {
  const workers = new Turns();
  const ids: number[] = [];
  for await (const event of generate(request, workers, failoverLimits, { now: () => 0 })) if (event.type === "token") ids.push(event.id);
  assert.deepEqual(ids, [0, 1, 2, 3]);
  assert.deepEqual(workers.asked, [0, 1, 0, 1]);
});
