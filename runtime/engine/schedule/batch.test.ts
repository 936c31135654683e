// The batcher with a model in miniature: what requests say, beside what each says alone, and which steps they take.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { alone, batcherOf, blockTokens, checkEvents, context, pool, prompts, Toy, ticket } from "../../../test/kit/models/toy-batch.ts";
import { placesOf } from "../../kernels/kv-groups.ts";
import { limitsOn } from "./request.ts";
import { decodesOf, idsOf, kindOf } from "./step-plan.ts";

test("a request says the same alone, with random mates that come and go, in any pool and with any chunk size", () => {
  const arrival = fc.record({
    prompt: fc.oneof(prompts, fc.constant([8, 9])),
    at: fc.nat(40),
    cancelAt: fc.option(fc.nat(60), { freq: 2 }),
    maxTokens: fc.oneof(fc.integer({ min: 1, max: 30 }), fc.constant(context)),
    priority: fc.constantFrom(0, 0, 0, 1, -1),
    endless: fc.boolean(),
  });
  const setting = fc.record({
    slots: fc.integer({ min: 1, max: 8 }),
    chunk: fc.integer({ min: 1, max: 40 }),
    maxDecodeBatch: fc.integer({ min: 1, max: 4 }),
    draftTokens: fc.constantFrom(0, 1, 6),
    blocks: fc.integer({ min: context / blockTokens, max: 20 }),
    lateIn16: fc.constantFrom(0, 0, 3, 12),
    /** Of 16 rows of prompts, so many wait for a step that decodes; unset: both share steps. */
    decodesIn16: fc.constantFrom(undefined, 0, 3, 16),
  });
  let [preempted, between, cancelled] = [0, 0, 0];
  fc.assert(
    fc.property(
      setting,
      fc.array(arrival, { maxLength: 9, size: "max" }),
      ({ slots, chunk, blocks, maxDecodeBatch, draftTokens, lateIn16, decodesIn16 }, arrivals) => {
        const toy = new Toy(slots, { prefillChunkTokens: chunk, maxBatchTokens: 2 * chunk, maxDecodeBatch, draftTokens }, { blocks });
        let row = 0;
        if (lateIn16 > 0) toy.isLate = () => Math.imul(row++, 0x9e3779b1) >>> 28 < lateIn16;
        const requests = arrivals.map(({ prompt, maxTokens, priority, endless }, i) =>
          ticket(`r${i}`, prompt, { maxTokens, priority, ...(endless ? { eos: new Set() } : {}) }),
        );
        let promptRow = 0;
        const hash = () => Math.imul(promptRow, 0x9e3779b1) >>> 28;
        if (decodesIn16 !== undefined)
          toy.between = () => {
            promptRow += 1;
            const { cancelAt, at } = arrivals[promptRow % arrivals.length]!;
            if (cancelAt !== null && cancelAt > at && hash() === 7) {
              toy.batcher.remove(`r${promptRow % arrivals.length}`, "cancelled");
              cancelled += 1;
            }
            between += hash() < decodesIn16 ? 1 : 0;
            return hash() < decodesIn16;
          };
        for (let time = 0; time < 4000; time++) {
          for (const [i, { at, cancelAt }] of arrivals.entries()) {
            if (at === time) toy.batcher.submit(requests[i]!);
            if (cancelAt !== null && cancelAt === time && time > at) toy.batcher.remove(`r${i}`, "cancelled");
          }
          if (!toy.step() && time > 60) break;
        }
        preempted += toy.batcher.preemptions;
        assert.equal(toy.batcher.queued + toy.batcher.blocksUsed, 0);
        for (const [i, request] of requests.entries()) {
          const want = alone(request);
          const got = toy.tokens(request.id);
          checkEvents(toy.events.get(request.id)!);
          if (toy.finish(request.id) === "cancelled") assert.deepEqual(got, want.slice(0, got.length));
          else assert.deepEqual(got, want, `request ${i}`);
        }
        for (const step of toy.steps) {
          const prompts = step.tokens.length - decodesOf(step);
          assert.ok(prompts <= (decodesOf(step) > 0 ? chunk : 2 * chunk), `${prompts} tokens of prompts in a step`);
          assert.ok(step.groups.filter(({ phase }) => phase === "decode").every(({ batch }) => batch <= maxDecodeBatch));
        }
      },
    ),
    { numRuns: 200 },
  );
  assert.ok(preempted > 20, `${preempted} requests gave their memory up`);
  assert.ok(between > 200 && cancelled > 20, `${between} decodes and ${cancelled} cancels between rows of prompts`);
});

