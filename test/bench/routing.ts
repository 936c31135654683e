// Requests through real gateways to three ranks in processes, by policy: prompts that share a beginning, chats, agents, and prompts that
// share nothing. Policies take turns, with other texts for each, over the same ranks; no rank holds all that a workload repeats.

import { type RoutingPolicyName, routingPolicyNames } from "../../crds/names.ts";
import { kvPositionBytes } from "../../runtime/compute/kv-size.ts";
import { programOf } from "../../runtime/models/index.ts";
import { openTextModel } from "../../runtime/text/text-thread.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { gatewayOfRanks } from "../kit/gateway/local-gateway.ts";
import { RankProcesses } from "./ranks/processes.ts";
import { count, log, prompt, readArgs } from "./serve.ts";
import { median } from "./speed-rows.ts";

const rankCount = 3;
const maxContext = 1_280;
/** Of a rank, in tokens: two whole contexts. */
const poolTokens = 2 * maxContext;
const firstTokenMost = 0.2;
const spreadMost = 1.2;
/** Times of a busy machine differ so much. */
const rateLeast = 0.95;

interface Turn {
  readonly prompt: readonly number[];
  readonly tokens: number;
}
/** Turns that come one after another. */
type Session = readonly Turn[];

interface Workload {
  readonly name: string;
  /** Sessions at once. */
  readonly clients: number;
  readonly sessions: (text: (tokens: number) => number[]) => Session[];
}

const times = <T>(count: number, of: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => of(i));

/** A session whose prompts each begin with the one before. */
function growing(beginning: readonly number[], more: readonly (readonly number[])[], tokens: number): Session {
  let whole = beginning;
  return more.map((part) => {
    whole = [...whole, ...part];
    return { prompt: whole, tokens };
  });
}

const workloads: readonly Workload[] = [
  {
    name: "6 shared beginnings of 512 tokens",
    clients: 6,
    sessions: (text) => {
      const beginnings = times(6, () => text(512));
      return times(36, (i) => [{ prompt: [...(beginnings[(i * 5 + (i >> 2)) % 6] as number[]), ...text(32)], tokens: 8 }]);
    },
  },
  {
    name: "9 chats of 4 turns",
    clients: 6,
    sessions: (text) =>
      times(9, () =>
        growing(
          text(64),
          times(4, () => text(96)),
          12,
        ),
      ),
  },
  {
    name: "6 agents of 4 calls, tools of 256 tokens",
    clients: 6,
    sessions: (text) => {
      const tools = text(256);
      return times(6, () =>
        growing(
          [...tools, ...text(32)],
          times(4, () => text(112)),
          8,
        ),
      );
    },
  },
  { name: "18 prompts of 320 that share nothing", clients: 6, sessions: (text) => times(18, () => [{ prompt: text(320), tokens: 8 }]) },
];

interface Asked {
  readonly firstMs: number;
  readonly prompt: number;
  readonly cached: number;
}

async function ask(url: string, { prompt: ids, tokens }: Turn): Promise<Asked> {
  const stream = { stream: true, stream_options: { include_usage: true } };
  const body = { model: "tiny", prompt: ids, max_tokens: tokens, temperature: 0, ignore_eos: true, ...stream };
  const [from, decoder] = [performance.now(), new TextDecoder()];
  const response = await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok || response.body === null) throw new Error(`${response.status}: ${await response.text()}`);
  let [firstMs, came] = [0, ""];
  for await (const bytes of response.body) {
    if (firstMs === 0) firstMs = performance.now() - from;
    came += decoder.decode(bytes, { stream: true });
  }
  const last = came.split("\n").findLast((line) => line.startsWith("data: {")) ?? "";
  const { usage } = JSON.parse(last.slice("data: ".length));
  return { firstMs, prompt: usage.prompt_tokens, cached: usage.prompt_tokens_details.cached_tokens };
}

interface Measured {
  readonly found: number;
  readonly firstMs: number;
  readonly tokensPerSecond: number;
  readonly spread: number;
}

async function measure(url: string, { clients, sessions }: Workload, ranks: RankProcesses, vocab: number): Promise<Measured> {
  const left = sessions((tokens) => prompt(tokens, vocab));
  const generated = left.flat().reduce((sum, { tokens }) => sum + tokens, 0);
  const asked: Asked[] = [];
  const cpu = async (): Promise<number[]> => {
    await ranks.used();
    return [...ranks.spent.values()].map(({ cpu: ms }) => ms);
  };
  const [before, from] = [await cpu(), performance.now()];
  const client = async (): Promise<void> => {
    for (let session = left.shift(); session !== undefined; session = left.shift())
      for (const turn of session) asked.push(await ask(url, turn));
  };
  await Promise.all(times(clients, client));
  const seconds = (performance.now() - from) / 1000;
  const used = (await cpu()).map((ms, rank) => ms - (before[rank] as number));
  const total = (of: (one: Asked) => number): number => asked.reduce((sum, one) => sum + of(one), 0);
  const tokens = total((one) => one.prompt);
  return {
    found: total(({ cached }) => cached) / tokens,
    firstMs: median(asked.map(({ firstMs }) => firstMs)),
    tokensPerSecond: (tokens + generated) / seconds,
    spread: (Math.max(...used) * rankCount) / used.reduce((a, b) => a + b, 0),
  };
}

