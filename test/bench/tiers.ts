// Tokens/s of ranks whose memory holds a share of their experts, beside the operator's forecast, the same ranks with all, and llama.cpp
// under the same limit of memory: page cache counts, files are read anew, and the disk may be slowed down for both alike.
import { join } from "node:path";
import { defaultPrefetch, prefetchModes } from "../../crds/experts-spec.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { WorkerSettings } from "../../crds/process.ts";
import { cellValues } from "../../runtime/placement/grid.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { storeGrid } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { storeGguf } from "./llama/gguf.ts";
import { Peer } from "./llama/peer.ts";
import { dropFromCache, type MemoryGroup, memoryGroup } from "./ranks/memory-limit.ts";
import { RankProcesses, type RankSettings } from "./ranks/processes.ts";
import { type Asked, count, expertBytesOf, invalid, log, prompt, readArgs } from "./serve.ts";
import { round, togetherRate } from "./speed-rows.ts";
import { foreseen, type TierFigures, tierRow } from "./tiers-rows.ts";

const promptTokens = 8;
const maxContext = 256;
const kvPoolBytes = 2 ** 27;
/** What a rank has beside experts, the dense part and KV: the process, graphs, two experts on their way. */
const processBytes = 450 * 2 ** 20;
const tokensOf = (streams: number): number => (streams === 1 ? 128 : 16);
/** What llama.cpp computes before anything is timed and in each part of the rest: a step may take seconds. */
const peer = { steps: 4, seconds: 20 };

interface Setting {
  readonly ranks: number;
  readonly percent: number;
  readonly prefetch: WorkerSettings["prefetch"];
}

interface Bench {
  readonly asked: Asked;
  readonly store: Awaited<ReturnType<typeof openStore>>;
  readonly streams: readonly number[];
  /** True if cgroups limit memory. */
  readonly limited: boolean;
  /** MB/s; undefined: as fast as it goes. */
  readonly disk: number | undefined;
  readonly file: string | undefined;
  readonly figures: Map<string, TierFigures[]>;
  /** What the first setting answered, by the number of streams. */
  readonly texts: Map<number, string>;
}

const list = (name: string, text: string): number[] => text.split(",").map((each) => count(name, each));
const keyOf = ({ ranks, percent, prefetch }: Setting, streams: number): string => `${ranks} ${percent} ${prefetch} ${streams}`;

function modeOf(text: string): WorkerSettings["prefetch"] {
  const mode = prefetchModes.find((each) => each === text);
  if (mode === undefined) throw invalid(`--prefetch: ${prefetchModes.join(", ")}`);
  return mode;
}

export async function tiersBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["ranks", "shares", "streams", "disk", "prefetch"]);
  const { ranks = "1", shares = "100,75,50,35", streams = "1,8", disk, prefetch = defaultPrefetch } = asked.own;
  const modes = prefetch.split(",").map(modeOf);
  const settings = list("ranks", ranks).flatMap((each) =>
    list("shares", shares).flatMap((percent) => modes.map((mode) => ({ ranks: each, percent, prefetch: mode }))),
  );
  if (settings.some(({ percent }) => percent > 100)) throw invalid("--shares: percents of the experts' bytes, up to 100");
  const { limited, slowed } = tryLimits(asked.storeDir, disk === undefined ? undefined : count("disk", disk));
  const store = await openStore(asked.storeDir);
  const file = asked.alone || !limited ? undefined : await (asked.gguf?.() ?? storeGguf(store, asked.codec));
  const own = { streams: list("streams", streams), limited, disk: slowed, file, figures: new Map(), texts: new Map() };
  const bench: Bench = { asked, store, ...own };
  try {
    for (let run = 0; run < asked.runs; run++) for (const setting of settings) await measure(bench, setting);
  } finally {
    await store.close();
  }
  return bench.streams.flatMap((each) => settings.map((setting) => rowOf(bench, setting, each)));
}

