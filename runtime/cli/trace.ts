// `enodia model trace`: runs texts of several topics through a model and records which experts each token chooses.
import { basename, extname } from "node:path";
import { AppError } from "../../crds/common.ts";
import { type BackendChoice, type CodecName, codecNames } from "../../crds/names.ts";
import { createBackend } from "../compute/index.ts";
import { type ExpertTrace, tokensOf, traceTokensMax } from "../experts/replay/trace.ts";
import { sum } from "../placement/imbalance.ts";
import { openTextModel } from "../text/text-thread.ts";
import { codecFor } from "../weights/codecs/index.ts";
import { codecsOf, type ModelStore, storeGrid } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import { readBounded } from "./read-bounded.ts";
import { asks, TracedModel } from "./traced-model.ts";

export interface TraceOptions {
  readonly dir: string;
  /** Each is a topic, named as the file is. */
  readonly files: readonly string[];
  readonly codec?: CodecName | undefined;
  readonly backend: BackendChoice;
  /** Texts of each file at most. */
  readonly texts: number;
  /** Tokens of a text that are computed at once, and those that follow one at a time. */
  readonly prompt: number;
  readonly tokens: number;
  /** True: the tokens that follow are the file's own; false: the model's likeliest. */
  readonly follow: boolean;
  readonly threads: number;
}

type Log = (line: string) => void;

/** Routers ahead name so many times top-k experts of a row. */
const widthPerTopK = 4;
const progressMs = 5_000;

interface Text {
  readonly topic: string;
  readonly ids: readonly number[];
}

/** Pieces of each file in turn, so that topics change from one text to the next. */
async function textsOf({ dir, files, texts, prompt, tokens, follow }: TraceOptions): Promise<Text[]> {
  const needed = prompt + (follow ? tokens : 0);
  const tokenizer = await openTextModel(dir);
  try {
    const byFile: Text[][] = [];
    for (const file of files) {
      const ids = [...(await tokenizer.encode(await readBounded(file)))];
      const count = Math.min(texts, Math.floor(ids.length / needed));
      if (count === 0) throw new AppError(`${file}: has ${ids.length} tokens, and a text takes ${needed}`, { code: "BadOption" });
      const topic = basename(file, extname(file)).slice(0, 64);
      byFile.push(Array.from({ length: count }, (_, i) => ({ topic, ids: ids.slice(i * needed, (i + 1) * needed) })));
    }
    return Array.from({ length: texts }, (_, i) => byFile.flatMap((of) => of[i] ?? [])).flat();
  } finally {
    await tokenizer.close();
  }
}

const joined = (parts: readonly Uint16Array[]): Uint16Array => {
  const out = new Uint16Array(sum(parts.map(({ length }) => length)));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
};

async function recordTexts(model: TracedModel, texts: readonly Text[], { prompt, tokens }: TraceOptions, log: Log) {
  const ids: Uint16Array[] = [];
  const asked = asks.map((): Uint16Array[] => []);
  let loggedAt = performance.now();
  for (const [at, text] of texts.entries()) {
    let call = text.ids.slice(0, prompt);
    for (let i = 0; i <= tokens; i++) {
      const ran = await model.run(call, i === 0 ? 0 : prompt + i - 1);
      ids.push(ran.ids);
      for (const [each, of] of ran.asked.entries()) asked[each]?.push(of);
      call = [text.ids[prompt + i] ?? ran.next];
    }
    if (performance.now() - loggedAt < progressMs) continue;
    loggedAt = performance.now();
    log(`text ${at + 1} of ${texts.length} (${text.topic})`);
  }
  return { ids: joined(ids), asked: asks.map((each, i) => ({ ...each, ids: joined(asked[i] ?? []) })) };
}

function bytesOf({ index }: ModelStore, codec: CodecName): number[] {
  return (index.codecs[codec]?.units ?? []).map((units) => Math.max(0, ...units.map(({ bytes }) => bytes)));
}

/** Throws AppError `BadOption` before hours are spent on what no file can hold. */
function checkSize({ prompt, tokens }: TraceOptions, texts: number, { layers, topK }: ModelStore["index"], width: number): void {
  const most = traceTokensMax({ layers, topK, width, asks: asks.length });
  const each = prompt + tokens;
  if (texts * each <= most) return;
  throw new AppError(`--texts, --tokens: ${texts} texts of ${each} tokens are too many: a trace of this model holds ${most} tokens`, {
    code: "BadOption",
  });
}

/** Throws AppError `BadOption` for files and sizes that cannot be used. */
export async function recordTrace(options: TraceOptions, log: Log): Promise<ExpertTrace> {
  const { dir, prompt, tokens, threads } = options;
  const texts = await textsOf(options);
  const store = await openStore(dir);
  const stored = codecsOf(store.index);
  const codec = options.codec ?? (codecNames.find((name) => stored.includes(name)) as CodecName);
  if (!stored.includes(codec)) throw new AppError(`--codec: ${dir} has ${stored.join(", ")}, and not ${codec}`, { code: "BadOption" });
  const { topK, experts, layers, modelDigest } = store.index;
  const width = Math.min(experts, topK * widthPerTopK);
  checkSize(options, texts.length, store.index, width);
  const { denseBits } = codecFor(codec);
  const backend = await createBackend(options.backend, { threads, ...(denseBits === undefined ? {} : { denseBits }) });
  try {
    log(`${backend.device}; loading all experts in ${codec}`);
    const model = await TracedModel.open(store, backend, { codec, width, context: prompt + tokens });
    const recorded = await recordTexts(model, texts, options, log);
    // The first quartile, since others share the machine for a while.
    const ms = model.decodeMs.toSorted((a, b) => a - b)[model.decodeMs.length >> 2] ?? 0;
    const traced = texts.map(({ topic }) => ({ topic, prompt, generated: tokens }));
    log(`${tokensOf(traced)} tokens recorded`);
    const layerMs = Math.max(1e-3, ms / layers);
    return {
      modelDigest,
      grid: storeGrid(store.index),
      topK,
      expertBytes: bytesOf(store, codec),
      layerMs,
      texts: traced,
      width,
      ...recorded,
    };
  } finally {
    await backend.close();
    await store.close();
  }
}
