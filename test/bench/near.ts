// Bytes that ranks send each other behind a gateway, by `enodia_dispatch_bytes_total`: with and without routing of conversations to the
// ranks that host their experts, with free memory for replicas, and with plans that fill it near tokens. The operator's own decisions
// place the experts, window by window; what is measured comes after them. The model is small, and its router knows topics.
import { parseArgs } from "node:util";
import { createEngine, type Engine, type EngineOptions, type GenerateRequest } from "../../runtime/engine/engine.ts";
import { sum as sumOf } from "../../runtime/placement/imbalance.ts";
import { openTextModel } from "../../runtime/text/text-thread.ts";
import { gatewayOfRanks } from "../kit/gateway/local-gateway.ts";
import { parse, sum } from "../kit/kube/scrape.ts";
import { plantedStore, plantedTopics } from "../kit/models/planted-topics.ts";
import { LoadLoop } from "../kit/planner/load-loop.ts";
import { modelShape, rankSpec } from "../kit/planner/plan-input.ts";
import { Ranks } from "../kit/ranks/ranks.ts";
import { count, log } from "./serve.ts";

interface Case {
  /** Conversations are of one topic each, or of all. */
  readonly topics: boolean;
  readonly routing: boolean;
  /** Expert memory beside one replica of each expert, as a part of it. */
  readonly free: number;
  /** Plans also fill free memory with replicas near tokens. */
  readonly near: boolean;
}
const noMemory: Case = { topics: true, routing: false, free: 0, near: false };
const cases: readonly [Case, ...Case[]] = [
  noMemory,
  { ...noMemory, routing: true },
  ...[false, true].flatMap((routing) => [false, true].map((near) => ({ ...noMemory, routing, free: 0.5, near }))),
  ...[false, true].map((near) => ({ topics: false, routing: true, free: 0.5, near })),
];
/** `clients` are the open requests. */
const [rankCount, clients, conversations, measuredRounds, codec] = [3, 6, 12, 12, "f32"] as const;
const [promptTokens, alikeTokens, answerTokens] = [80, 32, 8] as const;
type Store = Awaited<ReturnType<typeof plantedStore>>;
interface Turn {
  /** Bytes of a token that somebody computed. */
  readonly perToken: number;
  readonly perSecond: number;
  /** Microseconds of processors, of ranks, gateway and clients together, for a token that somebody computed. */
  readonly cpuMicros: number;
  /** The part of tokens that nobody computed. */
  readonly cached: number;
  readonly plans: readonly string[];
}

const draw = (i: number): number => (Math.imul(i + 1, 0x9e3779b1) >>> 8) / 2 ** 24;

/** Each round asks every conversation once; its prompts begin alike. */
function promptOf(i: number, topics: boolean): number[] {
  const conversation = (7 * i + 5 * Math.floor(i / conversations)) % conversations;
  return Array.from({ length: promptTokens }, (_, at) => {
    const own = conversation * 7919 + at * 131 + (at < alikeTokens ? 0 : (i + 1) * 7_919_001);
    const topic = topics ? conversation % plantedTopics : Math.floor(draw(at * 977 + own) * plantedTopics);
    return 30 + 3 * Math.floor(draw(own) * 90) + topic;
  });
}

