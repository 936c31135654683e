// One worker's engine on a model store (default: the upcycled SmolLM2), as the benchmarks of it share it: their options, the engine
// with its experts loaded, prompts of random tokens, of which nothing is cached between runs. And the time between tokens while experts
// are loaded.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { type BackendName, backendNames, type CodecName, codecNames } from "../../crds/names.ts";
import { createEngine, type Engine, type EngineInfo } from "../../runtime/engine/engine.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { codecsOf } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { provideSmolMoe } from "../harness/models.ts";
import { median, round } from "./speed-rows.ts";

const greedy = { temperature: 0, topP: 1, topK: 0, seed: 1n };
export const log = (line: string): boolean => process.stderr.write(`${line}\n`);

/** What a benchmark of the engine was asked for. */
export interface Asked {
  readonly storeDir: string;
  readonly codec: CodecName;
  readonly backend: BackendName;
  /** Numbers of threads to try. */
  readonly threads: readonly number[];
  readonly runs: number;
  readonly alone: boolean;
  readonly hog: boolean;
  readonly split: boolean;
  /** Options that only this benchmark has. */
  readonly own: Readonly<Record<string, string>>;
}

const options = {
  store: { type: "string" },
  codec: { type: "string" },
  backend: { type: "string", default: "cpu" },
  threads: { type: "string" },
  runs: { type: "string", default: "3" },
  alone: { type: "boolean", default: false },
  hog: { type: "boolean", default: false },
  split: { type: "boolean", default: false },
} as const;

export function invalid(message: string): AppError {
  return new AppError(message, { code: "InvalidOption" });
}

export function count(name: string, text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw invalid(`--${name}: "${text}" is no count from 1 to 9999`);
}

type Values = ReturnType<typeof parseArgs<{ readonly options: typeof options }>>["values"];

/** Options of the engine, and texts of those that a benchmark has besides. */
function valuesOf(args: readonly string[], own: readonly string[]): Values & { readonly [name: string]: string | boolean | undefined } {
  const besides = Object.fromEntries(own.map((name) => [name, { type: "string" as const }]));
  try {
    return parseArgs({ args: [...args], options: Object.assign({}, besides, options) }).values;
  } catch (caught) {
    throw invalid(caught instanceof Error ? caught.message : String(caught));
  }
}

/** Reads the options, with those named in `own` as texts; the default store is made on first use. */
export async function readArgs(args: readonly string[], own: readonly string[] = [], cores = availableParallelism()): Promise<Asked> {
  const values = valuesOf(args, own);
  const { store, codec, backend, threads, runs, alone, hog, split } = values;
  if (codec !== undefined && !isOneOf(codecNames, codec)) throw invalid(`--codec: "${codec}" is none of ${codecNames.join(", ")}`);
  if (!isOneOf(backendNames, backend)) throw invalid(`--backend: "${backend}" is none of ${backendNames.join(", ")}`);
  const asked = {
    ...{ backend, alone, hog, split, runs: count("runs", runs) },
    threads: threads === undefined ? [...new Set([1, cores])] : [count("threads", threads)],
    own: Object.fromEntries(own.flatMap((name) => (typeof values[name] === "string" ? [[name, values[name]]] : []))),
  };
  const storeDir = store ?? (await provideSmolMoe(log));
  return Object.assign(asked, { storeDir, codec: codec ?? (await defaultCodec(storeDir)) });
}

/** The first form of a store's experts that is quantized, where there is one. */
async function defaultCodec(storeDir: string): Promise<CodecName> {
  const store = await openStore(storeDir);
  const codecs = codecsOf(store.index);
  await store.close();
  return codecs.find((name) => !codecFor(name).exact) ?? (codecs[0] as CodecName);
}

const isOneOf = <T extends string>(names: readonly T[], name: string): name is T => (names as readonly string[]).includes(name);

export interface EngineUnderTest {
  readonly engine: Engine;
  readonly info: EngineInfo;
  readonly reload: () => Promise<void>;
}

interface Setting {
  readonly threads: number;
  readonly maxContext: number;
  /** Devices, as engines describe them, that are not wanted once more. */
  readonly unless?: readonly string[];
}

/** An engine with all experts loaded; undefined where its device is one of `unless`. */
export async function openEngine(
  { storeDir, codec, backend }: Asked,
  { threads, maxContext, unless = [] }: Setting,
): Promise<EngineUnderTest | undefined> {
  const remote = { dispatch: () => Promise.reject(new Error("a benchmark of one worker has no other ranks")) };
  const start = performance.now();
  const engine = await createEngine({ storeDir, backend, codec, kvPoolBytes: 1024 ** 3, maxContext, threads, remote });
  const info = engine.describe();
  if (unless.includes(info.device)) {
    await engine.close();
    return undefined;
  }
  const load = async (layers: number): Promise<void> => {
    const store = await openStore(storeDir);
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < info.experts; expert++)
        await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
    }
    await store.close();
  };
  await load(info.layers);
  log(
    `${info.device}; dense part and ${info.layers * info.experts} experts loaded in ${((performance.now() - start) / 1000).toFixed(1)} s`,
  );
  const reload = async (): Promise<void> => {
    for (let layer = 0; layer < 4; layer++) for (let expert = 0; expert < info.experts; expert++) await engine.unloadExpert(layer, expert);
    await load(4);
  };
  return { engine, info, reload };
}

let seed = 0;
export function prompt(length: number, vocab: number): number[] {
  seed += 1;
  return Array.from({ length }, (_, i) => (Math.imul(i + 1, 7919) + seed * 104_729 + i * i * 31) % Math.min(vocab, 40_000));
}

/** The tokens of one request, and the milliseconds at which they came. */
export interface Came {
  readonly tokens: readonly number[];
  readonly at: readonly number[];
}

export async function generate(engine: Engine, ids: readonly number[], maxTokens: number): Promise<Came> {
  const came = { tokens: [] as number[], at: [] as number[] };
  for await (const event of engine.generate({ prompt: ids, maxTokens, sampling: greedy, eos: [] }))
    if (event.type === "token") {
      came.tokens.push(event.id);
      came.at.push(performance.now());
    }
  return came;
}

/** Gaps between tokens of a running request, quiet and while 32 experts are unloaded and loaded again. */
export async function loadBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args);
  const { engine, info, reload } = (await openEngine(asked, { threads: asked.threads.at(-1) ?? 1, maxContext: 2048 })) as EngineUnderTest;
  const gaps = async (during?: () => Promise<void>): Promise<number[]> => {
    const running = generate(engine, prompt(32, info.vocab), 400);
    const done = during?.();
    const { at } = await running;
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
