// Decode and prefill of one worker's engine on a model store (default: the upcycled SmolLM2 with iq4_nl experts), as tokens/s
// and as a share of what memory bandwidth allows: every decoded token reads the dense part and its experts once.
// Prompts are random tokens with seeds; nothing is cached between runs. The best of several runs is reported, with the median.
import { parseArgs } from "node:util";
import { type BackendName, type CodecName, defaultCodec } from "../../crds/names.ts";
import { createEngine, type Engine, type EngineInfo } from "../../runtime/engine/engine.ts";
import { ggmlBytes, isGgmlForm } from "../../runtime/kernels/ggml/index.ts";
import type { ModelProgram } from "../../runtime/kernels/segment.ts";
import type { WeightForm } from "../../runtime/kernels/weights.ts";
import { programOf } from "../../runtime/models/index.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { provideSmolMoe } from "../harness/models.ts";
import { readBandwidth } from "./bandwidth.ts";

/**
 * Tokens/s to reach with the demo's model and its default codec on two cores: those of llama.cpp when it decodes one request of weights
 * in as many bits there, and 2.5 times those of its prefill.
 */
export const aims = { decode: 118, prefill: 2.5 * 274 } as const;
const greedy = { temperature: 0, topP: 1, topK: 0, seed: 1n };
const log = (line: string): boolean => process.stderr.write(`${line}\n`);

interface Setup {
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly program: ModelProgram;
  readonly threads: number;
  readonly runs: number;
  /** The aims are for this model and codec. */
  readonly aims: Partial<typeof aims>;
  readonly reload: () => Promise<void>;
}

const options = {
  store: { type: "string" },
  codec: { type: "string", default: defaultCodec },
  backend: { type: "string", default: "cpu" },
  threads: { type: "string", default: "1" },
  runs: { type: "string", default: "5" },
} as const;

async function setUp(args: readonly string[]): Promise<Setup> {
  const { values } = parseArgs({ args: [...args], options });
  const storeDir = values.store ?? (await provideSmolMoe(log));
  const threads = Number(values.threads);
  const codec = values.codec as CodecName;
  const remote = { dispatch: () => Promise.reject(new Error("a benchmark of one worker has no other ranks")) };
  const start = performance.now();
  const engine = await createEngine({
    storeDir,
    backend: values.backend as BackendName,
    codec,
    kvPoolBytes: 1024 ** 3,
    maxContext: 2048,
    threads,
    remote,
  });
  const info = engine.describe();
  const store = await openStore(storeDir);
  const load = async (layers: number): Promise<void> => {
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < info.experts; expert++)
        await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
    }
  };
  await load(info.layers);
  log(
    `${info.device}; dense part and ${info.layers * info.experts} experts loaded in ${((performance.now() - start) / 1000).toFixed(1)} s`,
  );
  const reload = async (): Promise<void> => {
    for (let layer = 0; layer < 4; layer++) for (let expert = 0; expert < info.experts; expert++) await engine.unloadExpert(layer, expert);
    await load(4);
  };
  return {
    engine,
    info,
    program: programOf(store.config),
    threads,
    runs: Number(values.runs),
    aims: values.store === undefined && codec === defaultCodec ? aims : {},
    reload,
  };
}

const bytesPerValue = (form: WeightForm): number => (isGgmlForm(form) ? ggmlBytes(form, 1) : 4);

/** The bytes that the products of one token read. Dense matrices are int8 blocks beside experts that are not exact. */
function bytesPerToken(
  info: EngineInfo,
  dense: { readonly attention: number; readonly head: number; readonly expert: number },
): { dense: number; expert: number } {
  const { form, exact } = codecFor(info.codec as CodecName);
  const expert = dense.expert * bytesPerValue(form);
  const each = bytesPerValue(exact ? "f32" : "q8_0");
  return { dense: (info.layers * dense.attention + dense.head) * each, expert };
}

/** Weights of the attention part of a layer, of the head (query width = hidden, as in SmolLM2), and of an expert. */
function weightsOf({ hidden, kvHeads, headDim, vocab, layers }: ModelProgram): { attention: number; head: number; expert: number } {
  const matrices = layers.flatMap((layer) => (layer.kind === "moe" ? [layer.expert.weights] : []))[0] ?? [];
  const expert = matrices.reduce((values, { shape }) => values + shape.reduce((a, b) => a * b, 1), 0);
  return { expert, attention: 2 * hidden * hidden + 2 * hidden * kvHeads * headDim, head: vocab * hidden };
}

let seed = 0;
function prompt(length: number, vocab: number): number[] {
  seed += 1;
  return Array.from({ length }, (_, i) => (Math.imul(i + 1, 7919) + seed * 104_729 + i * i * 31) % Math.min(vocab, 40_000));
}