test("a request that leaves while a device computes a step of prompts loses nothing of theirs", () => {
  const toy = new Toy(4, { prefillChunkTokens: 16, maxBatchTokens: 16 });
  toy.apart = true;
  const endless = (id: string, prompt: readonly number[]) => ticket(id, prompt, { maxTokens: 12, eos: new Set() });
  toy.batcher.submit(endless("a", [8, 9]));
  toy.step();
  const late = endless(
    "b",
    [...Array(40).keys()].map((i) => 8 + ((i * i) % 5)),
  );
  toy.batcher.submit(late);
  toy.during = (step) => idsOf(step).includes("b") && toy.batcher.remove("a", "cancelled");
  toy.run();
  assert.equal(toy.finish("a"), "cancelled");
  assert.deepEqual(toy.tokens("b"), alone(late));
});

test("a replay cut anywhere goes on with the tokens that would have come, and repeats none", () => {
  fc.assert(
    fc.property(prompts, fc.integer({ min: 2, max: 14 }), fc.nat(), (prompt, maxTokens, cut) => {
      const request = ticket("a", prompt, { maxTokens });
      const want = alone(request);
      const replayed = cut % want.length;
      const toy = new Toy(2);
      toy.batcher.submit({ ...request, replay: Uint32Array.from(want.slice(0, replayed)) });
      toy.run();
      assert.deepEqual(toy.tokens("a"), want.slice(replayed));
      const first = toy.events.get("a")!.find((event) => event.type === "token");
      assert.equal(first?.type === "token" && first.position, replayed);
      // The prefill samples the first token after it.
      const decoded = toy.steps.filter((step) => decodesOf(step) > 0).length;
      assert.equal(decoded, want.length - replayed - 1);
    }),
  );
});

test("a replay that is prefilled takes the steps of a prompt of its length, and tells how far it is", () => {
  const said = alone(ticket("a", [8, 9], { maxTokens: 40, eos: new Set() }));
  const toy = new Toy(1);
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 40, eos: new Set(), replay: Uint32Array.from(said.slice(0, 30)) }));
  toy.run();
  assert.deepEqual(toy.tokens("a"), said.slice(30));
  assert.deepEqual(
    toy.events.get("a")!.filter(({ type }) => type === "progress"),
    [{ type: "progress", position: 29 }],
  );
  assert.equal(toy.steps.filter((step) => decodesOf(step) === 0).length, 1);
});

test("a request says that it is queued before it has a slot, and how far a replay is", () => {
  const toy = new Toy(1);
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 30, eos: new Set() }));
  toy.step();
  const said = alone(ticket("b", [8, 9, 10], { maxTokens: 40, eos: new Set() }));
  toy.batcher.submit(ticket("b", [8, 9, 10], { maxTokens: 40, eos: new Set(), replay: Uint32Array.from(said.slice(0, 20)) }));
  toy.collect();
  assert.deepEqual(toy.events.get("b"), [{ type: "queued", queuedTokens: 23 }]);
  toy.run();
  const types = toy.events.get("b")!.map(({ type }) => type);
  assert.deepEqual(types.slice(0, 6), ["queued", "started", "progress", "token", "token", "token"]);
});

