// Limits of clients: a minute's worth at once, then evenly; what is owed comes back first; one client's limits are nobody else's.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { rejectReason } from "../problem.ts";
import { type ClientEntry, ClientLimits } from "./client-limits.ts";

const clock = { now: 0 };
const limitsOf = (...clients: readonly object[]) => {
  clock.now = 0;
  return new ClientLimits(
    clients.map((one) => ({ name: "a", priority: 0, ...one })),
    () => clock.now,
  );
};
const entered = (limits: ClientLimits, name = "a", tokens = 1): ClientEntry => {
  const entry = limits.enter(name, tokens);
  assert.ok("leave" in entry, JSON.stringify(entry));
  return entry;
};

test("requests of a minute may come at once, and come back evenly; the answer says when", () => {
  const limits = limitsOf({ requestsPerMinute: 6 });
  for (let i = 0; i < 6; i++) entered(limits).leave(0);
  const refused = limits.enter("a", 1);
  assert.ok("problem" in refused);
  assert.deepEqual([refused.problem.status, refused.problem.retryAfterSeconds, rejectReason(refused.problem)], [429, 10, "quota"]);
  assert.match(refused.problem.message, /Client a may have 6 requests a minute.*in 10 s/);
  clock.now = 9_999;
  assert.ok("problem" in limits.enter("a", 1));
  clock.now = 10_000;
  entered(limits);
  assert.ok("problem" in limits.enter("a", 1));
  entered(limits, "b");
  entered(limits, "");
});

test("tokens are owed when the answer turns out long, and the next request waits for them", () => {
  const limits = limitsOf({ tokensPerMinute: 60 });
  const first = entered(limits, "a", 20);
  first.leave(100);
  first.leave(100);
  assert.equal(limits.refusal("a")?.retryAfterSeconds, 61, "60 owed and one more, once");
  clock.now = 61_000;
  assert.equal(limits.refusal("a"), undefined);
  clock.now = 1_000_000;
  entered(limits, "a", 60);
  assert.ok(limits.refusal("a"), "no more than a minute's worth is saved");
});

test("a clock that is set back takes nothing away", () => {
  const limits = limitsOf({ requestsPerMinute: 6 });
  clock.now = 3_600_000;
  entered(limits);
  clock.now = 0;
  entered(limits);
  for (let i = 0; i < 4; i++) entered(limits);
  assert.equal(limits.refusal("a")?.retryAfterSeconds, 10);
});

test("requests at once give their place back once", () => {
  const limits = limitsOf({ concurrentRequests: 2 });
  const [first] = [entered(limits), entered(limits)];
  assert.match(limits.refusal("a")?.message ?? "", /2 requests at once/);
  first.leave(0);
  first.leave(0);
  entered(limits);
  assert.ok("problem" in limits.enter("a", 1));
});

test("an answer that its client left takes its place until it ends, or until the client asks for it again", async () => {
  const limits = limitsOf({ concurrentRequests: 1, tokensPerMinute: 100 });
  const computed = Promise.withResolvers<number>();
  const signals: AbortSignal[] = [];
  const left = (id: string) =>
    limits.charge("a", 0, id).stay(id, 7, (signal) => {
      signals.push(signal);
      return computed.promise;
    });
  left("k");
  assert.equal(limits.refusal("a"), undefined, "it may ask for that one");
  for (const other of ["", "l"]) assert.match(limits.refusal("a", other)?.message ?? "", /1 requests at once/);
  assert.equal(limits.refusal("a", "k"), undefined);
  left("k");
  assert.deepEqual([signals.map(({ aborted }) => aborted), limits.headers("a")["x-ratelimit-remaining-tokens"]], [[true, false], "93"]);
  computed.resolve(50);
  await computed.promise;
  assert.deepEqual([limits.refusal("a", ""), limits.headers("a")["x-ratelimit-remaining-tokens"]], [undefined, "43"]);
});

test("no more answers are followed than are bounded, by the limit of 70 at once if there is one, and one that cannot be followed leaves", async () => {
  const followed = (limits: ReturnType<typeof limitsOf>, count: number) => {
    for (let i = 0; i < count; i++) limits.charge("a", 0, String(i)).stay(String(i), 1, () => new Promise(() => {}));
    return limits;
  };
  assert.match(followed(limitsOf({ concurrentRequests: 70 }), 70).refusal("a", "")?.message ?? "", /70 requests at once/);
  const limits = followed(limitsOf({ tokensPerMinute: 1_000 }), 65);
  assert.equal(limits.headers("a")["x-ratelimit-remaining-tokens"], "999");
  const other = limitsOf({ concurrentRequests: 1 });
  other.charge("a", 0, "k").stay("k", 1, () => Promise.reject(new Error("no rank answers")));
  await new Promise(setImmediate);
  assert.equal(other.refusal("a", ""), undefined);
});

test("a client's requests come no earlier than its own priority", () => {
  const limits = limitsOf({ priority: 5 });
  assert.deepEqual(
    [undefined, -3, 5, 9].map((asked) => limits.priorityOf({ client: "a" }, asked)),
    [5, 5, 5, 9],
  );
  const other = { client: "b" };
  assert.deepEqual(
    [undefined, -3, 4].map((asked) => limits.priorityOf(other, asked)),
    [0, 0, 4],
    "who is not listed has 0, and so has everybody where there are no keys",
  );
  assert.deepEqual(
    [undefined, -3, 9].map((asked) => limits.priorityOf({ client: "a", priority: 2 }, asked)),
    [2, 2, 9],
    "what a token says goes before the list",
  );
});

test("what is left of a minute's limits is told by OpenAI's names, a debt with its minutes", () => {
  const limits = limitsOf({ requestsPerMinute: 60, tokensPerMinute: 600 });
  const entry = limits.enter("a", 100) as { leave(tokens: number): void };
  const told = () => Object.values(limits.headers("a")).join(" ");
  assert.equal(told(), "60 59 1s 600 500 10s");
  entry.leave(1_500);
  assert.equal(told(), "60 59 1s 600 0 2m40s");
  clock.now += 60_000;
  assert.equal(told(), "60 60 0s 600 0 1m40s");
  assert.deepEqual(
    Object.keys(limits.headers("a")).slice(3),
    ["limit", "remaining", "reset"].map((part) => `x-ratelimit-${part}-tokens`),
  );
  assert.deepEqual(limits.headers("b"), {});
});

test("in any minute a client begins no more requests than two minutes' worth, however it asks", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.array(fc.integer({ min: 0, max: 20_000 }), { maxLength: 200 }), (perMinute, pauses) => {
      const limits = limitsOf({ requestsPerMinute: perMinute });
      const begun: number[] = [];
      for (const pause of pauses) {
        clock.now += pause;
        if ("leave" in limits.enter("a", 0)) begun.push(clock.now);
      }
      for (const from of begun) assert.ok(begun.filter((at) => at >= from && at < from + 60_000).length <= 2 * perMinute);
    }),
    { numRuns: 100 },
  );
});