/** An engine whose counts of its own tokens' choices are added up; it tells no hosts, unless gateways are to route by them. */
const counting = (routed: Uint32Array, engines: Engine[], routing: boolean) => async (options: EngineOptions) => {
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

/** Ranks from their start: windows of traffic, each followed by the plan that the operator would make, and then those that are measured. */
async function turn(store: Store, { topics, routing, free, near }: Case, windows: number): Promise<Turn> {
  const { layers, experts } = store.index;
  const cells = layers * experts;
  const routedBy = Array.from({ length: rankCount }, () => new Uint32Array(cells));
  const engines: Engine[] = [];
  const ranks = new Ranks(store, (rank) => ({
    ...{ codec, kvPoolBytes: 64 << 20 },
    overrides: { createEngine: counting(routedBy[rank] as Uint32Array, engines, routing) },
  }));
  for (let rank = 0; rank < rankCount; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  const budgetBytes = (cells / rankCount) * (1 + free) + 2;
  const specs = Array.from({ length: rankCount }, (_, rank) => rankSpec(rank, { budgetBytes }));
  const loop = new LoadLoop(modelShape(layers, experts), specs, ranks.plan?.layers ?? [], { near });
  const textModel = await openTextModel(store.dir);
  const gateway = await gatewayOfRanks(ranks, { maxContext: 256 }, { textModel });
  try {
    let [next, tokens, cached] = [0, 0, 0];
    const request = async (): Promise<void> => {
      const body = { model: "tiny", prompt: promptOf(next++, topics), max_tokens: answerTokens, temperature: 0, ignore_eos: true };
      const asked = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/completions`, asked);
      if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
      const { usage } = (await response.json()) as { usage: { total_tokens: number; prompt_tokens_details?: { cached_tokens: number } } };
      tokens += usage.total_tokens;
      cached += usage.prompt_tokens_details?.cached_tokens ?? 0;
    };
    const traffic = async (rounds: number): Promise<void> => {
      const until = next + rounds * conversations;
      const client = async (): Promise<void> => {
        while (next < until) await request();
      };
      await Promise.all(Array.from({ length: clients }, client));
    };
    const sent = async (): Promise<number> => {
      const scraped = [...ranks.byRank.values()].map(async ({ worker }) =>
        sum(parse(await (await fetch(`http://127.0.0.1:${worker.metricsPort}/metrics`)).text()), "enodia_dispatch_bytes_total"),
      );
      return sumOf(await Promise.all(scraped));
    };
    for (let w = 0; w < windows; w++) {
      for (const counts of routedBy) counts.fill(0);
      await traffic(1);
      for (const engine of engines) await engine.counters();
      const isNew = await loop.window((rank) => routedBy[rank] as Uint32Array);
      if (isNew) await ranks.carryOut(ranks.nextPlan(loop.layers.map((each, layer) => ({ layer, epoch: 0, ...each }))));
    }
    [tokens, cached] = [0, 0];
    const [before, from, cpu] = [await sent(), performance.now(), process.cpuUsage()];
    await traffic(measuredRounds);
    const seconds = (performance.now() - from) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    const computed = tokens - cached;
    const perToken = ((await sent()) - before) / computed;
    return { perToken, cpuMicros: (user + system) / computed, perSecond: tokens / seconds, cached: cached / tokens, plans: loop.reasons };
  } finally {
    await gateway.close(0);
    await ranks.close();
    await textModel.close();
  }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

export async function nearBench(args: readonly string[]): Promise<readonly object[]> {
  const options = { runs: { type: "string" }, windows: { type: "string" }, cases: { type: "string" } } as const;
  const { values } = parseArgs({ args: [...args], options });
  const windows = count("windows", values.windows ?? "26");
  const chosen = values.cases === undefined ? cases : values.cases.split(",").map((i) => cases[count("cases", i) - 1] ?? cases[0]);
  const store = await plantedStore();
  try {
    const turns = chosen.map((): Turn[] => []);
    for (let run = count("runs", values.runs ?? "5"); run > 0; run--)
      for (const [i, each] of chosen.entries()) {
        const from = performance.now();
        const got = await turn(store, each, windows);
        turns[i]?.push(got);
        const { perToken, perSecond, cpuMicros, cached, plans } = got;
        const bytes = `${Math.round(perToken)} bytes a token, ${Math.round(perSecond)} tokens/s, ${Math.round(cpuMicros)} us of CPU, ${Math.round(100 * cached)}% cached`;
        log(`${JSON.stringify(each)}: ${bytes}; ${plans.join(", ")}; ${Math.round((performance.now() - from) / 1000)} s`);
      }
    const spread = (of: readonly number[]): string => `${Math.round(Math.min(...of))}-${Math.round(Math.max(...of))}`;
    return chosen.map((each, i) => {
      const own = turns[i] ?? [];
      const [bytes, speeds] = [own.map(({ perToken }) => perToken), own.map(({ perSecond }) => perSecond)];
      const rowsAway = median(own.map(({ plans }) => plans.filter((reason) => reason === "RowsAway").length));
      const said = { "bytes/token": Math.round(median(bytes)), "min-max": spread(bytes) };
      const cpu = { "CPU us/token": Math.round(median(own.map(({ cpuMicros }) => cpuMicros))) };
      const speed = { "tokens/s": Math.round(median(speeds)), "tokens/s min-max": spread(speeds) };
      return {
        ...each,
        ...said,
        ...speed,
        ...cpu,
        "cached %": Math.round(100 * median(own.map(({ cached }) => cached))),
        "near plans": rowsAway,
      };
    });
  } finally {
    store.remove();
  }
}
