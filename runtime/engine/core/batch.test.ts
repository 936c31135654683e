// The batcher with a model in miniature: the "logits" of a row are a hash of the tokens before it, so a request that is fed a
// wrong token, a wrong slot or a wrong position says something else than it says alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Batcher, chunkOf, type Step, type Ticket } from "./batch.ts";
import { Languages } from "./constraints/languages.ts";
import { OpenSampling } from "./open-sampling.ts";
import type { GenerateEvent } from "./request.ts";

const context = 64;
const none = new Uint32Array(0);
const settings = { temperature: 0, topP: 1, topK: 0, seed: 1n };
const languages = new Languages(1, () => Promise.reject(new Error("not asked for")));
const sampling = new OpenSampling({ sampling: settings, prompt: none, replay: none, eos: [] }, languages);

function ticket(id: string, prompt: readonly number[], rest: Partial<Ticket> = {}): Ticket {
  return {
    id,
    prompt: Uint32Array.from(prompt),
    replay: new Uint32Array(0),
    maxTokens: 8,
    sampling,
    eos: new Set([7]),
    priority: 0,
    embed: false,
    ...rest,
  };
}

/** Executes steps on slots of tokens, as a model would on KV. */
class Toy {
  readonly batcher: Batcher;
  readonly slots: number[][];
  readonly events = new Map<string, GenerateEvent[]>();
  readonly steps: Step[] = [];

  constructor(slots: number, limits = {}, prefillsReplay = false) {
    this.batcher = new Batcher(slots, context, limits, prefillsReplay);
    this.slots = Array.from({ length: slots }, () => []);
  }

  step(): boolean {
    const step = this.batcher.next();
    this.collect();
    if (!step) return false;
    this.steps.push(step);
    for (const { from, to, length } of step.moves) this.slots[to] = this.slots[from]!.slice(0, length);
    const sums: number[] = [];
    for (let b = 0; b < step.batch; b++) {
      const slot = this.slots[step.firstSlot + b]!;
      assert.ok(slot.length >= step.past[b]!, "past beyond what was written");
      slot.length = step.past[b]!;
      for (let t = 0; t < step.tokensPerSlot; t++) {
        slot.push(step.tokens[b * step.tokensPerSlot + t]!);
        sums.push(slot.reduce((hash, token) => (Math.imul(hash, 31) + token + 1) >>> 0, 17) % 20);
      }
    }
    this.batcher.complete(
      step,
      step.wanted.map(({ row }) => ({ token: sums[row]!, logprob: 0 })),
    );
    this.collect();
    return true;
  }

  collect(): void {
    for (const { id, event } of this.batcher.takeNotices()) this.events.set(id, [...(this.events.get(id) ?? []), event]);
  }

  run(stepsMax = 5000): void {
    for (let i = 0; this.step(); i++) assert.ok(i < stepsMax, "never comes to rest");
  }

  tokens(id: string): number[] {
    return (this.events.get(id) ?? []).flatMap((event) => (event.type === "token" ? [event.id] : []));
  }

  finish(id: string): string | undefined {
    const last = this.events.get(id)?.at(-1);
    return last?.type === "finish" ? last.reason : undefined;
  }
}

function alone(request: Ticket): number[] {
  const toy = new Toy(1);
  toy.batcher.submit({ ...request, replay: new Uint32Array(0) });
  toy.run();
  return toy.tokens(request.id);
}

const prompts = fc.array(fc.integer({ min: 8, max: 12 }), { minLength: 1, maxLength: 45 });

test("a request says the same alone, with random mates that come and go, and with any chunk size", () => {
  const arrival = fc.record({
    prompt: prompts,
    at: fc.nat(40),
    cancelAt: fc.option(fc.nat(60)),
    maxTokens: fc.integer({ min: 1, max: 12 }),
  });
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 40 }),
      fc.array(arrival, { maxLength: 8, size: "max" }),
      (slots, chunk, arrivals) => {
        const toy = new Toy(slots, { prefillChunkTokens: chunk });
        const requests = arrivals.map(({ prompt, maxTokens }, i) => ticket(`r${i}`, prompt, { maxTokens }));
        for (let time = 0; time < 4000; time++) {
          for (const [i, { at, cancelAt }] of arrivals.entries()) {
            if (at === time) toy.batcher.submit(requests[i]!);
            if (cancelAt !== null && cancelAt === time && time > at) toy.batcher.remove(`r${i}`, "cancelled");
          }
          if (!toy.step() && time > 60) break;
        }
        for (const [i, request] of requests.entries()) {
          const want = alone(request);
          const got = toy.tokens(request.id);
          assert.ok(toy.finish(request.id), `${request.id} finished`);
          if (toy.finish(request.id) === "cancelled") assert.deepEqual(got, want.slice(0, got.length));
          else assert.deepEqual(got, want, `request ${i}`);
        }
        for (const { phase, tokensPerSlot, past, ids } of toy.steps) {
          if (phase !== "prefill") continue;
          const whole = requests.find(({ id }) => id === ids[0])!.prompt.length;
          assert.ok(tokensPerSlot > 1 || (whole === 1 && past[0] === 0), "a chunk of one token takes the decode path");
        }
      },
    ),
    { numRuns: 150 },
  );
});

