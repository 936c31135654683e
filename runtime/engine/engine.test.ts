// The whole engine in its thread on the tiny checkpoint: the text of a request depends on the request alone, and every way
// of ending one is clean. Ranks here are engines whose remote calls go straight to each other.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import {
  collect,
  tinyContext as context,
  engineWorld,
  goldenCheckpoints,
  greedy,
  tinyKvPoolBytes as kvPoolBytes,
  nobodyElse,
  promptOf as prompt,
  textOf as text,
  tokensOf,
} from "../../test/kit/ranks/loaded-engine.ts";
import { until } from "../../test/kit/wait.ts";
import { missingExperts } from "../placement/frames/not-hosted.ts";
import { createEngine, type Engine, type EngineOptions, type GenerateEvent, type OnDemandExperts } from "./engine.ts";

const { root, storeDir, store, start } = await engineWorld({ codecs: ["f32", "iq4_nl"] });

const reason = (events: readonly GenerateEvent[]): string => {
  const last = events.at(-1);
  return last?.type === "finish" ? last.reason : `no finish but ${last?.type}`;
};
test("greedy text is what Hugging Face transformers generates", async () => {
  const engine = await start();
  const { cases } = JSON.parse(readFileSync(join(goldenCheckpoints, "tiny-f32/golden.json"), "utf8")) as {
    cases: { ids: number[]; greedy: number[] }[];
  };
  for (const { ids, greedy: want } of cases) {
    if (ids.length + want.length <= context) assert.deepEqual(await text(engine, { prompt: ids, maxTokens: want.length }), want);
  }
});

describe("one request, many circumstances", () => {
  let engine: Engine;
  before(async () => {
    engine = await start({ codec: "iq4_nl" });
  });

  test("the text is the same alone, with random mates, and in small chunks", async () => {
    const chunked = await start({ codec: "iq4_nl", limits: { prefillChunkTokens: 3 } });
    const sampled = { temperature: 1, topP: 0.9, topK: 20, seed: 99n };
    const requests = [5, 2, 40, 1, 23, 64, 9].map((length, i) => ({ prompt: prompt(i, length), sampling: i % 2 === 0 ? greedy : sampled }));
    const alone: number[][] = [];
    for (const request of requests) alone.push(await text(engine, request));
    assert.ok(new Set(alone.map(String)).size > 3, "the prompts are different enough to tell");
    await fc.assert(
      fc.asyncProperty(
        fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6], { minLength: 2 }),
        fc.constantFrom(engine, chunked),
        async (chosen, on) => {
          const texts = await Promise.all(chosen.map((i) => text(on, requests[i]!)));
          assert.deepEqual(
            texts,
            chosen.map((i) => alone[i]),
          );
        },
      ),
      { numRuns: 12 },
    );
  });

  test("a replay cut anywhere goes on as the original, greedy and sampled", async () => {
    for (const sampling of [greedy, { temperature: 1.2, topP: 1, topK: 0, seed: 5n }]) {
      const request = { prompt: prompt(3, 21), maxTokens: 10, sampling };
      const want = await text(engine, request);
      for (const cut of [1, 4, 9]) {
        const events = await collect(engine, { ...request, replay: want.slice(0, cut) });
        assert.deepEqual(tokensOf(events), want.slice(cut));
        const first = events.find((event) => event.type === "token");
        assert.equal(first?.position, cut);
      }
    }
  });

  test("a prompt whose beginning was computed before gives the same text, and says how much was reused", async () => {
    const shared = prompt(8, 40);
    const fresh = await text(await start({ codec: "iq4_nl" }), { prompt: [...shared, 5, 6, 7] });
    await text(engine, { prompt: shared });
    const events = await collect(engine, { prompt: [...shared, 5, 6, 7] });
    assert.deepEqual(tokensOf(events), fresh);
    assert.equal(events[1]?.type === "started" && events[1].cachedPromptTokens, 40);
    for (const [cacheSalt, reused] of [
      ["a", 0],
      ["a", 42],
      ["b", 0],
    ] as const) {
      const salted = await collect(engine, { prompt: [...shared, 5, 6, 7], cacheSalt });
      assert.deepEqual(tokensOf(salted), fresh);
      assert.equal(salted[1]?.type === "started" && salted[1].cachedPromptTokens, reused, `salt ${cacheSalt}`);
    }
  });

  test("another seed gives another text", async () => {
    const texts = await Promise.all(
      [1n, 2n, 3n].map((seed) => text(engine, { prompt: prompt(2, 9), sampling: { temperature: 1.5, topP: 1, topK: 0, seed } })),
    );
    assert.equal(new Set(texts.map(String)).size, 3);
  });

  test("log-probabilities come when asked for", async () => {
    const events = await collect(engine, { prompt: prompt(1, 5), sampling: { ...greedy, logprobs: true } });
    for (const event of events) if (event.type === "token") assert.ok(event.logprob < 0 && event.logprob > -20);
  });

  test("an eos id ends the text", async () => {
    const want = await text(engine, { prompt: prompt(4, 9) });
    const eos = want[3]!;
    const events = await collect(engine, { prompt: prompt(4, 9), eos: [eos] });
    assert.deepEqual(tokensOf(events), want.slice(0, want.indexOf(eos) + 1));
    assert.equal(reason(events), "stop");
  });
});

