// The waits of those that decode: for the prompts of their steps and for the copies before these, each no longer than the limit says.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Toy, ticket } from "../../../test/kit/models/toy-batch.ts";
import { decodesOf } from "./step-plan.ts";

const least = 16; // tokens of a chunk, however slow they are

/** Tokens of a prompt like no other. */
const textOf = (number: number, length: number): number[] => Array.from({ length }, (_, i) => 100 * (number + 1) + i);

test("a row that decodes waits for no more tokens of prompts than its time allows; with none, prompts fill the step", () => {
  let [joined, packed] = [0, 0];
  fc.assert(
    fc.property(
      fc.record({ decodeWaitMs: fc.integer({ min: 5, max: 60 }), maxBatchTokens: fc.integer({ min: 64, max: 160 }) }),
      fc.double({ min: 0.1, max: 2, noNaN: true }),
      fc.array(fc.record({ length: fc.integer({ min: 1, max: 60 }), at: fc.nat(6), maxTokens: fc.integer({ min: 1, max: 4 }) }), {
        minLength: 1,
        maxLength: 9,
      }),
      (limits, msPerToken, arrivals) => {
        const toy = new Toy(9, limits, {}, msPerToken);
        let left = arrivals.reduce((sum, { length }) => sum + length, 0);
        for (let time = 0; left > 0; time++) {
          assert.ok(time < 400, "never comes to an end");
          let waiting = toy.batcher.queued > 0;
          for (const [i, { length, at, maxTokens }] of arrivals.entries()) {
            if (at === time) toy.batcher.submit(ticket(`r${i}`, textOf(i, length), { maxTokens, eos: new Set() }));
            waiting ||= at === time;
          }
          const before = toy.steps.length;
          toy.step();
          const step = toy.steps[before];
          if (step === undefined) continue;
          const tokens = step.tokens.length - decodesOf(step);
          left -= tokens;
          const prompts = step.groups.filter(({ phase }) => phase === "prefill").length;
          if (decodesOf(step) > 0) {
            assert.ok(tokens <= least || tokens * msPerToken <= limits.decodeWaitMs + 1e-9, `${tokens} tokens of ${prompts} prompts`);
            if (prompts > 1) joined += 1;
          } else {
            assert.ok(tokens <= limits.maxBatchTokens);
            const all = toy.batcher.queued === 0 && toy.batcher.openIds().every((id) => step.groups.some(({ ids }) => ids.includes(id)));
            if (!all) assert.ok(tokens > limits.maxBatchTokens - least, `${tokens} of ${limits.maxBatchTokens} tokens while others wait`);
            if (waiting && prompts > 1) packed += 1;
          }
        }
      },
    ),
    { numRuns: 200 },
  );
  assert.ok(joined > 20 && packed > 20, `${joined} steps in which several joined, ${packed} packed ones`);
});

test("prompts with one kept beginning start one a step where its copies take long, and together where they do not", () => {
  const kept = textOf(0, 600);
  const startsOf = (msPerCopied: number): number[] => {
    const toy = new Toy(10, {}, { context: 1_024, blocks: 10 * 128 }, 0.1);
    toy.msPerCopied = msPerCopied;
    toy.batcher.submit(ticket("system", [...kept, ...textOf(10, 40)], { maxTokens: 1 }));
    toy.run();
    toy.batcher.submit(ticket("decodes", textOf(20, 20), { maxTokens: 300, eos: new Set() }));
    toy.step();
    for (let i = 0; i < 5; i++) toy.batcher.submit(ticket(`r${i}`, [...kept, ...textOf(30 + i, 20)], { maxTokens: 100, eos: new Set() }));
    const before = toy.steps.length;
    for (let i = 0; i < 8; i++) toy.step();
    return toy.steps.slice(before).map(({ changes }) => changes.filter(({ kind }) => kind === "copy").length);
  };
  assert.deepEqual(startsOf(0.1).slice(0, 6), [1, 1, 1, 1, 1, 0]);
  assert.deepEqual(startsOf(0.001).slice(0, 2), [5, 0]);
});

test("where rows travel, steps that decode and steps of prompts take turns, and every text is the same", () => {
  const stepsOf = (apart: boolean) => {
    const toy = new Toy(6, { maxBatchTokens: 64 }, {}, 5);
    toy.apart = apart;
    for (let i = 0; i < 6; i++) toy.batcher.submit(ticket(`r${i}`, textOf(i, 40), { maxTokens: 6, eos: new Set() }));
    for (let time = 0; toy.batcher.openIds().length > 0; time++) {
      assert.ok(time < 200, "never comes to an end");
      toy.step();
    }
    return toy;
  };
  const [apart, mixed] = [stepsOf(true), stepsOf(false)];
  const kinds = apart.steps.map((step) => new Set(step.groups.map(({ phase }) => phase)));
  assert.ok(kinds.every(({ size }) => size === 1));
  assert.ok(mixed.steps.some((step) => new Set(step.groups.map(({ phase }) => phase)).size === 2));
  const waits = kinds.map((kind) => kind.has("prefill")).join(" ");
  const both = waits.slice(0, waits.lastIndexOf("true"));
  assert.doesNotMatch(both.slice(both.indexOf("false")), /true true/, "nobody who decodes waits for two steps of prompts");
  assert.deepEqual(apart.events, mixed.events);
});