/** What this machine lets a benchmark limit; what it does not is said. */
function tryLimits(dir: string, disk: number | undefined): { readonly limited: boolean; readonly slowed: number | undefined } {
  const works = (what: string, limit: Parameters<typeof memoryGroup>[1]): boolean => {
    const tried = memoryGroup(`${process.pid}-try`, limit);
    if ("reason" in tried) log(`${what}: ${tried.reason}`);
    else tried.remove();
    return !("reason" in tried);
  };
  const limited = works("no limits of memory, and no llama.cpp", { bytes: 2 ** 30 });
  if (disk === undefined) return { limited, slowed: undefined };
  const slows = limited && works("the disk is not slowed down (--disk)", { bytes: 2 ** 30, reads: readsOf(dir, disk) });
  return { limited, slowed: slows ? disk : undefined };
}

const readsOf = (dir: string, disk: number) => ({ bytesPerSecond: disk * 1e6, path: join(dir, "config.json") });

/** One setting from its start to its end, llama.cpp behind it with the same texts. */
async function measure(bench: Bench, setting: Setting): Promise<void> {
  const { asked, store, figures } = bench;
  const { ranks, percent, prefetch } = setting;
  const groups = Array.from({ length: bench.limited ? ranks : 0 }, (_, rank) => groupOf(bench, setting, `${rank}`));
  for (const { file } of Object.values(store.index.codecs)) if (file !== undefined) dropFromCache(join(asked.storeDir, file));
  dropFromCache(join(asked.storeDir, "dense.safetensors"));
  const settings: RankSettings = {
    ...{ backend: asked.backend, codec: asked.codec, maxContext, kvPoolBytes, cpus: undefined, share: percent / 100, prefetch },
    threads: ranks === 1 ? (asked.threads.at(-1) ?? 1) : 1,
    joins: (rank, pid) => groups[rank]?.join(pid),
  };
  const texts = new Map<number, number[][]>();
  const ours = new Map<number, Omit<TierFigures, "peer">>();
  const processes = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, ranks, settings);
  try {
    texts.set(0, (await textsOf(processes, 1, vocabOf(bench), 1)).texts);
    for (const streams of bench.streams) {
      const came = await figuresOf(bench, setting, processes, streams);
      const ownBytes = bench.limited ? Math.max(...groups.map((group) => group.ownBytes())) : Number.NaN;
      texts.set(streams, came.texts);
      ours.set(streams, { ...came.figures, ownBytes, limitBytes: bench.limited ? limitOf(bench, setting) : Number.NaN });
      const { rate, loads, stallMs, foreseen: said } = came.figures;
      const waits = `${round(stallMs)} ms of ${round(loads)} loads a token (foreseen ${round(said.stallMs)} of ${round(said.loads)})`;
      log(`${ranks} ranks, ${percent}%, ${prefetch}, ${streams} streams: ${round(rate, 2)} tokens/s, ${waits}`);
    }
  } finally {
    await processes.close();
    for (const group of groups) group.remove();
  }
  const peers = ranks === 1 && bench.file !== undefined ? await peerRates(bench, setting, bench.file, texts) : undefined;
  for (const [streams, own] of ours) {
    const key = keyOf(setting, streams);
    figures.set(key, [...(figures.get(key) ?? []), { ...own, peer: peers?.get(streams) }]);
  }
}

const vocabOf = ({ store }: Bench): number => (store.config as { vocab_size: number }).vocab_size;

/** Bytes of experts that the memory of a rank holds. */
const expertsOf = ({ asked, store }: Bench, { ranks, percent }: Setting): number =>
  (expertBytesOf(store.index, asked.codec) * percent) / 100 / ranks;

const limitOf = (bench: Bench, setting: Setting): number =>
  Math.ceil(expertsOf(bench, setting) + bench.store.denseBytes(codecFor(bench.asked.codec).denseBits) + kvPoolBytes + processBytes);

function groupOf(bench: Bench, setting: Setting, name: string): MemoryGroup {
  const reads = bench.disk === undefined ? {} : { reads: readsOf(bench.asked.storeDir, bench.disk) };
  const group = memoryGroup(`${process.pid}-${name}`, { bytes: limitOf(bench, setting), ...reads });
  if ("reason" in group) throw invalid(group.reason);
  return group;
}

