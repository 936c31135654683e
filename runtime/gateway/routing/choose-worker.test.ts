// The choice of a rank: fewest queued tokens, affinity only among about equal ones, never a rank that cannot; which ranks are asked for
// the tokenizer; and the waiter that is woken when an attempt ends.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { grpcNetwork } from "../../net/grpc.ts";
import type { Member } from "../../net/mapping.ts";
import type { TlsSource } from "../../net/tls.ts";
import { createTracing } from "../../observe/trace.ts";
import { choose } from "./choose-worker.ts";
import { ConversationHosts } from "./conversation-hosts.ts";
import type { Attempt, Generation } from "./failover.ts";
import { tieTokens } from "./policies/load-aware.ts";
import type { Candidate } from "./policies/policy.ts";
import { prefixHash } from "./rendezvous.ts";
import { sourcesMax, textSources } from "./text-sources.ts";
import { WorkerPool } from "./worker-pool.ts";

const worker = (rank: number, queuedTokens = 0, rest: Partial<Candidate> = {}): Candidate => ({
  rank,
  state: "active",
  suspect: false,
  queuedTokens,
  ...{ requests: 0, found: 0, lastChosen: 0 },
  numerics: "exact",
  ...rest,
});
const hash = prefixHash([1, 2, 3]);
const refused = "rank 0 speaks another version of the wire";

/** Who is asked, or why nobody is. */
type Case = readonly [name: string, candidates: Candidate[], want: number | RegExp, shunned?: Partial<Parameters<typeof choose>[2]>];
const cases: readonly Case[] = [
  ["nobody is known", [], /no worker is known/],
  ["nobody is ready", [worker(0, 0, { state: "joining" }), worker(1, 0, { state: "lost" })], /none of 2/],
  ["draining ranks get nothing new", [worker(0, 0, { state: "draining" }), worker(1, 9999)], 1],
  ["where all ranks drain, one that does is better than none", [worker(0, 9, { state: "draining" })], 0],
  ["suspects are skipped", [worker(0, 0, { suspect: true }), worker(1, 9999)], 1],
  ["all suspect: wait", [worker(0, 0, { suspect: true })], /failed a moment ago/],
  ["the shortest queue wins", [worker(0, 500), worker(1, 100), worker(2, 900)], 1],
  ["an avoided rank is left out while there is another", [worker(0, 0), worker(1, 500)], 1, { avoid: new Set([0]) }],
  [
    "a request goes on in the class that began it, however long the queue is there",
    [worker(0, 0, { numerics: "other" }), worker(1, 9999)],
    1,
    { numerics: "exact" },
  ],
  ["a worker of another wire version is asked nothing", [worker(0, 0, { refused }), worker(1, 9999)], 1],
  ["where all are of another, the reason names one", [worker(0, 0, { refused })], /^rank 0 speaks another version/],
  ["another class is better than none", [worker(0, 0, { numerics: "other" })], 0, { numerics: "exact" }],
  [
    "a rank that failed the request is no choice for its class",
    [worker(0), worker(1, 9999, { numerics: "other" })],
    1,
    { avoid: new Set([0]), numerics: "exact" },
  ],
  [
    "a full rank of the request's class is asked again before another class is",
    [worker(0), worker(1, 9999, { numerics: "other" })],
    0,
    { avoid: new Set([0]), busy: new Set([0]), numerics: "exact" },
  ],
  [
    "but not before another rank of the class",
    [worker(0), worker(1, 9999)],
    1,
    { avoid: new Set([0]), busy: new Set([0]), numerics: "exact" },
  ],
  [
    "nor for a request that nobody computed yet",
    [worker(0), worker(1, 9999, { numerics: "other" })],
    1,
    { avoid: new Set([0]), busy: new Set([0]) },
  ],
  ["an avoided rank is better than none", [worker(0, 0)], 0, { avoid: new Set([0]) }],
  [
    "a prompt goes to a rank for prefill, however long its queue is",
    [worker(0, 9999, { role: "prefill" }), worker(1, 0, { role: "decode" })],
    0,
    { role: "prefill" },
  ],
  ["an answer goes to a rank for decode", [worker(0, 0, { role: "prefill" }), worker(1, 9999, { role: "decode" })], 1, { role: "decode" }],
  [
    "of about equal ones the rank of that role alone is chosen",
    [worker(0, tieTokens, { role: "prefill" }), worker(1, 0)],
    0,
    { role: "prefill" },
  ],
  [
    "of ranks that have as much of a prompt too",
    [worker(0, 500, { role: "decode", found: 512 }), worker(1, 500, { found: 512 })],
    0,
    { role: "decode" },
  ],
  [
    "a rank of both takes a prompt of which it has more",
    [worker(0, 0, { role: "decode" }), worker(1, 0, { found: 512 })],
    1,
    { role: "decode" },
  ],
  [
    "where the hash alone decides, ranks of both take nothing",
    [worker(0, 9_999, { role: "decode" }), worker(1, 0)],
    0,
    { role: "decode", byHash: true },
  ],
  ["a rank of both takes what is too much for it", [worker(0, 1_000, { role: "prefill" }), worker(1, 0)], 1, { role: "prefill" }],
  [
    "where the only rank for prefill failed the request, another takes its prompt",
    [worker(0, 0, { role: "prefill" }), worker(1, 9999, { role: "decode" })],
    1,
    { role: "prefill", avoid: new Set([0]) },
  ],
  [
    "where no rank for decode answers, one for prefill generates",
    [worker(0, 0, { role: "prefill" }), worker(1, 0, { role: "decode", suspect: true })],
    0,
    { role: "decode" },
  ],
  [
    "a request goes on in its class before its role counts",
    [worker(0, 0, { role: "decode", numerics: "other" }), worker(1, 0, { role: "prefill" })],
    1,
    { role: "decode", numerics: "exact" },
  ],
];