test("while a prompt is prefilled in chunks, others decode in every step", () => {
  const toy = new Toy(3, { prefillChunkTokens: 2 });
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 30, eos: new Set() }));
  toy.step();
  toy.batcher.submit(
    ticket(
      "b",
      Array.from({ length: 20 }, (_, i) => i + 8),
    ),
  );
  const before = toy.steps.length;
  for (let i = 0; i < 12; i++) toy.step();
  const steps = toy.steps.slice(before).map((step) => [kindOf(step.tokens.length, decodesOf(step)), step.tokens.length]);
  assert.deepEqual(steps, [...new Array(10).fill(["mixed", 3]), ["decode", 2], ["decode", 2]]);
});

test("several prompts share a step in their order, whole ones but the last, and of those with one beginning the first goes ahead", () => {
  const prompt = (length: number, from: number) => Array.from({ length }, (_, i) => from + i);
  const toy = new Toy(6, { maxBatchTokens: 60 });
  for (const [id, length, from] of [
    ["a", 17, 100],
    ["b", 20, 200],
    ["c", 30, 300],
    ["d", 25, 400],
    ["e", 30, 400],
  ] as const)
    toy.batcher.submit(ticket(id, prompt(length, from), { maxTokens: 1 }));
  toy.run();
  const taken = toy.steps.map(({ groups }) => groups.map(({ ids, tokens, past }) => [ids[0], past[0], tokens]));
  assert.deepEqual(taken, [
    [
      ["a", 0, 17],
      ["b", 0, 20],
      ["c", 0, 23],
    ],
    [
      ["c", 23, 7],
      ["d", 0, 25],
    ],
    [["e", 25, 5]],
  ]);
});

test("the queue is bounded: one more request is told to come again", () => {
  const batcher = batcherOf(pool(1), { queueRequestsMax: 2 });
  batcher.submit(ticket("a", [8, 9]));
  batcher.submit(ticket("b", [8, 9]));
  assert.throws(() => batcher.submit(ticket("c", [8, 9])), { code: "Busy", retry: { afterMs: 1000 } });
  batcher.remove("b", "cancelled");
  batcher.submit(ticket("d", [8, 9]));
});

test("requests that cannot be served are refused by field", () => {
  const batcher = batcherOf(pool(1));
  const long = Array.from({ length: context }, () => 8);
  assert.throws(() => batcher.submit(ticket("a", long)), { code: "ContextOverflow", message: /prompt: 64 tokens.*context of 64/ });
  assert.throws(() => batcher.submit(ticket("a", [])), { code: "InvalidRequest", message: /prompt/ });
  assert.throws(() => batcher.submit(ticket("a", [8], { maxTokens: 0 })), { code: "InvalidRequest", message: /max_tokens/ });
  assert.throws(() => batcher.submit(ticket("a", [8], { maxTokens: 2, replay: Uint32Array.of(8, 8) })), {
    code: "InvalidRequest",
    message: /replay/,
  });
});

test("the context ends a request whose max_tokens is larger", () => {
  const toy = new Toy(1);
  toy.batcher.submit(
    ticket(
      "a",
      Array.from({ length: context - 3 }, () => 8),
      { maxTokens: 100, eos: new Set() },
    ),
  );
  toy.run();
  assert.equal(toy.tokens("a").length, 3);
  assert.equal(toy.finish("a"), "length");
});

test("an eos id ends a request and is its last token", () => {
  const want = alone(ticket("a", [8, 9, 10], { maxTokens: 20, eos: new Set() }));
  const eos = want[2]!;
  const cut = want.indexOf(eos) + 1;
  const toy = new Toy(1);
  toy.batcher.submit(ticket("a", [8, 9, 10], { maxTokens: 20, eos: new Set([eos]) }));
  toy.run();
  assert.deepEqual(toy.tokens("a"), want.slice(0, cut));
  assert.equal(toy.finish("a"), "stop");
});