/** `seed`: of the prompts, the same for every setting. */
async function textsOf(ranks: RankProcesses, streams: number, vocab: number, seed: number, onStarted: () => void = () => {}) {
  let started = 0;
  const came = await Promise.all(
    Array.from({ length: streams }, async (_, i) => {
      const at: number[] = [];
      const ids = prompt(promptTokens, vocab, seed + i);
      const text = await ranks.text([i % ranks.byRank.size], ids, tokensOf(streams), () => {
        at.push(performance.now());
        if (at.length === 1 && ++started === streams) onStarted();
      });
      return { at, text: [...ids, ...text] };
    }),
  );
  return { at: came.map(({ at }) => at), texts: came.map(({ text }) => text) };
}

/** Loads are counted from the moment on at which all streams decode: the tokens of a prompt share theirs. */
async function figuresOf(bench: Bench, setting: Setting, processes: RankProcesses, streams: number) {
  const { asked, store, texts: known } = bench;
  let from = 0;
  let reading: Promise<unknown> | undefined;
  const { at, texts } = await textsOf(processes, streams, vocabOf(bench), 100 * streams, () => {
    from = performance.now();
    reading = processes.used();
  });
  await (reading ?? processes.used());
  const before = new Map(processes.spent);
  const all = await processes.used();
  const tokens = Math.max(1, at.flat().filter((each) => each > from).length);
  const ofRanks = (part: "loads" | "loadedBytes" | "stalled"): number[] =>
    [...processes.spent].map(([rank, now]) => (now[part] - (before.get(rank)?.[part] ?? 0)) / tokens);
  const grid = storeGrid(store.index);
  const units = store.index.codecs[asked.codec]?.units;
  const bytes = Float64Array.from(cellValues(grid, (layer, expert) => units?.[layer]?.[expert]?.bytes ?? 0));
  const forecast = foreseen({
    ...{ shape: { ...grid, residentBytes: bytes, storedBytes: bytes }, topK: store.index.topK, ranks: setting.ranks },
    ...{ plan: processes.plan as PlacementPlan, together: Math.max(1, streams / setting.ranks), routed: processes.routed },
    memoryBytes: setting.percent === 100 ? Number.POSITIVE_INFINITY : expertsOf(bench, setting),
    bytesPerSecond: all.stalled > 0 ? (1000 * all.loadedBytes) / all.stalled : undefined,
  });
  const said = JSON.stringify(texts);
  if (!known.has(streams)) known.set(streams, said);
  const loaded = { loads: sum(ofRanks("loads")), megabytes: sum(ofRanks("loadedBytes")) / 1e6, stallMs: Math.max(...ofRanks("stalled")) };
  const own = { ...loaded, foreseen: forecast };
  return { texts, figures: { rate: togetherRate(at), ...own, sameText: known.get(streams) === said } };
}

async function peerRates(bench: Bench, setting: Setting, path: string, texts: ReadonlyMap<number, number[][]>) {
  const group = groupOf(bench, setting, "peer");
  dropFromCache(path);
  const threads = bench.asked.threads.at(-1) ?? 1;
  const llama = await Peer.start({
    path,
    vocab: vocabOf(bench),
    on: { kind: "cpu" },
    onlyMapped: true,
    log,
    joins: (pid) => group.join(pid),
  });
  const rates = new Map<number, number>();
  try {
    for (const [streams, whole] of texts) {
      const decode = (steps: number): Promise<number> =>
        llama.decode({ texts: whole.map((text) => text.slice(0, promptTokens + steps)), promptTokens, tokens: maxContext, threads });
      const steps = Math.floor(((await decode(peer.steps)) * peer.seconds) / whole.length);
      const rate = await decode(Math.min(Math.max(steps, peer.steps), (whole[0]?.length ?? 0) - promptTokens));
      rates.set(streams, rate);
      const most = `${round(group.peakBytes() / 1e6, 0)} MB at most`;
      log(`llama.cpp, ${setting.percent}%, ${streams} streams: ${round(rate, 2)} tokens/s, ${most}`);
    }
  } finally {
    await llama.close();
    group.remove();
  }
  return rates;
}

function rowOf({ figures }: Bench, setting: Setting, streams: number): object {
  const of = (each: Setting): readonly TierFigures[] => figures.get(keyOf(each, streams)) ?? [];
  return tierRow({ ...setting, streams, figures: of(setting), all: of({ ...setting, percent: 100 }) });
}
