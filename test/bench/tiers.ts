// Tokens/s of ranks whose memory holds a share of their experts, beside the same ranks with all, and beside llama.cpp under the same limit
// of memory: page cache counts, files are read anew, and the disk may be slowed down for both alike.
import { join } from "node:path";
import { defaultPrefetch, prefetchModes } from "../../crds/prefetch.ts";
import type { WorkerSettings } from "../../crds/process.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { storeGguf } from "./llama/gguf.ts";
import { Peer } from "./llama/peer.ts";
import { dropFromCache, type MemoryGroup, memoryGroup } from "./ranks/memory-limit.ts";
import { RankProcesses, type RankSettings, type Used } from "./ranks/processes.ts";
import { type Asked, count, expertBytesOf, invalid, log, prompt, readArgs } from "./serve.ts";
import { median, round, togetherRate } from "./speed-rows.ts";

const promptTokens = 8;
const maxContext = 256;
const kvPoolBytes = 2 ** 27;
/** What a rank has beside experts, the dense part and KV: the process, graphs, two experts on their way. */
const processBytes = 600 * 2 ** 20;
const cases = [
  { name: "1 stream", streams: 1, tokens: 48 },
  { name: "8 streams", streams: 8, tokens: 16 },
] as const;
/** Steps of llama.cpp's before those that are timed, and those: each may take seconds. */
const peerSteps = { before: 4, timed: 12 };
/** Of llama.cpp's tokens/s, on one rank with memory for half. */
const least = { percent: 50, ratio: 1.5 };

interface Figures {
  readonly rate: number;
  readonly misses: number;
  readonly megabytes: number;
  readonly stallMs: number;
  readonly peakBytes: number;
  readonly peer: number | undefined;
}

interface Setting {
  readonly ranks: number;
  readonly percent: number;
  readonly prefetch: WorkerSettings["prefetch"];
}

interface Bench {
  readonly asked: Asked;
  readonly store: Awaited<ReturnType<typeof openStore>>;
  readonly file: string | undefined;
  readonly disk: number | undefined;
  readonly figures: Map<string, Figures[]>;
}

const list = (name: string, text: string): number[] => text.split(",").map((each) => count(name, each));
const keyOf = ({ ranks, percent, prefetch }: Setting, name: string): string => `${ranks} ${percent} ${prefetch} ${name}`;

function modeOf(text: string): WorkerSettings["prefetch"] {
  const mode = prefetchModes.find((each) => each === text);
  if (mode === undefined) throw invalid(`--prefetch: ${prefetchModes.join(", ")}`);
  return mode;
}

export async function tiersBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["ranks", "shares", "disk", "prefetch"]);
  const { ranks = "1", shares = "100,75,50,35", disk, prefetch = defaultPrefetch } = asked.own;
  const modes = prefetch.split(",").map(modeOf);
  const settings = list("ranks", ranks).flatMap((each) =>
    list("shares", shares).flatMap((percent) => modes.map((mode) => ({ ranks: each, percent, prefetch: mode }))),
  );
  if (settings.some(({ percent }) => percent > 100)) throw invalid("--shares: percents of the experts' bytes, up to 100");
  const tried = memoryGroup(`${process.pid}-try`, { bytes: 2 ** 30 });
  if ("reason" in tried) log(`no limits of memory, and no llama.cpp: ${tried.reason}`);
  else tried.remove();
  const store = await openStore(asked.storeDir);
  const alone = asked.alone || "reason" in tried;
  const file = alone ? undefined : await (asked.gguf?.() ?? storeGguf(store, asked.codec));
  const bench: Bench = { asked, store, file, disk: disk === undefined ? undefined : count("disk", disk), figures: new Map() };
  try {
    for (let run = 0; run < asked.runs; run++) for (const setting of settings) await measure(bench, setting, !("reason" in tried));
  } finally {
    await store.close();
  }
  return cases.flatMap(({ name, streams }) => settings.map((setting) => rowOf(bench, setting, { name, streams })));
}

/** One setting from its start to its end, llama.cpp behind it with the same texts. */
async function measure(bench: Bench, setting: Setting, limited: boolean): Promise<void> {
  const { asked, store, figures } = bench;
  const texts = new Map<string, number[][]>();
  const ours = new Map<string, Omit<Figures, "peer">>();
  const groups = Array.from({ length: limited ? setting.ranks : 0 }, (_, rank) => groupOf(bench, setting, `${rank}`));
  for (const { file } of Object.values(store.index.codecs)) if (file !== undefined) dropFromCache(join(asked.storeDir, file));
  dropFromCache(join(asked.storeDir, "dense.safetensors"));
  const { ranks, percent, prefetch } = setting;
  const settings: RankSettings = {
    ...{ backend: asked.backend, codec: asked.codec, maxContext, kvPoolBytes, cpus: undefined, share: percent / 100, prefetch },
    threads: ranks === 1 ? (asked.threads.at(-1) ?? 1) : 1,
    joins: (rank, pid) => groups[rank]?.join(pid),
  };
  const processes = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, ranks, settings);
  try {
    await textsOf(processes, cases[0], vocabOf(bench));
    for (const each of cases) {
      const before = await processes.used();
      const came = await textsOf(processes, each, vocabOf(bench));
      texts.set(each.name, came.texts);
      const after = await processes.used();
      const peakBytes = Math.max(...groups.map((group) => group.peakBytes()));
      ours.set(each.name, { ...ownFigures(before, after, each.streams * (promptTokens + each.tokens)), rate: came.rate, peakBytes });
      const said = JSON.stringify(ours.get(each.name));
      log(`${ranks} ranks, ${percent}%, ${prefetch}, ${each.name}: ${came.rate.toFixed(2)} tokens/s, ${said}`);
    }
  } finally {
    await processes.close();
    for (const group of groups) group.remove();
  }
  const peers = ranks === 1 && bench.file !== undefined ? await peerRates(bench, setting, bench.file, texts) : undefined;
  for (const [name, own] of ours) {
    const key = keyOf(setting, name);
    figures.set(key, [...(figures.get(key) ?? []), { ...own, peer: peers?.get(name) }]);
  }
}

