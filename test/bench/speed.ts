// Decode and prefill of one worker's engine beside llama.cpp with the same weights, in turns, each at its best number of threads, and as
// shares of what the machine's memory and arithmetic allow. llama.cpp computes the very texts that ours has generated, without sampling,
// in a loop of C calls (llama/); a rate of ours is that of whole requests, with everything between two tokens.
import { programOf } from "../../runtime/models/index.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import type { ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { storeGguf } from "./llama/gguf.ts";
import { Peer } from "./llama/peer.ts";
import { machineLimits, startHog } from "./machine.ts";
import { type Asked, type Came, type EngineUnderTest, generate, invalid, log, openEngine, prompt, readArgs } from "./serve.ts";
import { hogTable, type Limits, type ModelSizes, type Rates, speedRow, togetherRate, tokenCost } from "./speed-rows.ts";
import { countSteps, measureApart, type SplitRow, splitRows } from "./split.ts";

/** So few that those of a batch have begun before the first of them ends: prompts get `decodeWait` between two tokens. */
const promptTokens = 8;
const decodeContext = 256;
const prefillContext = 1_280;
const decodeCases = [
  { batch: 1, least: 1 },
  { batch: 8, least: 1 },
  { batch: 32, least: 1 },
] as const;
const decodeTokens = (batch: number): number => 65 + batch;
const prefillCases = [
  { length: 128, least: 1.25 },
  { length: 512, least: 1.25 },
  { length: 1024, least: 1.25 },
] as const;
/** Prompt tokens that a step of ours computes when nobody decodes. */
const chunkTokens = 256;
/** Steps of llama.cpp's that are timed. */
const peerSteps = 24;
const agreeTokens = 16;
const agreeTexts = 3;

interface Bench {
  readonly asked: Asked;
  readonly engines: ReadonlyMap<number, EngineUnderTest>;
  readonly peer: Peer | undefined;
  readonly sizes: ModelSizes;
  readonly limits: Limits;
  readonly store: ModelStore;
}

/** Opens all, has the peer agree, runs the cases, and closes all. */
async function withBench<T>(args: readonly string[], maxContext: number, run: (bench: Bench) => Promise<T>): Promise<T> {
  const asked = await readArgs(args);
  const store = await openStore(asked.storeDir);
  const engines = await openEngines(asked, maxContext);
  let peer: Peer | undefined;
  try {
    const first = [...engines.values()][0] as EngineUnderTest;
    if (!first.info.sharesCores) log(`llama.cpp computes on the processor here: it is left out beside ${first.info.device}`);
    else if (!asked.alone) peer = await agreeingPeer(store, asked, first);
    const limits = await limitsOf(Math.max(...asked.threads));
    return await run({ asked, engines, peer, sizes: sizesOf(store, asked), limits, store });
  } finally {
    await peer?.close();
    for (const { engine } of engines.values()) await engine.close();
    await store.close();
  }
}

/** One for each number of threads; where a backend has one number alone, one. */
async function openEngines(asked: Asked, maxContext: number): Promise<Map<number, EngineUnderTest>> {
  const engines = new Map<number, EngineUnderTest>();
  for (const [before, threads] of asked.threads.entries()) {
    const known = [...engines.values()].map(({ info }) => info.device);
    const more = asked.threads.length - before - 1;
    const opened = await openEngine(asked, { threads, maxContext, unless: known, more });
    if (opened !== undefined) engines.set(threads, opened);
  }
  return engines;
}

/** llama.cpp with the same weights; throws where there is none, or where it computes another model. */
export async function agreeingPeer(
  store: ModelStore,
  { codec, gguf }: Pick<Asked, "codec" | "gguf">,
  { engine, info }: EngineUnderTest,
): Promise<Peer> {
  if (gguf && !codecFor(codec).asGiven)
    throw invalid(`--codec: llama.cpp has the file's own types, ${codec} are others; give --codec source`);
  const peer = await Peer.start({ path: await (gguf?.() ?? storeGguf(store, codec)), vocab: info.vocab, on: { kind: "cpu" }, log });
  const texts = [];
  for (let i = 0; i < agreeTexts; i++) {
    const ids = prompt(promptTokens, info.vocab);
    const { tokens } = await generate(engine, ids, agreeTokens);
    texts.push({ prompt: ids, continuation: tokens });
  }
  const gap = await peer.agree(texts);
  log(`llama.cpp agrees on ${agreeTexts * agreeTokens} tokens: at most ${gap.toFixed(3)} below its best logit`);
  return peer;
}

