// Tokens/s of several ranks, each a process under an equal share of the CPUs, beside one rank that has them all: what the wire and the
// splitting of the work cost. Every layout is started anew in each round and answers the same cases, through the real TLS wire on
// loopback.
import { availableParallelism } from "node:os";
import { codecsOf } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { RankProcesses, type RankSettings, type Used } from "./ranks/processes.ts";
import { quotaGroup, removeLeftGroups } from "./ranks/quota.ts";
import { type RankFigures, type RankRow, rankRow } from "./ranks/rows.ts";
import { type Layout, layoutsOf, layoutsOfOwn, sharesOf } from "./ranks/shares.ts";
import { type Asked, count, invalid, log, prompt, readArgs } from "./serve.ts";
import { togetherRate } from "./speed-rows.ts";

const promptTokens = 8;
/** Texts that every rank generates before anything is timed: V8 compiles the way over the wire only once it has run for a while. */
const warmup = { texts: 2, tokens: 64 };
const prefillTokens = 512;
const maxContext = 640;
const kvPoolBytes = 2 ** 30;

interface Case {
  readonly name: string;
  readonly streams: number;
  /** Of one stream: so many that the first has not come to its end when the last one begins. */
  readonly tokens: number;
  readonly least: number | undefined;
  /** Of three ranks that each have as much as the one. */
  readonly leastOfOwn?: number;
}
const cases: readonly Case[] = [
  { name: "1 stream", streams: 1, tokens: 64, least: 0.45 },
  { name: "8 streams", streams: 8, tokens: 64, least: 0.6, leastOfOwn: 1.8 },
  { name: "32 streams", streams: 32, tokens: 128, least: 0.6, leastOfOwn: 1.8 },
];
const prefillCase: Case = { name: `prefill, ${prefillTokens} tokens`, streams: 1, tokens: 1, least: undefined };

function quotasWork(): boolean {
  removeLeftGroups();
  const tried = quotaGroup(`${process.pid}-try`, 1);
  if ("reason" in tried) {
    log(`no quotas: ${tried.reason}`);
    return false;
  }
  tried.remove();
  return true;
}

async function decodeRate(ranks: RankProcesses, { streams, tokens }: Pick<Case, "streams" | "tokens">, vocab: number): Promise<number> {
  return togetherRate(
    await Promise.all(
      Array.from({ length: streams }, async (_, i) => {
        const at: number[] = [];
        await ranks.text([i % ranks.byRank.size], prompt(promptTokens, vocab), tokens, () => at.push(performance.now()));
        return at;
      }),
    ),
  );
}

async function prefillRate(ranks: RankProcesses, vocab: number): Promise<number> {
  const start = performance.now();
  await ranks.text([0], prompt(prefillTokens, vocab), 1);
  return (prefillTokens * 1000) / (performance.now() - start);
}

async function figuresOf(ranks: RankProcesses, tokens: number, rate: () => Promise<number>): Promise<RankFigures> {
  const before = await ranks.used();
  const tokensPerSecond = await rate();
  const after = await ranks.used();
  const each = (part: keyof Used): number => (after[part] - before[part]) / tokens;
  return {
    ...{ tokensPerSecond, bytesPerToken: each("bytes"), cpuMsPerToken: each("cpu") },
    rowsAtOnce: (after.rows - before.rows) / Math.max(1, after.calls - before.calls),
    ...{ denseMsPerToken: each("dense"), expertsMsPerToken: each("computed"), awaitedMsPerToken: each("experts") },
  };
}

type Figures = Map<string, RankFigures[]>;
const keyOf = (layout: Layout, { name }: Case): string => `${layout.name}: ${name}`;

/** One layout from its start to its end. */
async function measure(layout: Layout, asked: Asked, store: Awaited<ReturnType<typeof openStore>>, figures: Figures): Promise<void> {
  const copies = Math.min(layout.ranks, count("copies", asked.own.copies ?? "1"));
  const settings: RankSettings = {
    ...{ backend: asked.backend, codec: asked.codec, maxContext, kvPoolBytes, cpus: layout.cpus, copies },
    threads: layout.ranks === 1 && asked.own.quota === undefined ? (asked.threads.at(-1) ?? 1) : 1,
  };
  const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, layout.ranks, settings);
  const vocab = (store.config as { vocab_size: number }).vocab_size;
  const keep = (which: Case, got: RankFigures): void => {
    figures.set(keyOf(layout, which), [...(figures.get(keyOf(layout, which)) ?? []), got]);
    log(`${keyOf(layout, which)}: ${got.tokensPerSecond.toFixed(1)} tokens/s`);
  };
  try {
    await decodeRate(ranks, { streams: warmup.texts * layout.ranks, tokens: warmup.tokens }, vocab);
    for (const each of cases) {
      const tokens = each.streams * (promptTokens + each.tokens);
      keep(each, await figuresOf(ranks, tokens, () => decodeRate(ranks, each, vocab)));
    }
    keep(prefillCase, await figuresOf(ranks, prefillTokens, () => prefillRate(ranks, vocab)));
  } finally {
    await ranks.close();
  }
}

export async function ranksBench(args: readonly string[]): Promise<readonly RankRow[]> {
  const asked = await readArgs(args, ["ranks", "cpus", "quota", "copies"]);
  const { counts, cpus, quota } = sharesOf(asked.own, availableParallelism());
  const quotas = quotasWork();
  if (quota !== undefined && !quotas) throw invalid("--quota: no cgroup takes a quota here");
  const layouts = quota === undefined ? layoutsOf(counts, cpus, quotas) : layoutsOfOwn(counts, quota);
  const store = await openStore(asked.storeDir);
  const figures: Figures = new Map();
  try {
    log("llama.cpp over processes is left out: the package that it comes in has no RPC backend");
    log(`codec ${asked.codec} of ${codecsOf(store.index).join(", ")}; ${asked.runs} rounds of ${layouts.length} layouts`);
    for (let run = 0; run < asked.runs; run++) for (const layout of layouts) await measure(layout, asked, store, figures);
  } finally {
    await store.close();
  }
  const one = layouts[0] as Layout;
  return [...cases, prefillCase].flatMap((each) =>
    layouts.map((layout) =>
      rankRow({
        ...{ ranks: layout.name, name: each.name, streams: each.streams },
        least: quota === undefined ? each.least : layout.ranks === 3 ? each.leastOfOwn : undefined,
        figures: figures.get(keyOf(layout, each)) ?? [],
        beside: layout === one ? [] : (figures.get(keyOf(one, each)) ?? []),
      }),
    ),
  );
}