for (const [name, candidates, want, shunned = {}] of cases) {
  test(name, () => {
    const { rank, reason } = choose(candidates, hash, { avoid: new Set(), busy: new Set(), ...shunned });
    assert.equal(rank, typeof want === "number" ? want : undefined);
    assert.match(reason, typeof want === "number" ? /^$/ : want);
  });
}

test("equal prefixes go to one rank, and stay there when another rank leaves", () => {
  const ranks = [0, 1, 2, 3, 4].map((rank) => worker(rank));
  for (let prefix = 0; prefix < 200; prefix++) {
    const prompt = [prefix, 7, 9];
    const home = choose(ranks, prefixHash(prompt)).rank;
    assert.equal(choose(ranks, prefixHash([...prompt])).rank, home);
    const gone = (home! + 1) % 5;
    assert.equal(
      choose(
        ranks.filter(({ rank }) => rank !== gone),
        prefixHash(prompt),
      ).rank,
      home,
    );
  }
});

test("gateways that know of other queues choose the same rank for a key", () => {
  const queues = fc.array(fc.nat(10_000), { minLength: 3, maxLength: 3 });
  const chosen = (tokens: number[]) =>
    choose(
      tokens.map((queued, rank) => worker(rank, queued)),
      hash,
      { byHash: true },
    ).rank;
  fc.assert(fc.property(queues, queues, (a, b) => assert.equal(chosen(a), chosen(b))));
});

test("prefixes spread over ranks", () => {
  const ranks = [0, 1, 2, 3].map((rank) => worker(rank));
  const counts = [0, 0, 0, 0];
  for (let prefix = 0; prefix < 4000; prefix++) counts[choose(ranks, prefixHash([prefix, prefix >> 3])).rank!]!++;
  for (const count of counts) assert.ok(count > 800 && count < 1200, `${counts}`);
});

test("only the beginning of a prompt decides", () => {
  const start = Array.from({ length: 64 }, (_, i) => i);
  assert.equal(prefixHash([...start, 1]), prefixHash([...start, 2]));
  assert.notEqual(prefixHash([1, ...start]), prefixHash(start));
});

