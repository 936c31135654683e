// Bytes that ranks send each other behind a gateway, by `enodia_dispatch_bytes_total`: with and without routing of conversations to the
// ranks that host their experts, and with free memory for replicas. The model is small, and its router knows topics.
import { parseArgs } from "node:util";
import { makePlan, planNear, policies } from "../../operator/planner/index.ts";
import type { PlanInput } from "../../operator/planner/policy.ts";
import { predictedWorst } from "../../operator/planner/replan.ts";
import { createEngine, type Engine, type EngineOptions, type GenerateRequest } from "../../runtime/engine/engine.ts";
import { sum as sumOf } from "../../runtime/placement/imbalance.ts";
import { openTextModel } from "../../runtime/text/text-thread.ts";
import { gatewayOfRanks } from "../kit/gateway/local-gateway.ts";
import { parse, sum } from "../kit/kube/scrape.ts";
import { plantedStore, plantedTopics } from "../kit/models/planted-topics.ts";
import { modelShape, planInput, rankSpec } from "../kit/planner/plan-input.ts";
import { Ranks } from "../kit/ranks/ranks.ts";
import { count, log } from "./serve.ts";

interface Case {
  /** Conversations are of one topic each, or of all. */
  readonly topics: boolean;
  readonly routing: boolean;
  /** Expert memory beside one replica of each expert, as a part of it. */
  readonly free: number;
}
const cases: readonly Case[] = [true, false].flatMap((topics) =>
  [0, 0.5].flatMap((free) => [false, true].map((routing) => ({ topics, routing, free }))),
);
const trigger = 1.1;
const [rankCount, clients, conversations, requests, codec, promptTokens, answerTokens] = [3, 12, 24, 48, "f32", 80, 8] as const;
type Store = Awaited<ReturnType<typeof plantedStore>>;
/** `cached`: the part of tokens that nobody computed. */
type Turn = { readonly perToken: number; readonly cached: number };

