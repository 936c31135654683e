// One worker's engine on a model store (default: the upcycled SmolLM2), as the benchmarks of it share it: their options, the engine
// with its experts loaded, prompts of random tokens, of which nothing is cached between runs.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { type BackendName, backendNames, type CodecName, codecNames } from "../../crds/names.ts";
import { createEngine, type Engine, type EngineInfo, type EngineOptions, type OnDemandExperts } from "../../runtime/engine/engine.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import { codecsOf, type ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { provideShape, provideShapeGguf, provideSmolMoe, shapeBytes } from "../kit/models/local-models.ts";
import { type ModelShapeName, modelShapes } from "../kit/models/random-gguf.ts";

export const greedy = { temperature: 0, topP: 1, topK: 0, seed: 1n };
export const log = (line: string): boolean => process.stderr.write(`${line}\n`);

/** What a benchmark of the engine was asked for. */
export interface Asked {
  readonly storeDir: string;
  /** The GGUF file that the store was imported from, which another engine reads as it is. */
  readonly gguf: (() => Promise<string>) | undefined;
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
  gguf: { type: "string" },
  shape: { type: "string" },
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
  const { store, gguf, shape, codec, backend, threads, runs, alone, hog, split } = values;
  if (codec !== undefined && !isOneOf(codecNames, codec)) throw invalid(`--codec: "${codec}" is none of ${codecNames.join(", ")}`);
  if (!isOneOf(backendNames, backend)) throw invalid(`--backend: "${backend}" is none of ${backendNames.join(", ")}`);
  const asked = {
    ...{ backend, alone, hog, split, runs: count("runs", runs) },
    threads: threads === undefined ? [...new Set([1, cores])] : [count("threads", threads)],
    own: Object.fromEntries(own.flatMap((name) => (typeof values[name] === "string" ? [[name, values[name]]] : []))),
  };
  if (shape !== undefined && !isOneOf(Object.keys(modelShapes) as ModelShapeName[], shape))
    throw invalid(`--shape: "${shape}" is none of ${Object.keys(modelShapes).join(", ")}`);
  if (gguf !== undefined && store === undefined) throw invalid("--gguf: names the file that --store was imported from, and there is none");
  if (shape !== undefined && store === undefined) checkMemory(await shapeBytes(shape, log), `--shape ${shape}`);
  const storeDir = store ?? (await (shape === undefined ? provideSmolMoe(log) : provideShape(shape, log)));
  const given = gguf === undefined ? undefined : async () => gguf;
  const file = shape === undefined ? given : () => provideShapeGguf(shape, log);
  return Object.assign(asked, { storeDir, gguf: file, codec: codec ?? (await defaultCodec(storeDir)) });
}

/** The first form of a store's experts that is quantized, where there is one. */
async function defaultCodec(storeDir: string): Promise<CodecName> {
  const store = await openStore(storeDir);
  const codecs = codecsOf(store.index);
  await store.close();
  return codecs.find((name) => codecFor(name).denseBits === 8) ?? (codecs[0] as CodecName);
}

const isOneOf = <T extends string>(names: readonly T[], name: string): name is T => (names as readonly string[]).includes(name);

export interface EngineUnderTest {
  readonly engine: Engine;
  readonly info: EngineInfo;
}

interface Setting {
  readonly threads: number;
  readonly maxContext: number;
  /** Devices, as engines describe them, that are not wanted once more. */
  readonly unless?: readonly string[];
  /** Engines that are opened after it and stay as long; unset: none. */
  readonly more?: number;
  /** Unset: there are no other ranks. */
  readonly onDemand?: OnDemandExperts;
  /** Unset: a pool of 1 GiB, and nothing behind it. */
  readonly kv?: Pick<EngineOptions, "kvPoolBytes" | "kvOffloadBytes">;
}

const nobody: OnDemandExperts = { run: () => Promise.reject(new Error("a benchmark of one worker has no other ranks")) };

/** Throws AppError `InsufficientMemory`, where the machine would end the process otherwise. */
export function checkMemory(bytes: number, what: string, free = process.availableMemory()): void {
  if (bytes <= free) return;
  const [needed, left] = [bytes, free].map((each) => (each / 1e9).toFixed(1));
  throw new AppError(`${what}: ${needed} GB of memory are needed, ${left} GB are free`, { code: "InsufficientMemory" });
}

/** Bytes of all experts in that form. */
export const expertBytesOf = ({ codecs }: ModelStore["index"], codec: CodecName): number =>
  (codecs[codec]?.units.flat() ?? []).reduce((sum, { bytes }) => sum + bytes, 0);

/** An engine with all experts loaded; undefined where its device is one of `unless`. */
export async function openEngine(
  { storeDir, codec, backend }: Asked,
  { threads, maxContext, unless = [], more = 0, onDemand = nobody, kv = { kvPoolBytes: 1024 ** 3 } }: Setting,
): Promise<EngineUnderTest | undefined> {
  const start = performance.now();
  const store = await openStore(storeDir);
  const bytes = expertBytesOf(store.index, codec) + store.denseBytes(codecFor(codec).denseBits);
  checkMemory((1 + more) * bytes, `${1 + more} engines (--threads N opens one)`);
  const engine = await createEngine({ storeDir, backend, codec, ...kv, maxContext, threads, onDemand });
  const info = engine.describe();
  if (unless.includes(info.device)) {
    await store.close();
    await engine.close();
    return undefined;
  }
  let loaded = 0;
  for (const [layer, { experts }] of store.layerShapes.entries())
    for (let expert = 0; expert < experts; expert++, loaded++)
      await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
  await store.close();
  log(`${info.device}; dense part and ${loaded} experts loaded in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  return { engine, info };
}

let last = 0;
/** `seed` unset: one that no prompt had before. */
export function prompt(length: number, vocab: number, seed = ++last): number[] {
  return Array.from({ length }, (_, i) => (Math.imul(i + 1, 7919) + seed * 104_729 + i * i * 31) % Math.min(vocab, 40_000));
}

/** The tokens of one request, and the milliseconds at which they came. */
export interface Came {
  readonly tokens: readonly number[];
  readonly at: readonly number[];
}

/** `onToken` gets the number of tokens so far. */
export async function generate(
  engine: Engine,
  ids: readonly number[],
  maxTokens: number,
  onToken: (came: number) => void = () => {},
): Promise<Came> {
  const came = { tokens: [] as number[], at: [] as number[] };
  for await (const event of engine.generate({ prompt: ids, maxTokens, sampling: greedy, eos: [] }))
    if (event.type === "token") {
      came.tokens.push(event.id);
      came.at.push(performance.now());
      onToken(came.at.length);
    }
  return came;
}