test("the chosen rank is active where one is, not suspect, and within the tie of the shortest queue", () => {
  const candidate = fc.record({
    state: fc.constantFrom("active", "joining", "draining", "lost") as fc.Arbitrary<Candidate["state"]>,
    suspect: fc.boolean(),
    queuedTokens: fc.nat(500),
    requests: fc.nat(4),
    ...{ found: fc.constant(0), lastChosen: fc.nat(9) },
    numerics: fc.constantFrom("", "exact"),
  });
  fc.assert(
    fc.property(fc.array(candidate, { maxLength: 8 }), fc.integer(), (rows, prefix) => {
      const candidates = rows.map((row, rank) => ({ ...row, rank }));
      const wanted = candidates.some((c) => c.state === "active") ? "active" : "draining";
      const usable = candidates.filter((c) => c.state === wanted && !c.suspect);
      const { rank, reason } = choose(candidates, prefix);
      assert.equal(rank === undefined, usable.length === 0);
      assert.equal(reason === "", rank !== undefined);
      if (rank === undefined) return;
      const least = Math.min(...usable.map((c) => c.queuedTokens));
      assert.ok(usable.some((c) => c.rank === rank && c.queuedTokens <= least + tieTokens));
    }),
  );
});

const member = (rank: number, textDigest: string | undefined, state: Member["state"] = "active"): Member => ({
  ...{ rank, podName: `p${rank}`, podUid: `u${rank}`, bootId: "b", address: `10.0.0.${rank}:1`, state },
  ...(textDigest === undefined ? {} : { textDigest }),
});

const textCases: Readonly<Record<string, { members: Member[]; want: readonly number[]; digest: string | undefined }>> = {
  "nobody is there": { members: [], want: [], digest: undefined },
  "a lost rank is asked nothing and counts for nothing": { members: [member(0, "a", "lost"), member(1, "b")], want: [1], digest: "b" },
  "ranks that serve come first": { members: [member(0, "a", "joining"), member(1, "a")], want: [1, 0], digest: "a" },
  "one that leaves is better than none": { members: [member(0, "a", "draining"), member(1, "a", "joining")], want: [1, 0], digest: "a" },
  "a rank with other files than most is not asked": {
    members: [member(0, "b"), member(1, "a"), member(2, "a")],
    want: [1, 2],
    digest: "a",
  },
  "of as many the lowest rank has it": { members: [member(3, "a"), member(2, "b")], want: [2], digest: "b" },
  "ranks that say none come last": { members: [member(0, undefined), member(1, "a", "joining")], want: [1, 0], digest: "a" },
  "where none says one, all are asked": { members: [member(1, undefined), member(0, undefined)], want: [0, 1], digest: undefined },
};

for (const [name, { members, want, digest }] of Object.entries(textCases))
  test(name, () => {
    for (const order of [members, members.toReversed()]) {
      const found = textSources(order);
      assert.deepEqual([found.ranks.map(({ rank }) => rank), found.digest], [want, digest]);
    }
  });

test("a round asks no more ranks than its bound", () => {
  assert.equal(textSources(Array.from({ length: 100 }, (_, rank) => member(rank, "a"))).ranks.length, sourcesMax);
});

const { signal } = new AbortController();
const request = { prompt: [1, 2, 3], maxTokens: 4, sampling: {}, traceparent: "", signal } as unknown as Generation;

test("an attempt that no worker accepted wakes nobody: nothing became free", async () => {
  const identity = { deploymentUid: "uid", rank: -1, podUid: "gw", bootId: "b" };
  const tls = {} as TlsSource; // nobody connects here
  const tracing = await createTracing({ service: "gateway" });
  const pool = new WorkerPool({ identity, namespace: "ns", deployment: "mix", tls, network: grpcNetwork, tracing, routing: "PrefixAware" });
  const member = { rank: 0, podName: "mix-0", podUid: "p0", bootId: "b0", address: "127.0.0.1:1", state: "active" } as const;
  pool.apply({ version: 1, members: [member] });
  let woken = 0;
  for (let i = 0; i < 3; i++) void pool.changed(60_000, request.signal).then(() => woken++);
  const attempt = pool.start(request, [], { avoid: new Set(), busy: new Set() }) as Attempt;
  attempt.close(false);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(woken, 0);
  pool.apply({ version: 2, members: [member] });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(woken, 3, "a new membership wakes all");
});