const draw = (i: number): number => (Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 24;

/** A conversation's prompts begin alike. */
function promptOf(i: number, topics: boolean): number[] {
  const conversation = Math.floor(draw(i) * conversations);
  return Array.from({ length: promptTokens }, (_, at) => {
    const own = conversation * 7919 + at * 131 + (at < promptTokens - 16 ? 0 : i * 7);
    const topic = topics ? conversation % plantedTopics : Math.floor(draw(at * 977 + own) * plantedTopics);
    return 30 + 3 * Math.floor(draw(own) * 90) + topic;
  });
}

/** An engine whose counts of its own tokens' choices are added up; it tells no hosts, unless gateways are to route by them. */
const counting = (routed: Float32Array, engines: Engine[], routing: boolean) => async (options: EngineOptions) => {
  const engine = await createEngine(options);
  const [read, generate] = [engine.counters.bind(engine), engine.generate.bind(engine)];
  engines.push(engine);
  return Object.assign(engine, {
    counters: async () => {
      const counters = await read();
      for (const phase of [counters.prefill, counters.decode])
        for (const [i, rows] of phase.routed.entries()) routed[i] = (routed[i] ?? 0) + rows;
      return counters;
    },
    async *generate(request: GenerateRequest) {
      for await (const event of generate(request)) yield event.type === "finish" && !routing ? { ...event, hosts: [] } : event;
    },
  });
};

/** The plan that the operator would make: for evenness above its trigger, else for rows that leave their rank. */
async function planned({ index }: Store, free: number, routedBy: readonly Float32Array[], current: PlanInput["current"]) {
  const cells = index.layers * index.experts;
  const budgetBytes = (cells / rankCount) * (1 + free) + 2;
  const load = Float64Array.from({ length: cells }, (_, i) => sumOf(routedBy.map((counts) => counts[i] ?? 0)));
  const ranks = Array.from({ length: rankCount }, (_, rank) => rankSpec(rank, { budgetBytes }));
  const input = planInput(modelShape(index.layers, index.experts), ranks, { load, current, gainPerMove: 1e-3 });
  if (predictedWorst(input, current ?? []) > trigger) return makePlan(policies.incremental, input);
  return planNear({ ...input, near: { sources: new Map(routedBy.entries()), evenTo: (1 + trigger) / 2 } });
}

/** Ranks from their start: windows of traffic with a plan after each, and a last one that is measured. */
async function turn(store: Store, { topics, routing, free }: Case, windows: number): Promise<Turn> {
  const routedBy = Array.from({ length: rankCount }, () => new Float32Array(store.index.layers * store.index.experts));
  const engines: Engine[] = [];
  const ranks = new Ranks(store, (rank) => ({
    ...{ codec, kvPoolBytes: 64 << 20 },
    overrides: { createEngine: counting(routedBy[rank] as Float32Array, engines, routing) },
  }));
  for (let rank = 0; rank < rankCount; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  const textModel = await openTextModel(store.dir);
  const gateway = await gatewayOfRanks(ranks, { maxContext: 256 }, { textModel });
  try {
    let [next, cached] = [0, 0];
    const request = async (): Promise<number> => {
      const body = { model: "tiny", prompt: promptOf(next++, topics), max_tokens: answerTokens, temperature: 0, ignore_eos: true };
      const asked = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/completions`, asked);
      if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
      const { usage } = (await response.json()) as { usage: { total_tokens: number; prompt_tokens_details?: { cached_tokens: number } } };
      cached += usage.prompt_tokens_details?.cached_tokens ?? 0;
      return usage.total_tokens;
    };
    const window = async (): Promise<number> => {
      const until = next + requests;
      const tokens: number[] = [];
      const client = async (): Promise<void> => {
        while (next < until) tokens.push(await request());
      };
      await Promise.all(Array.from({ length: clients }, client));
      for (const engine of engines) await engine.counters();
      return sumOf(tokens);
    };
    const sent = async (): Promise<number> => {
      const scraped = [...ranks.byRank.values()].map(async ({ worker }) =>
        sum(parse(await (await fetch(`http://127.0.0.1:${worker.metricsPort}/metrics`)).text()), "enodia_dispatch_bytes_total"),
      );
      return sumOf(await Promise.all(scraped));
    };
    for (let w = 0; w < windows; w++) {
      for (const counts of routedBy) counts.fill(0);
      await window();
      const { layers } = await planned(store, free, routedBy, ranks.plan?.layers);
      await ranks.carryOut(ranks.nextPlan(layers.map((each, layer) => ({ layer, epoch: 0, ...each }))));
    }
    const before = await sent();
    cached = 0;
    const tokens = await window();
    return { perToken: ((await sent()) - before) / tokens, cached: cached / tokens };
  } finally {
    await gateway.close(0);
    await ranks.close();
    await textModel.close();
  }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

export async function nearBench(args: readonly string[]): Promise<readonly object[]> {
  const { values } = parseArgs({ args: [...args], options: { runs: { type: "string" }, windows: { type: "string" } } });
  const windows = count("windows", values.windows ?? "3");
  const store = await plantedStore();
  try {
    const turns = cases.map((): Turn[] => []);
    for (let run = count("runs", values.runs ?? "5"); run > 0; run--)
      for (const [i, each] of cases.entries()) {
        const got = await turn(store, each, windows);
        turns[i]?.push(got);
        log(`${JSON.stringify(each)}: ${Math.round(got.perToken)} bytes a token, ${Math.round(100 * got.cached)}% cached`);
      }
    const bytes = turns.map((of) => of.map(({ perToken }) => perToken));
    return cases.map((each, i) => {
      const [own, plain] = [bytes[i], bytes[cases.findIndex(({ topics }) => topics === each.topics)]] as [number[], number[]];
      const span = `${Math.round(Math.min(...own))}-${Math.round(Math.max(...own))}`;
      const fewer = Math.round(1000 * (1 - median(own) / median(plain))) / 10;
      const cached = Math.round(100 * median(turns[i]?.map((of) => of.cached) ?? []));
      return { ...each, "bytes/token": Math.round(median(own)), "min-max": span, "fewer %": fewer, "cached %": cached };
    });
  } finally {
    store.remove();
  }
}