const vocabOf = ({ store }: Bench): number => (store.config as { vocab_size: number }).vocab_size;

function groupOf({ asked, store, disk }: Bench, { ranks, percent }: Setting, name: string): MemoryGroup {
  const experts = (expertBytesOf(store.index, asked.codec) * percent) / 100 / ranks;
  const bytes = Math.ceil(experts + store.denseBytes(16) + kvPoolBytes + processBytes);
  const reads = disk === undefined ? {} : { reads: { bytesPerSecond: disk * 1e6, path: join(asked.storeDir, "config.json") } };
  const group = memoryGroup(`${process.pid}-${name}`, { bytes, ...reads });
  if ("reason" in group) throw invalid(group.reason);
  return group;
}

async function textsOf(ranks: RankProcesses, { streams, tokens }: { readonly streams: number; readonly tokens: number }, vocab: number) {
  const came = await Promise.all(
    Array.from({ length: streams }, async (_, i) => {
      const at: number[] = [];
      const ids = prompt(promptTokens, vocab);
      const text = await ranks.text([i % ranks.byRank.size], ids, tokens, () => at.push(performance.now()));
      return { at, text: [...ids, ...text] };
    }),
  );
  return { rate: togetherRate(came.map(({ at }) => at)), texts: came.map(({ text }) => text) };
}

function ownFigures(before: Used, after: Used, tokens: number) {
  const each = (part: "loads" | "loadedBytes" | "stalled"): number => (after[part] - before[part]) / tokens;
  return { misses: each("loads"), megabytes: each("loadedBytes") / 1e6, stallMs: each("stalled") };
}

async function peerRates(bench: Bench, setting: Setting, path: string, texts: ReadonlyMap<string, number[][]>) {
  const group = groupOf(bench, setting, "peer");
  dropFromCache(path);
  const threads = bench.asked.threads.at(-1) ?? 1;
  const peer = await Peer.start({
    path,
    vocab: vocabOf(bench),
    on: { kind: "cpu" },
    onlyMapped: true,
    log,
    joins: (pid) => group.join(pid),
  });
  const rates = new Map<string, number>();
  try {
    for (const [name, whole] of texts) {
      const stepsOf = (steps: number) => ({ texts: whole.map((text) => text.slice(0, promptTokens + steps)), promptTokens });
      await peer.decode({ ...stepsOf(peerSteps.before), tokens: maxContext, threads });
      const rate = await peer.decode({ ...stepsOf(peerSteps.timed), tokens: maxContext, threads });
      rates.set(name, rate);
      log(`llama.cpp, ${setting.percent}%, ${name}: ${rate.toFixed(2)} tokens/s, ${(group.peakBytes() / 1e6).toFixed(0)} MB at most`);
    }
  } finally {
    await peer.close();
    group.remove();
  }
  return rates;
}

function rowOf({ figures }: Bench, setting: Setting, { name, streams }: { readonly name: string; readonly streams: number }): object {
  const own = figures.get(keyOf(setting, name)) ?? [];
  const all = figures.get(keyOf({ ...setting, percent: 100 }, name));
  const middle = (of: (each: Figures) => number, places = 2, from = own): number => round(median(from.map(of)), places);
  const rate = middle(({ rate: each }) => each);
  const peer = own.every((each) => each.peer !== undefined) ? middle((each) => each.peer ?? Number.NaN) : "-";
  const ratio = peer === "-" ? "-" : round(rate / peer, 2);
  const judged = ratio !== "-" && setting.percent === least.percent && streams === 1;
  return {
    ...{ ranks: setting.ranks, memory: `${setting.percent}%`, prefetch: setting.prefetch, case: name, tokensPerSecond: rate },
    ofAll: all === undefined ? "-" : round(rate / middle((each) => each.rate, 2, all), 2),
    ...{ missesPerToken: middle(({ misses }) => misses), megabytesPerToken: middle(({ megabytes }) => megabytes, 1) },
    ...{ stallMsPerToken: middle(({ stallMs }) => stallMs, 1), peakMegabytes: middle(({ peakBytes }) => peakBytes / 1e6, 0) },
    ...{ llamaCpp: peer, ratio, least: judged ? least.ratio : "-", ok: judged ? ratio >= least.ratio : "-" },
  };
}