/** Milliseconds at which the tokens of one request came. */
async function times(engine: Engine, ids: readonly number[], maxTokens: number): Promise<number[]> {
  const at: number[] = [];
  for await (const event of engine.generate({ prompt: ids, maxTokens, sampling: greedy, eos: [] }))
    if (event.type === "token") at.push(performance.now());
  return at;
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
const round = (value: number, digits = 1): number => Number(value.toFixed(digits));

interface Row {
  readonly case: string;
  readonly tokensPerSecond: number;
  readonly median: number;
  /** Tokens/s wanted, and how much of it was reached; "-" where nothing is. */
  readonly aim: number | "-";
  readonly ofAim: string;
  readonly limit: number;
  readonly ofLimit: string;
  readonly bandwidth: string;
}

interface Measured {
  readonly rates: readonly number[];
  readonly bytesPerToken: number;
  /** The memory's bandwidth in GB/s. */
  readonly bandwidth: number;
  readonly aim: number | undefined;
}

/** The best run beside what is wanted and what memory allows. */
export function row(name: string, { rates, bytesPerToken, bandwidth, aim }: Measured): Row {
  const best = Math.max(...rates);
  const limit = (bandwidth * 1e9) / bytesPerToken;
  const part = (of: number): string => `${round((100 * best) / of)}%`;
  return {
    case: name,
    tokensPerSecond: round(best),
    median: round(median(rates)),
    aim: aim ?? "-",
    ofAim: aim === undefined ? "-" : part(aim),
    limit: round(limit),
    ofLimit: part(limit),
    bandwidth: `${round(bandwidth)} GB/s`,
  };
}

export async function decodeBench(args: readonly string[]): Promise<readonly Row[]> {
  const { engine, info, program, threads, runs, aims: wanted } = await setUp(args);
  const bandwidth = await readBandwidth(threads);
  const bytes = bytesPerToken(info, weightsOf(program));
  const rows: Row[] = [];
  for (const batch of [1, 8]) {
    const rates: number[] = [];
    for (let run = 0; run < runs; run++) {
      const all = await Promise.all(Array.from({ length: batch }, () => times(engine, prompt(32, info.vocab), 65)));
      // The time is measured from the moment all decode to the moment the first ends: a full batch throughout.
      const from = Math.max(...all.map((at) => at[0] ?? 0));
      const to = Math.min(...all.map((at) => at.at(-1) ?? 0));
      const tokens = all.flat().filter((at) => at > from && at <= to).length;
      if (to > from) rates.push((tokens * 1000) / (to - from));
    }
    // A batch reads the dense part once, and of the experts as many as its tokens choose.
    const distinct = info.experts * (1 - (1 - info.topK / info.experts) ** batch);
    const perToken = (bytes.dense + info.layers * distinct * bytes.expert) / batch;
    rows.push(row(`decode, batch ${batch}`, { rates, bytesPerToken: perToken, bandwidth, aim: batch === 1 ? wanted.decode : undefined }));
  }
  await engine.close();
  return rows;
}

export async function prefillBench(args: readonly string[]): Promise<readonly Row[]> {
  const { engine, info, program, threads, runs, aims: wanted } = await setUp(args);
  const bandwidth = await readBandwidth(threads);
  const bytes = bytesPerToken(info, weightsOf(program));
  const rows: Row[] = [];
  for (const length of [128, 512, 1024]) {
    const rates: number[] = [];
    for (let run = 0; run < runs; run++) {
      const start = performance.now();
      const [first] = await times(engine, prompt(length, info.vocab), 1);
      rates.push((length * 1000) / ((first ?? start) - start));
    }
    const chunks = Math.ceil(length / 256);
    const perToken = ((bytes.dense + info.layers * info.experts * bytes.expert) * chunks) / length;
    rows.push(row(`prefill, ${length} tokens`, { rates, bytesPerToken: perToken, bandwidth, aim: wanted.prefill }));
  }
  await engine.close();
  return rows;
}

/** Gaps between tokens of a running request, quiet and while 32 experts are unloaded and loaded again. */
export async function loadBench(args: readonly string[]): Promise<readonly object[]> {
  const { engine, info, reload } = await setUp(args);
  const gaps = async (during?: () => Promise<void>): Promise<number[]> => {
    const running = times(engine, prompt(32, info.vocab), 400);
    const done = during?.();
    const at = await running;
    await done;
    return at.slice(1).map((time, i) => time - (at[i] ?? 0));
  };
  const rows = [];
  for (const [name, values] of [
    ["quiet", await gaps()],
    ["while loading", await gaps(reload)],
  ] as const) {
    const sorted = values.toSorted((a, b) => a - b);
    rows.push({
      case: name,
      medianMs: round(median(values), 2),
      p99Ms: round(sorted[Math.floor(sorted.length * 0.99)] ?? 0, 2),
      maxMs: round(sorted.at(-1) ?? 0, 2),
    });
  }
  await engine.close();
  return rows;
}