test("a failed request leaves without an event and frees its slot", () => {
  const toy = new Toy(1);
  toy.batcher.submit(ticket("a", [8, 9]));
  toy.step();
  toy.batcher.remove("a", "failed");
  toy.collect();
  assert.equal(toy.finish("a"), undefined);
  toy.batcher.submit(ticket("b", [8, 9]));
  toy.run();
  assert.deepEqual(toy.tokens("b"), alone(ticket("b", [8, 9])));
});

test("a request without a sampled token says nothing more; its mates go on, and nothing is built on its prompt", () => {
  const prompt = Array.from({ length: 20 }, (_, i) => 8 + (i % 5));
  const toy = new Toy(2);
  toy.batcher.submit(ticket("a", prompt, { eos: new Set() }));
  toy.batcher.submit(ticket("b", [8, 9, 10], { eos: new Set() }));
  toy.step();
  assert.deepEqual(idsOf(toy.steps.at(-1)!), ["a", "b"]);
  const before = [toy.tokens("a").length, toy.tokens("b").length];
  toy.step("a");
  toy.batcher.remove("a", "unusable");
  toy.collect();
  assert.deepEqual([toy.tokens("a").length, toy.tokens("b").length], [before[0], before[1]! + 1]);
  assert.equal(toy.finish("a"), undefined, "the caller reports the error");
  toy.batcher.submit(ticket("c", prompt));
  while (toy.batcher.openIds().includes("c") && !toy.events.get("c")?.some(({ type }) => type === "started")) toy.step();
  const started = toy.events.get("c")!.find((event) => event.type === "started");
  assert.equal(started?.type === "started" && started.cachedPromptTokens, 0);
  assert.deepEqual(idsOf(toy.steps.at(-1)!), ["b", "c"]);
});

test("of those that wait, the lowest priority goes first, of equal ones the one that came first", () => {
  const toy = new Toy(1);
  const started: string[] = [];
  toy.batcher.submit(ticket("running", [8, 9]));
  toy.step();
  for (const [id, priority] of [
    ["a", 0],
    ["b", 5],
    ["c", -1],
    ["d", 0],
    ["e", -1],
  ] as const)
    toy.batcher.submit(ticket(id, [8, 9], { priority, maxTokens: 1 }));
  const collect = toy.collect.bind(toy);
  toy.collect = () => {
    const before = new Map([...toy.events].map(([id, events]) => [id, events.length]));
    collect();
    for (const [id, events] of toy.events)
      for (const event of events.slice(before.get(id) ?? 0)) if (event.type === "started") started.push(id);
  };
  toy.run();
  assert.deepEqual(started, ["c", "e", "a", "d", "b"]);
});

test("a request for an embedding ends with its prompt's last row, and says no token", () => {
  const toy = new Toy(2, { prefillChunkTokens: 4 });
  toy.batcher.submit(ticket("mate", [8, 9, 10]));
  toy.batcher.submit(ticket("vector", [8, 9, 10, 11, 8, 9, 10, 11, 12], { embed: true, maxTokens: 1 }));
  toy.run();
  assert.equal(toy.finish("vector"), "stop");
  assert.deepEqual(toy.tokens("vector"), []);
  assert.deepEqual(toy.tokens("mate"), alone(ticket("mate", [8, 9, 10])));
  const wanted = toy.steps.flatMap(({ wanted, groups }) => wanted.map((one) => ({ ...one, ...placesOf(groups)[one.row]! })));
  assert.deepEqual(
    wanted.filter(({ embed }) => embed).map(({ id, position }) => [id, position]),
    [["vector", 8]],
  );
});

test("a step has more prompt tokens on a device of its own, unless a limit is given", () => {
  const most = (onDevice: boolean, given?: { readonly maxBatchTokens: number }) => limitsOn(onDevice, given).maxBatchTokens;
  assert.deepEqual([most(false), most(true), most(true, { maxBatchTokens: 512 })], [256, 2048, 512]);
});