async function limitsOf(threads: number): Promise<Limits> {
  const limits = await machineLimits(threads);
  const arithmetic = limits.gigaflops === undefined ? "no loop of multiply-adds" : `${limits.gigaflops.toFixed(0)} GFLOP/s of f32`;
  log(`limits of ${threads} threads: ${limits.gigabytesPerSecond.toFixed(1)} GB/s read in order, ${arithmetic}`);
  return limits;
}

/** The dense part's bytes are those that a value has beside experts of this codec, where a store has it as floats; beside `source` all is
 *  as it is stored. */
export function sizesOf(store: ModelStore, { codec }: Pick<Asked, "codec">): ModelSizes {
  const { layers, experts, topK } = store.index;
  const { hidden, kvHeads, headDim, vocab } = programOf(store.config);
  const matrices = store.layerShapes.find((layer) => layer.experts > 0)?.matrices ?? [];
  const { denseBits, unitBytes, asGiven } = codecFor(codec);
  const attention = 2 * hidden * hidden + 2 * hidden * kvHeads * headDim;
  const head = vocab * hidden;
  const denseBytes = denseBits === 8 ? 34 / 32 : denseBits / 8;
  return {
    ...{ layers, experts, topK, attention, head },
    expert: matrices.reduce((values, { shape }) => values + shape.reduce((a, b) => a * b, 1), 0),
    denseBytes: asGiven ? store.denseBytes(16) / (layers * attention + 2 * head) : denseBytes,
    expertBytes: asGiven ? (store.index.codecs[codec]?.units.flat()[0]?.bytes ?? 0) : unitBytes(matrices),
  };
}

const add = (rates: Map<number, number[]>, threads: number, rate: number): void =>
  void rates.set(threads, [...(rates.get(threads) ?? []), rate]);

interface Measured {
  readonly ours: Rates;
  readonly llama: Rates;
}

/** Rounds in which each engine has its turn at each number of threads; ours goes first, since the other computes its texts. */
async function inTurns(
  { asked, engines, peer }: Bench,
  own: (engine: EngineUnderTest) => Promise<{ readonly rate: number; readonly texts: readonly (readonly number[])[] }>,
  theirs: (peer: Peer, texts: readonly (readonly number[])[], threads: number) => Promise<number>,
): Promise<Measured> {
  const [ours, llama] = [new Map<number, number[]>(), new Map<number, number[]>()];
  for (let run = 0; run < asked.runs; run++) {
    let texts: readonly (readonly number[])[] = [];
    for (const [threads, engine] of engines) {
      const done = await own(engine);
      add(ours, threads, done.rate);
      texts = done.texts;
    }
    if (peer) for (const threads of asked.threads) add(llama, threads, await theirs(peer, texts, threads));
  }
  log(`${told(ours)} tokens/s; llama.cpp ${told(llama)}`);
  return { ours, llama };
}

/** Rates of the rounds by threads, as they are told while the benchmark runs. */
const told = (rates: Rates): string =>
  [...rates].map(([threads, each]) => `on ${threads}: ${each.map((rate) => rate.toFixed(0)).join(" ")}`).join(", ");

/** A batch of ours: the rate, and the texts with what was generated. */
async function ownDecode({ engine, info }: EngineUnderTest, batch: number): Promise<{ rate: number; texts: number[][] }> {
  const prompts = Array.from({ length: batch }, () => prompt(promptTokens, info.vocab));
  const came: Came[] = await Promise.all(prompts.map((ids) => generate(engine, ids, decodeTokens(batch))));
  return { rate: togetherRate(came.map(({ at }) => at)), texts: came.map(({ tokens }, i) => [...(prompts[i] ?? []), ...tokens]) };
}