test("a conversation goes to the rank that hosts most of its experts, and load still wins", () => {
  const conversation = {
    hosts: new Map([
      [0, 0.2],
      [1, 0.9],
      [2, 0.2],
    ]),
    tokens: 200,
  };
  const chosen = (queued: readonly number[], wishes = {}) =>
    choose(
      queued.map((queuedTokens, rank) => worker(rank, queuedTokens)),
      7,
      { conversation, ...wishes },
    ).rank;
  assert.equal(chosen([0, 0, 0]), 1);
  assert.equal(chosen([0, tieTokens + 70, 0]), 1, "0.7 of its tokens need no wire there, at half a token each");
  assert.notEqual(chosen([0, tieTokens + 71, 0]), 1);
  const long = { conversation: { ...conversation, tokens: 100_000 } };
  assert.notEqual(chosen([0, 9 * tieTokens, 0], long), 1, "and a long prompt waits for no long queue");
  const byHash = choose(
    [0, 1, 2].map((rank) => worker(rank)),
    7,
  ).rank;
  assert.equal(chosen([0, 0, 0], { byHash: true }), byHash);
  const open = [0, 0, 0];
  for (let i = 0; i < 6; i++) {
    const ranks = open.map((requests, rank) => worker(rank, 0, { requests }));
    const { rank } = choose(ranks, i, { conversation });
    open[rank as number] = (open[rank as number] as number) + 1;
  }
  assert.deepEqual(open.toSorted(), [1, 2, 3], "requests that come at once and queue few tokens spread all the same");
  assert.equal(chosen([0, 0, 0], { avoid: new Set([1]) }) === 1, false, "it has failed there");
  const alike = {
    hosts: new Map([
      [0, 0.33],
      [1, 0.35],
      [2, 0.32],
    ]),
    tokens: 200,
  };
  assert.equal(chosen([0, 0, 0], { conversation: alike }), byHash, "such a difference is chance");
});

test("what ranks tell is kept by the beginnings of prompts: a conversation's own comes first, and it is checked and bounded", () => {
  const known = new ConversationHosts();
  const prompt = (...blocks: readonly number[]) => ({ prompt: blocks.flatMap((block) => Array<number>(16).fill(block)) });
  const shares = (text: ReturnType<typeof prompt>): unknown => [...(known.of(text) ?? [])];
  known.learn(prompt(1, 1, 2), [
    { rank: 0, share: 0.5 },
    { rank: 1, share: 2 },
  ]);
  known.learn(prompt(1, 1, 3), [{ rank: 0, share: 1 }]);
  assert.deepEqual(shares(prompt(1, 1, 2, 7, 8)), [[0, 0.5]], "its next turn");
  const salted = { ...prompt(1, 1, 2, 7), cacheSalt: "a" };
  assert.equal(known.of(salted), undefined, "who sends another salt learns nothing");
  known.learn(salted, [{ rank: 0, share: 1 }]);
  assert.deepEqual([shares(salted), shares(prompt(1, 1, 2, 7))], [[[0, 1]], [[0, 0.5]]]);
  assert.deepEqual(shares(prompt(1, 1, 9)), [[0, 0.75]], "another user of the same system prompt");
  assert.equal(known.of(prompt(2)), undefined);
  const many = Array.from({ length: 400 }, (_, rank) => ({ rank, share: 1 }));
  known.learn(prompt(4), many);
  assert.equal(known.of(prompt(4))?.size, 8);
  for (let user = 10; user < 16_400; user++) known.learn(prompt(user), [{ rank: 0, share: 1 }]);
  assert.equal(known.of(prompt(4)), undefined);
});