describe("ends", () => {
  let engine: Engine;
  before(async () => {
    engine = await start({ limits: { queueRequestsMax: 3 } });
  });

  test("an aborted request finishes as cancelled and its slot is free again", async () => {
    const controller = new AbortController();
    const events: GenerateEvent[] = [];
    for await (const event of engine.generate({
      prompt: prompt(1, 4),
      maxTokens: 80,
      sampling: greedy,
      eos: [],
      signal: controller.signal,
    })) {
      events.push(event);
      if (events.length === 4) controller.abort();
    }
    assert.equal(reason(events), "cancelled");
    assert.ok(tokensOf(events).length < 80);
    assert.equal((await engine.stats()).slotsUsed, 0);
    assert.equal(reason(await collect(engine, { prompt: [1], signal: AbortSignal.abort() })), "cancelled");
  });

  test("a reader who leaves ends the request", async () => {
    for await (const event of engine.generate({ prompt: prompt(1, 4), maxTokens: 80, sampling: greedy, eos: [] }))
      if (event.type === "token") break;
    await text(engine, { prompt: prompt(2, 4), maxTokens: 2 });
    assert.equal((await engine.stats()).slotsUsed, 0);
    assert.deepEqual(engine.load(), { queuedTokens: 0, activeRequests: 0 });
  });

  test("the queue is bounded and what waits is still served", async () => {
    const results = await Promise.allSettled(Array.from({ length: 16 }, (_, i) => text(engine, { prompt: prompt(i, 30), maxTokens: 30 })));
    const refused = results.filter((result) => result.status === "rejected");
    assert.ok(refused.length >= 1 && refused.length <= 13, `${refused.length} refused`);
    for (const { reason: error } of refused as PromiseRejectedResult[]) assert.equal(error.code, "Busy");
    for (const result of results) if (result.status === "fulfilled") assert.equal(result.value.length, 30);
  });

  test("what does not fit is refused by name before it costs anything", async () => {
    await assert.rejects(text(engine, { prompt: prompt(1, context) }), { code: "ContextOverflow" });
    await assert.rejects(text(engine, { prompt: [] }), { code: "InvalidRequest", message: /prompt/ });
    await assert.rejects(text(engine, { prompt: [320] }), { code: "InvalidRequest", message: /token 320.*vocabulary of 320/ });
    await assert.rejects(text(engine, { prompt: [1], maxTokens: 0 }), { code: "InvalidRequest", message: /max_tokens/ });
    assert.equal((await text(engine, { prompt: [1], maxTokens: 3 })).length, 3);
  });

  test("draining hands open requests over and refuses new ones until it is taken back", async () => {
    const running = collect(engine, { prompt: prompt(1, 4), maxTokens: 85 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    await engine.drain(true);
    const events = await running;
    assert.equal(reason(events), "draining");
    await assert.rejects(text(engine, { prompt: [1] }), { code: "Draining" });
    await engine.drain(false);
    const want = await text(engine, { prompt: prompt(1, 4), maxTokens: 85 });
    assert.deepEqual(tokensOf(events), want.slice(0, tokensOf(events).length));
  });

  test("a model or pool that cannot be served is refused at start with the remedy", async () => {
    await assert.rejects(start({ kvPoolBytes: 1000 }), {
      code: "KvPoolTooSmall",
      message: /kvPool 1000 holds no request of maxContext \d+ tokens: raise it to at least 1Mi/,
    });
    await assert.rejects(start({ storeDir: join(root, "none") }), { code: "ModelNotFound" });
  });

  test("a closed engine answers with an error", async () => {
    const closed = await createEngine({
      storeDir,
      backend: "reference",
      codec: "f32",
      kvPoolBytes,
      maxContext: context,
      onDemand: nobodyElse,
    });
    await closed.close();
    await assert.rejects(text(closed, { prompt: [1] }), { code: "EngineStopped" });
    await assert.rejects(closed.stats(), { code: "EngineStopped" });
  });
});

/** Engines that ask each other, each hosting the experts that `home` gives it. */
async function ranks(
  count: number,
  home: (layer: number, expert: number) => number,
  options: Partial<EngineOptions> = {},
): Promise<Engine[]> {
  const all: Engine[] = [];
  const onDemand: OnDemandExperts = {
    run: async (frame) => {
      const host = all[frame.rank];
      if (!host) throw new Error(`no rank ${frame.rank}`);
      return host.runExperts(frame);
    },
  };
  for (let rank = 0; rank < count; rank++) all.push(await start({ onDemand, ...options }, (layer, expert) => home(layer, expert) === rank));
  const { layers, experts } = all[0]!.describe();
  for (const [rank, engine] of all.entries()) {
    const table = (layer: number) => ({
      layer,
      epoch: 1,
      hosts: Array.from({ length: experts }, (_, expert) => [home(layer, expert)]),
      weights: Array.from({ length: experts }, () => [1000]),
    });
    await engine.setRouting({ rank, layers: Array.from({ length: layers }, (_, layer) => table(layer)) });
  }
  return all;
}

describe("ranks", () => {
  const requests = [3, 50, 17, 1, 33].map((length, i) => ({ prompt: prompt(i, length), maxTokens: 14 }));

  test("three ranks that share the experts and all serve at once say what one says", async () => {
    const one = await start();
    const want: number[][] = [];
    for (const request of requests) want.push(await text(one, request));
    const three = await ranks(3, (layer, expert) => (expert + layer) % 3);
    const got = await Promise.all(requests.map((request, i) => text(three[i % 3]!, request)));
    assert.deepEqual(got, want);
    const routed = { prefill: 0, decode: 0 };
    const served = { prefill: 0, decode: 0 };
    const compute = { runs: 0, calls: 0, rows: 0, micros: 0 };
    for (const engine of three) {
      const counters = await engine.counters();
      for (const phase of ["prefill", "decode"] as const) {
        routed[phase] += counters[phase].routed.reduce((a, b) => a + b, 0);
        served[phase] += counters[phase].served.reduce((a, b) => a + b, 0);
        const { dense, experts } = counters[phase].seconds!;
        assert.ok(dense > 0 && experts > 0, `${phase}: ${dense} s and ${experts} s for experts`);
        for (const key of ["runs", "calls", "rows", "micros"] as const) compute[key] += counters[phase].compute[key];
      }
    }
    assert.deepEqual(served, routed, "every routed pair was served once");
    assert.equal(compute.rows, served.prefill + served.decode, "every row was computed in some batch");
    assert.ok(0 < compute.runs && compute.runs <= compute.calls && compute.calls <= compute.rows, JSON.stringify(compute));
    assert.ok(compute.micros > 0);
    const pairs = 2 * 2; // layers x top-k
    assert.equal(routed.prefill, pairs * requests.reduce((sum, request) => sum + request.prompt.length, 0));
    assert.equal(routed.decode, pairs * requests.length * (14 - 1));
    const { decode } = await three[0]!.counters();
    assert.equal(
      decode.routed.some((count) => count > 0),
      false,
      "counters start again",
    );
    assert.deepEqual(decode.seconds, { dense: 0, experts: 0 });
    assert.deepEqual([decode.compute.runs, ...decode.compute.squares, ...decode.compute.times], new Array(10).fill(0));
  });

  test("experts move while requests run, and the text stays", async () => {
    const one = await start();
    const request = { prompt: prompt(6, 20), maxTokens: 70 };
    const want = await text(one, request);
    const two = await ranks(2, () => 0);
    const running = Promise.all([text(two[0]!, request), text(two[1]!, request)]);
    const { layers, experts } = two[0]!.describe();
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) await two[1]!.loadExpert(layer, expert, await store.readUnit(layer, expert, "f32"));
      const moved = {
        layer,
        epoch: 2,
        hosts: Array.from({ length: experts }, () => [1]),
        weights: Array.from({ length: experts }, () => [1000]),
      };
      for (const [rank, engine] of two.entries()) await engine.setRouting({ rank, layers: [moved] });
      for (let expert = 0; expert < experts; expert++) await two[0]!.unloadExpert(layer, expert);
    }
    assert.deepEqual(await running, [want, want]);
    assert.deepEqual(two[0]!.hosted(), [[], []]);
    assert.deepEqual(two[1]!.hosted()[0], [0, 1, 2, 3]);
  });

  test("a frame for an expert that is not here names it", async () => {
    const engine = await start({}, (_, expert) => expert !== 2);
    const frame = {
      layer: 1,
      phase: "decode" as const,
      rows: new Float32Array(64),
      pairRows: Uint32Array.of(0, 0),
      pairExperts: Uint32Array.of(1, 2),
    };
    const error = await engine.runExperts(frame).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    assert.deepEqual(missingExperts(error), [2]);
    assert.equal((await engine.runExperts({ ...frame, pairExperts: Uint32Array.of(1, 0) })).length, 2 * 64);
    await assert.rejects(engine.runExperts({ ...frame, layer: 7 }), { code: "InvalidFrame" });
    await assert.rejects(engine.runExperts({ ...frame, pairRows: Uint32Array.of(0, 1) }), { code: "InvalidFrame" });
  });

  test("a request whose expert nobody can compute fails with that error, and the next one is served", async () => {
    let away = true;
    const one = await start();
    const onDemand: OnDemandExperts = {
      run: async (frame) => {
        if (away) throw new Error("rank 1 is away");
        return one.runExperts(frame);
      },
    };
    const engine = await start({ onDemand }, (layer) => layer === 0);
    await assert.rejects(text(engine, { prompt: prompt(1, 8) }), /rank 1 is away/);
    away = false;
    assert.deepEqual(await text(engine, { prompt: prompt(1, 8) }), await text(one, { prompt: prompt(1, 8) }));
  });

  test("rows are counted for whose tokens they are, those of this rank's own that came round by its main thread, too", async () => {
    const engine = await start();
    const frame = { layer: 0, phase: "decode", rows: new Float32Array(64), pairRows: Uint32Array.of(0, 0) } as const;
    await engine.runExperts({ ...frame, pairExperts: Uint32Array.of(1, 2), origin: "local" });
    await engine.runExperts({ ...frame, pairRows: Uint32Array.of(0), pairExperts: Uint32Array.of(1) });
    assert.deepEqual((await engine.stats()).rowsFor, { local: 2, remote: 1 });
  });

  test("a rank that waits for another still answers frames and loads experts", async () => {
    let release = (): void => {};
    const waiting = new Promise<void>((resolve) => {
      release = resolve;
    });
    const one = await start();
    const onDemand: OnDemandExperts = {
      run: async (frame) => {
        await waiting;
        return one.runExperts(frame);
      },
    };
    const engine = await start({ onDemand }, (_, expert) => expert === 0);
    const running = text(engine, { prompt: prompt(1, 8), maxTokens: 3 });
    const frame = {
      layer: 0,
      phase: "decode" as const,
      rows: new Float32Array(64),
      pairRows: Uint32Array.of(0),
      pairExperts: Uint32Array.of(0),
    };
    assert.equal((await engine.runExperts(frame)).length, 64);
    await engine.loadExpert(1, 3, await store.readUnit(1, 3, "f32"));
    assert.equal((await engine.runExperts({ ...frame, layer: 1, pairExperts: Uint32Array.of(3) })).length, 64);
    release();
    assert.equal((await running).length, 3);
  });
});

test("rows pass while a prompt is computed, and none while the hosts of experts refuse a rank that was left out", async () => {
  const host = await start({}, (_, expert) => expert % 2 === 1);
  let isLeft = false;
  const refused = () => Promise.reject(new AppError("rank 0 is no member", { code: "Unavailable" }));
  const onDemand: OnDemandExperts = { run: (frame) => (isLeft ? refused() : host.runExperts(frame)) };
  const rank = await start({ onDemand }, (_, expert) => expert % 2 === 0);
  const request = { prompt: prompt(3, 20), maxTokens: 70 };
  const want = await text(rank, request);
  const passed = rank.passed();
  assert.ok(passed > 0);
  const got: number[] = [];
  const streamed = (async () => {
    for await (const event of rank.generate({ sampling: greedy, eos: [], ...request })) {
      if (event.type !== "token") continue;
      got.push(event.id);
      if (got.length === 5) isLeft = true;
    }
  })();
  await until("its stream stands", async () => {
    const before = [got.length, rank.passed()];
    await new Promise((resolve) => setTimeout(resolve, 600));
    return isLeft && String(before) === String([got.length, rank.passed()]);
  });
  assert.ok(got.length < 70);
  isLeft = false;
  await streamed;
  assert.deepEqual(got, want);
});