/** The same texts as far as they are timed, by llama.cpp. */
const theirDecode = (peer: Peer, texts: readonly (readonly number[])[], threads: number): Promise<number> => {
  const same = texts.map((text) => text.slice(0, promptTokens + peerSteps));
  return peer.decode({ texts: same, promptTokens, tokens: decodeContext, threads });
};

async function decodeRows(bench: Bench) {
  const rows: ReturnType<typeof speedRow>[] = [];
  for (const { batch, least } of decodeCases) {
    const measured = await inTurns(bench, (engine) => ownDecode(engine, batch), theirDecode);
    rows.push(
      speedRow({ name: `decode, batch ${batch}`, least, cost: tokenCost(bench.sizes, "decode", batch), ...measured }, bench.limits),
    );
  }
  return rows;
}

/** One request on every number of threads with a hog beside, held against one thread alone; llama.cpp with the hog too. */
async function hogRows(bench: Bench) {
  const hog = await startHog();
  const alone: number[] = [];
  try {
    const one = [...bench.engines.values()][0] as EngineUnderTest;
    const besideHog = await inTurns(
      bench,
      async (engine) => {
        if (engine === one) alone.push((await ownDecode(one, 1)).rate);
        return hog.beside(() => ownDecode(engine, 1));
      },
      (peer, texts, threads) => hog.beside(() => theirDecode(peer, texts, threads)),
    );
    return hogTable(`decode, batch 1, a hog on CPU ${hog.cpu}`, alone, besideHog);
  } finally {
    await hog.close();
  }
}

async function partsOf({ asked, engines, store }: Bench): Promise<SplitRow[]> {
  const [engine] = engines.values();
  const rows: SplitRow[] = [];
  for (const batch of [1, 8]) {
    const parts = await countSteps(engine as EngineUnderTest, batch, async () => (await ownDecode(engine as EngineUnderTest, batch)).rate);
    const apart = await measureApart(store, asked, batch, promptTokens + (decodeTokens(batch) >> 1));
    rows.push(...splitRows(`decode, batch ${batch}`, store.index.layers, parts, apart));
  }
  return rows;
}

/** `--hog` and `--split` ask for tables of their own. */
export const decodeBench = (args: readonly string[]): Promise<readonly object[]> =>
  withBench(args, decodeContext, async (bench) => {
    const rows: object[] = bench.asked.split || bench.asked.hog ? [] : await decodeRows(bench);
    if (bench.asked.hog) rows.push(...(await hogRows(bench)));
    if (bench.asked.split) rows.push(...(await partsOf(bench)));
    return rows;
  });

const prefillInTurns = (bench: Bench, length: number): Promise<Measured> =>
  inTurns(
    bench,
    async ({ engine, info }) => {
      const ids = prompt(length, info.vocab);
      const start = performance.now();
      const { at } = await generate(engine, ids, 1);
      return { rate: (length * 1000) / ((at[0] ?? start) - start), texts: [ids] };
    },
    (peer, [text = []], threads) => peer.prefill({ text, tokens: prefillContext, threads }),
  );

export const prefillBench = (args: readonly string[]): Promise<readonly object[]> =>
  withBench(args, prefillContext, async (bench) => {
    const rows: ReturnType<typeof speedRow>[] = [];
    const warmUp = Object.assign({}, bench, { asked: Object.assign({}, bench.asked, { runs: 1 }) });
    await prefillInTurns(warmUp, prefillCases[0].length); // the first one makes threads and graphs
    for (const { length, least } of prefillCases) {
      const measured = await prefillInTurns(bench, length);
      const cost = tokenCost(bench.sizes, "prefill", Math.min(length, chunkTokens));
      rows.push(speedRow({ name: `prefill, ${length} tokens`, least, cost, ...measured }, bench.limits));
    }
    return rows;
  });
