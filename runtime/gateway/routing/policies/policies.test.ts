// The policies: what they have in common, and what each of them weighs.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { policies } from "./index.ts";
import { requestsMore, tieTokens } from "./load-aware.ts";
import type { Candidate } from "./policy.ts";

const block = 64;
const idle: Omit<Candidate, "rank"> = {
  ...{ state: "active", suspect: false, queuedTokens: 0, requests: 0, found: 0, lastChosen: 0, numerics: "exact" },
};
const rankOf = (rank: number, rest: Partial<Candidate> = {}): Candidate => ({ ...idle, rank, ...rest });

const seen = fc.record({
  queuedTokens: fc.nat(1_000),
  requests: fc.nat(6),
  found: fc.nat(30).map((blocks) => blocks * block),
  lastChosen: fc.nat(99),
});
const some = fc.array(seen, { minLength: 1, maxLength: 6 }).map((rows) => rows.map((row, rank) => rankOf(rank, row)));
const part = fc.constantFrom(0, 0.1, 0.5, 0.9);
const asked = fc.record({
  prefix: fc.integer(),
  conversation: fc.option(
    fc.record({ hosts: fc.array(fc.tuple(fc.nat(5), part)).map((shares) => new Map(shares)), tokens: fc.nat(4_000) }),
    { nil: undefined },
  ),
});

test("every policy takes one of the ranks, whatever their order", () => {
  fc.assert(
    fc.property(some, asked, fc.constantFrom(...Object.values(policies)), (ranks, of, policy) => {
      const { rank } = policy(ranks, of);
      assert.ok(ranks.some((one) => one.rank === rank));
      const turns = ranks.map((one) => ({ ...one, lastChosen: one.rank }));
      assert.equal(policy(turns, of).rank, policy(turns.toReversed(), of).rank);
    }),
  );
});

test("where nothing of a prompt is found, the choice is that by load", () => {
  fc.assert(
    fc.property(some, asked, (ranks, of) => {
      const nothing = ranks.map((one) => ({ ...one, found: one.found > block ? block - 1 : 0 }));
      assert.deepEqual(policies.PrefixAware(nothing, of), policies.LoadAware(nothing, of));
    }),
  );
});

test("load wins: what is found is worth its own tokens in a queue and no more, and a crowded rank takes nothing for it", () => {
  fc.assert(
    fc.property(some, fc.integer(), (ranks, prefix) => {
      const { rank } = policies.PrefixAware(ranks, { prefix });
      const taken = ranks[rank] as Candidate;
      for (const other of ranks) {
        const others = other.queuedTokens <= taken.queuedTokens && other.requests + requestsMore < taken.requests;
        if (ranks.some(({ found }) => found >= block)) assert.ok(!others, `rank ${other.rank} has fewer requests`);
        const crowded = ranks.some((one) => one.queuedTokens <= other.queuedTokens && one.requests + requestsMore < other.requests);
        if (crowded) continue;
        const more = Math.max(0, taken.found - other.found);
        assert.ok(taken.queuedTokens - other.queuedTokens <= tieTokens + more, `rank ${other.rank} would be sooner`);
      }
    }),
  );
});

test("one who has more of the prompt than the rank that was taken, and is else like it, would have been taken", () => {
  fc.assert(
    fc.property(some, fc.integer(), fc.nat(5), (ranks, prefix, at) => {
      const { rank } = policies.PrefixAware(ranks, { prefix });
      const more = ranks.map((one, i) => (i === at % ranks.length ? { ...(ranks[rank] as Candidate), rank: i, found: 4_000 } : one));
      assert.equal(policies.PrefixAware(more, { prefix }).rank, at % ranks.length);
    }),
  );
});

test("requests that come at once spread, although one rank has all of their prompt and the others nothing", () => {
  const open = [0, 0, 0];
  for (let i = 0; i < 30; i++) {
    const ranks = open.map((requests, rank) => rankOf(rank, { requests, found: rank === 1 ? 2_048 : 0 }));
    const { rank, by } = policies.PrefixAware(ranks, { prefix: i });
    if (i === 0) assert.deepEqual([rank, by], [1, "prefix"]);
    open[rank] = (open[rank] as number) + 1;
  }
  assert.ok(Math.max(...open) - Math.min(...open) <= requestsMore + 1, `${open}`);
});

test("experts at home count beside what is found", () => {
  const conversation = { hosts: new Map([[2, 0.9]]), tokens: 1_000 };
  const taken = (found: number): number =>
    policies.PrefixAware(
      [0, 1, 2].map((rank) => rankOf(rank, { found: rank === 1 ? found : 0 })),
      { prefix: 7, conversation },
    ).rank;
  assert.deepEqual([taken(block), taken(9 * block)], [2, 1]);
});

test("by turns each rank is taken once before any is taken again, and one that joins is not taken alone", () => {
  const turns = new Map([0, 1, 2].map((rank) => [rank, 0]));
  const taken: number[] = [];
  for (let turn = 1; turn <= 7; turn++) {
    if (turn === 4) turns.set(3, 0);
    const ranks = [...turns].map(([rank, last]) => rankOf(rank, { lastChosen: last }));
    const { rank } = policies.RoundRobin(ranks, { prefix: turn });
    turns.set(rank, turn);
    taken.push(rank);
  }
  assert.deepEqual(taken, [0, 1, 2, 3, 0, 1, 2]);
});