test("a replay cut anywhere goes on with the tokens that would have come, and repeats none", () => {
  fc.assert(
    fc.property(prompts, fc.integer({ min: 2, max: 14 }), fc.nat(), fc.boolean(), (prompt, maxTokens, cut, prefills) => {
      const request = ticket("a", prompt, { maxTokens });
      const want = alone(request);
      const replayed = cut % want.length;
      const toy = new Toy(2, {}, prefills);
      toy.batcher.submit({ ...request, replay: Uint32Array.from(want.slice(0, replayed)) });
      toy.run();
      assert.deepEqual(toy.tokens("a"), want.slice(replayed));
      const first = toy.events.get("a")!.find((event) => event.type === "token");
      assert.equal(first?.type === "token" && first.position, replayed);
      // The prefill samples the first token after it, unless tokens to replay come then.
      const decoded = toy.steps.filter(({ phase }) => phase === "decode").length;
      assert.equal(decoded, prefills ? want.length - replayed - 1 : want.length - 1);
    }),
  );
});

test("a replay that is prefilled takes the steps of a prompt of its length, and tells how far it is", () => {
  const said = alone(ticket("a", [8, 9], { maxTokens: 40, eos: new Set() }));
  const toy = new Toy(1, { prefillChunkTokens: 8 }, true);
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 40, eos: new Set(), replay: Uint32Array.from(said.slice(0, 30)) }));
  toy.run();
  assert.deepEqual(toy.tokens("a"), said.slice(30));
  assert.deepEqual(
    toy.events.get("a")!.filter(({ type }) => type === "progress"),
    [{ type: "progress", position: 29 }],
  );
  assert.equal(toy.steps.filter(({ phase }) => phase === "prefill").length, 1);
});

test("a request says that it is queued before it has a slot, and that a long replay gets on", () => {
  const toy = new Toy(1);
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 30, eos: new Set() }));
  toy.step();
  const said = alone(ticket("b", [8, 9, 10], { maxTokens: 40, eos: new Set() }));
  toy.batcher.submit(ticket("b", [8, 9, 10], { maxTokens: 40, eos: new Set(), replay: Uint32Array.from(said.slice(0, 20)) }));
  toy.collect();
  assert.deepEqual(toy.events.get("b"), [{ type: "queued", queuedTokens: 3 }]);
  toy.run();
  const types = toy.events.get("b")!.map(({ type }) => type);
  assert.deepEqual(types.slice(0, 6), ["queued", "started", "progress", "progress", "progress", "token"]);
});

test("while others decode, prefill chunks and decode steps take turns", () => {
  const toy = new Toy(3, { prefillChunkTokens: 4 });
  toy.batcher.submit(ticket("a", [8, 9], { maxTokens: 30, eos: new Set() }));
  toy.step();
  toy.batcher.submit(
    ticket(
      "b",
      Array.from({ length: 40 }, (_, i) => i + 8),
    ),
  );
  const before = toy.steps.length;
  for (let i = 0; i < 12; i++) toy.step();
  const phases = toy.steps.slice(before).map(({ phase }) => phase);
  for (let i = 1; i < phases.length; i++) assert.notEqual(phases[i], phases[i - 1]);
});

test("the queue is bounded: one more request is told to come again", () => {
  const batcher = new Batcher(1, context, { queueRequestsMax: 2 });
  batcher.submit(ticket("a", [8, 9]));
  batcher.submit(ticket("b", [8, 9]));
  assert.throws(() => batcher.submit(ticket("c", [8, 9])), { code: "Busy", retry: { afterMs: 1000 } });
  batcher.remove("b", "cancelled");
  batcher.submit(ticket("d", [8, 9]));
});

test("requests that cannot be served are refused by field", () => {
  const batcher = new Batcher(1, context);
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
  let step = toy.batcher.next();
  for (; step && step.ids.length < 2; step = toy.batcher.next()) {
    const { wanted } = step;
    toy.batcher.complete(
      step,
      wanted.map(() => ({ token: 9, logprob: 0 })),
    );
  }
  assert.deepEqual(
    step?.wanted.map(({ id }) => id),
    ["a", "b"],
  );
  toy.collect();
  const before = [toy.tokens("a").length, toy.tokens("b").length];
  toy.batcher.complete(step!, [undefined, { token: 11, logprob: 0 }]);
  toy.batcher.remove("a", "unusable");
  toy.collect();
  assert.deepEqual([toy.tokens("a").length, toy.tokens("b").length], [before[0], before[1]! + 1]);
  assert.equal(toy.finish("a"), undefined, "the caller reports the error");
  assert.deepEqual(toy.batcher.next()?.ids, ["b"]);
  toy.batcher.submit(ticket("c", prompt));
  while (toy.batcher.openIds().includes("c") && !toy.events.get("c")?.some(({ type }) => type === "started")) toy.step();
  const started = toy.events.get("c")!.find((event) => event.type === "started");
  assert.equal(started?.type === "started" && started.cachedPromptTokens, 0);
});

test("chunks cover a prompt without ever being or leaving a single token", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 500 }), fc.integer({ min: 2, max: 64 }), (length, chunk) => {
      let left = length;
      while (left > 0) {
        const count = chunkOf(left, chunk);
        assert.ok(count >= 2 && count <= Math.max(chunk, 3), `${count} of ${left}`);
        left -= count;
      }
      assert.equal(left, 0);
    }),
  );
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
  const wanted = toy.steps.flatMap((step) => step.wanted.map((one) => ({ ...one, past: step.past[0]! })));
  assert.deepEqual(
    wanted.filter(({ embed }) => embed).map(({ id, row, past }) => [id, past + row]),
    [["vector", 8]],
  );
});