interface RoutingRow {
  readonly workload: string;
  readonly policy: RoutingPolicyName;
  readonly foundPercent: number;
  readonly firstTokenMs: number;
  readonly tokensPerSecond: number;
  /** CPU time of the busiest rank, as a multiple of the mean. */
  readonly spread: number;
  /** Of the first token and of tokens/s, as multiples of round robin's. */
  readonly firstToken: number;
  readonly rate: number;
  readonly ok?: boolean;
}

type Figures = Readonly<Record<RoutingPolicyName, Measured>>;

function routingRows(workload: string, figures: Figures, shares: { readonly first: boolean; readonly last: boolean }): RoutingRow[] {
  const turns = figures.RoundRobin;
  return routingPolicyNames.map((policy) => {
    const { found, firstMs, tokensPerSecond, spread } = figures[policy];
    const [firstToken, rate] = [firstMs / turns.firstMs, tokensPerSecond / turns.tokensPerSecond];
    const reaches = (!shares.first || firstToken <= firstTokenMost) && (!shares.last || rate >= rateLeast) && spread <= spreadMost;
    const round = (value: number, digits = 2): number => Number(value.toFixed(digits));
    return {
      ...{ workload, policy, foundPercent: round(100 * found, 0), firstTokenMs: round(firstMs, 0) },
      ...{ tokensPerSecond: round(tokensPerSecond, 0), spread: round(spread), firstToken: round(firstToken), rate: round(rate) },
      ...(policy === "PrefixAware" ? { ok: reaches } : {}),
    };
  });
}

function middle(all: readonly Measured[]): Measured {
  const of = (part: keyof Measured): number => median(all.map((one) => one[part]));
  return { found: of("found"), firstMs: of("firstMs"), tokensPerSecond: of("tokensPerSecond"), spread: of("spread") };
}

export async function routingBench(args: readonly string[]): Promise<readonly RoutingRow[]> {
  const asked = await readArgs(["--runs", "1", ...args], ["workloads"]);
  const numbers = (asked.own.workloads ?? "1,2,3,4").split(",").map((text) => count("workloads", text));
  const chosen = workloads.filter((_, i) => numbers.includes(i + 1));
  const store = await openStore(asked.storeDir);
  const program = programOf(store.config);
  const { vocab } = program;
  const kvPoolBytes = poolTokens * kvPositionBytes({ ...program, layers: program.layers.length, context: maxContext });
  await store.close();
  const compute = { backend: asked.backend, codec: asked.codec, threads: 1, maxContext, kvPoolBytes, cpus: undefined };
  const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, rankCount, { ...compute, copies: rankCount });
  await using opened = new AsyncDisposableStack();
  opened.defer(() => ranks.close());
  const textModel = await openTextModel(asked.storeDir);
  opened.defer(() => textModel.close());
  const urls = new Map<RoutingPolicyName, string>();
  for (const routing of routingPolicyNames) {
    const gateway = await gatewayOfRanks(ranks, { routing, maxContext }, { textModel });
    opened.defer(() => gateway.close(0));
    urls.set(routing, `http://127.0.0.1:${gateway.httpPort}`);
  }
  const all = new Map<string, Measured[]>();
  for (const url of urls.values()) await Promise.all(times(2 * rankCount, () => ask(url, { prompt: prompt(128, vocab), tokens: 4 })));
  for (let run = 0; run < asked.runs; run++)
    for (const workload of chosen)
      for (const [turn] of routingPolicyNames.entries()) {
        const policy = routingPolicyNames[(turn + run) % routingPolicyNames.length] as RoutingPolicyName;
        const measured = await measure(urls.get(policy) as string, workload, ranks, vocab);
        const key = `${workload.name} ${policy}`;
        all.set(key, [...(all.get(key) ?? []), measured]);
        log(`${key}: ${JSON.stringify(measured)}`);
      }
  return chosen.flatMap((workload) => {
    const { name } = workload;
    const of = (policy: RoutingPolicyName): Measured => middle(all.get(`${name} ${policy}`) ?? []);
    const figures = { PrefixAware: of("PrefixAware"), LoadAware: of("LoadAware"), RoundRobin: of("RoundRobin") };
    return routingRows(name, figures, { first: workload === workloads[0], last: workload === workloads.at(-1) });
  });
}
