// A gateway before real workers (a stand-in engine computes): membership from peers, texts that survive a killed rank, and
// one trace from the client to the frames between ranks.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { InMemorySpanExporter, type ReadableSpan } from "@opentelemetry/sdk-trace";
import { metric } from "../../test/kit/gateway/gateway-host.ts";
import { letters } from "../../test/kit/gateway/letters.ts";
import { gatewayOfRanks } from "../../test/kit/gateway/local-gateway.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import { createTracing } from "../observe/trace.ts";
import type { Gateway, GatewayOverrides } from "./gateway.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
before(async () => {
  store = await tinyStore();
});
after(() => store.remove());

/** A gateway before three workers, whose real engines compute where `layerMs` is undefined. */
async function world(layerMs: number | undefined, overrides: GatewayOverrides = {}) {
  const engine = layerMs === undefined ? {} : { createEngine: doubleEngine(store.index, { layerMs }) };
  const ranks = new Ranks(store, () => ({ overrides: { ...engine, ...(overrides.tracing ? { tracing: overrides.tracing } : {}) } }));
  for (const rank of [0, 1, 2]) await ranks.launch(rank);
  await ranks.firstPlan();
  const gateway = await gatewayOfRanks(ranks, {}, { textModel: letters, ...overrides });
  return {
    ranks,
    gateway,
    close: async () => {
      await gateway.close(0);
      await ranks.close();
    },
  };
}

async function ask(
  gateway: Gateway,
  prompt: string,
  tokens: number,
  headers: Record<string, string> = {},
): Promise<{ text: string; failovers: number }> {
  const body = JSON.stringify({ model: "tiny", prompt, max_tokens: tokens, temperature: 0 });
  const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/completions`, { method: "POST", body, headers });
  const answer: any = await response.json();
  assert.equal(response.status, 200, JSON.stringify(answer));
  return { text: answer.choices[0].text, failovers: Number(response.headers.get("x-enodia-failovers")) };
}

test("a gateway that starts without the operator learns its workers from one of them, and serves", async () => {
  const { gateway, close } = await world(0);
  try {
    assert.equal(gateway.pool.membership()?.members.length, 3);
    assert.equal((await ask(gateway, "hello", 20)).text.length, 20);
  } finally {
    await close();
  }
});

test("texts are the same when the rank that makes them is killed, with its experts", async () => {
  const prompts = Array.from({ length: 6 }, (_, i) => `prompt ${i}`);
  const calm = await world(0);
  const want = await Promise.all(prompts.map(async (prompt) => (await ask(calm.gateway, prompt, 40)).text));
  await calm.close();
  assert.equal(new Set(want).size, prompts.length);

  const { ranks, gateway, close } = await world(2);
  try {
    const answers = Promise.all(prompts.map((prompt) => ask(gateway, prompt, 40)));
    await until("every rank is busy or some are", () =>
      [...ranks.byRank.values()].some(({ worker }) => worker.engine.load().activeRequests > 0),
    );
    await new Promise((resolve) => setTimeout(resolve, 80));
    const busiest = [...ranks.byRank.values()].sort(
      (a, b) => b.worker.engine.load().activeRequests - a.worker.engine.load().activeRequests,
    )[0]!;
    await ranks.kill(busiest.rank);
    const got = await answers;
    assert.deepEqual(
      got.map(({ text }) => text),
      want,
    );
    assert.ok(
      got.some(({ failovers }) => failovers > 0),
      "somebody's worker was killed",
    );
  } finally {
    await close();
  }
});

test("one trace leads from the client through gateway and worker to the frames between ranks", async () => {
  const exporter = new InMemorySpanExporter();
  const { gateway, close } = await world(undefined, { tracing: await createTracing({ service: "test", exporter }) });
  try {
    const traceId = "0af7651916cd43dd8448eb211c80319c";
    await ask(gateway, "hello", 12, { traceparent: `00-${traceId}-b7ad6b7169203331-01` });
    await ask(gateway, "another, untraced by its client", 3);
    await until("all spans ended", () => exporter.getFinishedSpans().filter((span) => span.name === "gateway.completions").length === 2);
    const spansOf = () => exporter.getFinishedSpans().filter((span) => span.spanContext().traceId === traceId);
    const way = (span: ReadableSpan, spans: readonly ReadableSpan[]): string[] => {
      const parent = spans.find((one) => one.spanContext().spanId === span.parentSpanContext?.spanId);
      return [...(parent ? way(parent, spans) : []), span.name];
    };
    const servedOf = (spans: readonly ReadableSpan[]) => spans.filter((span) => span.name === "experts.serve");
    // Ranks report the spans of frames with their counts, a few times a second.
    await until("experts of other ranks were asked", () => {
      const spans = spansOf();
      const served = servedOf(spans);
      return served.length > 0 && served.every((span) => way(span, spans).length === 5);
    });
    const spans = spansOf();
    const served = servedOf(spans);
    for (const span of served)
      assert.deepEqual(way(span, spans), [
        "gateway.completions",
        "worker.generate",
        "worker.generate",
        "experts.dispatch",
        "experts.serve",
      ]);
    const perStep = store.index.layers * 2;
    assert.ok(served.length <= 2 * perStep, `${served.length} spans: a trace holds the first steps only`);
    assert.deepEqual([...new Set(served.map((span) => span.attributes["enodia.result"]))], ["rows"]);
  } finally {
    await close();
  }
});

test("a prompt goes to the rank that tells of its beginning, whichever gateway asks", async () => {
  const { ranks, gateway, close } = await world(undefined);
  const other = await gatewayOfRanks(ranks, {}, { textModel: letters });
  try {
    const beginning = "It was a dark and stormy night. ".repeat(5);
    await ask(gateway, `${beginning}1`, 4);
    await until("the rank has told the other gateway", async () => {
      await ask(other, `${beginning}2`, 1);
      return (await metric(other, 'enodia_gateway_choices_total{by="prefix"')) > 0;
    });
    assert.equal(await metric(other, "enodia_gateway_found_tokens_total"), 128);
    const cached = await Promise.all([...ranks.byRank.values()].map(async ({ worker }) => (await worker.engine.stats()).cachedTokens));
    assert.ok(Math.max(...cached) >= 128, `${cached}`);
  } finally {
    await other.close(0);
    await close();
  }
});

test("the rows that ranks report add up to what the text needed", async () => {
  const { ranks, gateway, close } = await world(undefined);
  try {
    await ask(gateway, "0123456789", 20);
    const passes = 10 + 20 - 1; // the last token is not fed
    const want = passes * store.index.layers * store.index.topK;
    const rows = async (origin: string) => {
      let total = 0;
      for (const { worker } of ranks.byRank.values()) {
        const text = await worker.metrics.text();
        total += Number(new RegExp(`^enodia_expert_rows_total\\{[^}]*origin="${origin}"[^}]*\\} (\\d+)$`, "m").exec(text)?.[1]);
      }
      return total;
    };
    let seen = { local: 0, remote: 0 };
    for (let i = 0; i < 50 && seen.local + seen.remote < want; i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      seen = { local: await rows("local"), remote: await rows("remote") };
    }
    assert.equal(seen.local + seen.remote, want);
    assert.ok(seen.local > 0 && seen.remote > 0, JSON.stringify(seen));
  } finally {
    await close();
  }
});
