// `enodia model eval`: how well a model predicts a text, and which of several answers it holds to be the likeliest.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { BackendChoice, CodecName } from "../../crds/names.ts";
import { formatBytes } from "../../crds/quantity.ts";
import { createEngine, type Engine } from "../engine/engine.ts";
import { sum } from "../placement/imbalance.ts";
import { openTextModel } from "../text/text-thread.ts";
import { codecsOf, type ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import { readBounded } from "./read-bounded.ts";

export interface EvalOptions {
  readonly dir: string;
  /** A file of text. */
  readonly text?: string | undefined;
  /** A file of JSON lines: `{"prompt": "...", "choices": ["...", ...], "answer": 0}`. */
  readonly choices?: string | undefined;
  /** Forms of the experts, one after another. Unset: all that the store has. */
  readonly codecs?: readonly CodecName[] | undefined;
  readonly backend: BackendChoice;
  /** Tokens of a window of the text. */
  readonly window: number;
  readonly threads: number;
  /** As `experts.minGatePercent` of a deployment. */
  readonly minGatePercent?: number | undefined;
  /** Windows and questions at most. */
  readonly limit?: number | undefined;
}

interface TextScore {
  readonly windows: number;
  readonly tokens: number;
  readonly perplexity: number;
  /** The standard error of `perplexity`. */
  readonly error: number;
}

interface ChoiceScore {
  readonly questions: number;
  /** The part of questions whose answer has the highest probability. */
  readonly accuracy: number;
  /** The same by probability a byte, which does not favour short answers. */
  readonly accuracyPerByte: number;
  /** The standard error of `accuracy`. */
  readonly error: number;
}

export interface EvalReport {
  readonly modelDigest: string;
  readonly codec: CodecName;
  readonly numerics: string;
  readonly expertBytes: number;
  readonly tokensPerSecond: number;
  readonly text?: TextScore;
  readonly choices?: ChoiceScore;
}

/** Requests that the engine has at once: while one is rated, the next is computed. */
const atOnce = 2;
const progressMs = 5_000;
/** The longest question with one of its answers. */
const questionTokensMax = 4_096;

const question = z
  .object({ prompt: z.string().min(1), choices: z.array(z.string().min(1)).min(2).max(64), answer: z.number().int().min(0) })
  .refine(({ choices, answer }) => answer < choices.length, { path: ["answer"], error: "is no index of choices" });
type Question = z.infer<typeof question>;

const invalid = (message: string): AppError => new AppError(message, { code: "BadOption" });

/** Throws AppError `BadOption` that names the file, and the line that cannot be read. */
export function questionsOf(file: string, lines: string): Question[] {
  const given = lines.split("\n").flatMap((line, at) => {
    if (line.trim() === "") return [];
    try {
      return [question.parse(JSON.parse(line))];
    } catch (caught) {
      const why = caught instanceof z.ZodError ? z.prettifyError(caught).replaceAll("\n", " ") : String(caught);
      throw invalid(`${file}: line ${at + 1}: ${why}; a line is {"prompt": "...", "choices": ["...", "..."], "answer": 0}`);
    }
  });
  if (given.length === 0) throw invalid(`${file}: has no question`);
  return given;
}

/** Windows of a text, each behind the tokens that every text begins with. The last one that is not full is left out, unless it is alone. */
export function windowsOf(begin: readonly number[], ids: readonly number[], window: number): number[][] {
  const step = window - begin.length;
  const count = Math.max(1, Math.floor(ids.length / step));
  return Array.from({ length: count }, (_, i) => [...begin, ...ids.slice(i * step, (i + 1) * step)]);
}

/** Perplexity and its standard error by the tokens' log-probabilities. */
export function perplexityOf(logprobs: readonly number[]): Pick<TextScore, "perplexity" | "error"> {
  const mean = -sum(logprobs) / logprobs.length;
  const variance = sum(logprobs.map((each) => (each + mean) ** 2)) / Math.max(1, logprobs.length - 1);
  const perplexity = Math.exp(mean);
  return { perplexity, error: perplexity * Math.sqrt(variance / logprobs.length) };
}

/** Log-probabilities of all tokens but the first, by the engine's own prompt rows. */
async function rate(engine: Engine, prompt: readonly number[]): Promise<number[]> {
  const rated: number[] = [];
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: true, topLogprobs: 0 };
  for await (const event of engine.generate({ prompt, maxTokens: 1, sampling, eos: [], promptLogprobs: true }))
    if (event.type === "prompt") rated.push(...event.tokens.map(({ logprob }) => logprob));
  return rated;
}

/** Calls in order, `atOnce` of them open. */
async function inOrder<T, R>(items: readonly T[], run: (item: T) => Promise<R>, onDone: (result: R, at: number) => void): Promise<void> {
  const open: Promise<R>[] = [];
  for (let at = 0; at < items.length; at++) {
    while (open.length < atOnce && at + open.length < items.length) open.push(run(items[at + open.length] as T));
    onDone(await (open.shift() as Promise<R>), at);
  }
}

class Progress {
  readonly #log: Log;
  readonly #started = performance.now();
  #loggedAt = this.#started;
  #tokens = 0;

  constructor(log: Log) {
    this.#log = log;
  }

  get tokensPerSecond(): number {
    return (1000 * this.#tokens) / Math.max(1, performance.now() - this.#started);
  }

  add(tokens: number, line: () => string): void {
    this.#tokens += tokens;
    if (performance.now() - this.#loggedAt < progressMs) return;
    this.#loggedAt = performance.now();
    this.#log(`${line()}, ${this.tokensPerSecond.toFixed(0)} tokens/s`);
  }
}

interface Model {
  readonly engine: Engine;
  readonly progress: Progress;
  encode(text: string): Promise<Uint32Array>;
}

async function scoreText({ engine, progress, encode }: Model, text: string, window: number, limit: number): Promise<TextScore> {
  const begin = [...(await encode(""))];
  const ids = [...(await encode(text))].slice(begin.length);
  const windows = windowsOf(begin, ids, window).slice(0, limit);
  const rated: number[] = [];
  await inOrder(
    windows,
    (prompt) => rate(engine, prompt),
    (logprobs, at) => {
      // The first half is the context of the second, so that no token is rated without one.
      rated.push(...logprobs.slice(logprobs.length >> 1));
      const so = perplexityOf(rated).perplexity.toFixed(3);
      progress.add(logprobs.length + 1, () => `window ${at + 1} of ${windows.length}, perplexity ${so}`);
    },
  );
  return { windows: windows.length, tokens: rated.length, ...perplexityOf(rated) };
}

const likeliest = (values: readonly number[]): number => values.indexOf(Math.max(...values));

async function scoreChoices({ engine, progress, encode }: Model, questions: readonly Question[]): Promise<ChoiceScore> {
  let [right, rightPerByte] = [0, 0];
  const answerTo = async ({ prompt, choices }: Question) => {
    const context = (await encode(prompt)).length;
    const rated: number[] = [];
    let tokens = 0;
    for (const choice of choices) {
      const ids = [...(await encode(prompt + choice))];
      tokens += ids.length;
      // Where the end of the prompt and the start of the choice are one token, that token counts for the choice.
      rated.push(sum((await rate(engine, ids)).slice(Math.min(context, ids.length - 1) - 1)));
    }
    return { rated, tokens };
  };
  await inOrder(questions, answerTo, ({ rated, tokens }, at) => {
    const { choices, answer } = questions[at] as Question;
    if (likeliest(rated) === answer) right += 1;
    if (likeliest(rated.map((logprob, i) => logprob / Buffer.byteLength(choices[i] as string))) === answer) rightPerByte += 1;
    progress.add(tokens, () => `question ${at + 1} of ${questions.length}, ${((100 * right) / (at + 1)).toFixed(1)}% right`);
  });
  const n = questions.length;
  const accuracy = right / n;
  return { questions: n, accuracy, accuracyPerByte: rightPerByte / n, error: Math.sqrt((accuracy * (1 - accuracy)) / n) };
}

const expertBytesOf = ({ codecs }: ModelStore["index"], codec: CodecName): number =>
  sum((codecs[codec]?.units.flat() ?? []).map(({ bytes }) => bytes));

async function loadExperts(engine: Engine, store: ModelStore, codec: CodecName): Promise<void> {
  for (const [layer, { experts }] of store.layerShapes.entries())
    for (let expert = 0; expert < experts; expert++) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
}

type Log = (line: string) => void;

interface Asked {
  readonly store: ModelStore;
  readonly text: string | undefined;
  readonly questions: readonly Question[] | undefined;
}

async function evaluateCodec(codec: CodecName, options: EvalOptions, asked: Asked, log: Log): Promise<EvalReport> {
  const { dir, backend, threads, window, minGatePercent = 0, limit = Number.POSITIVE_INFINITY } = options;
  const { store, text, questions } = asked;
  const alone = { run: () => Promise.reject(new AppError("all experts are loaded", { code: "NotHosted" })) };
  const maxContext = Math.max(window + 1, questions === undefined ? 0 : questionTokensMax);
  const engine = await createEngine({
    ...{ storeDir: dir, backend, codec, threads, minGatePercent },
    ...{ kvPoolBytes: 0, maxContext, onDemand: alone },
  });
  const tokenizer = await openTextModel(dir).catch(async (caught) => {
    await engine.close();
    throw caught;
  });
  try {
    const { device, modelDigest, numerics, maxContext: context } = engine.describe();
    const expertBytes = expertBytesOf(store.index, codec);
    log(`${device}; loading ${formatBytes(expertBytes)} of experts in ${codec}`);
    await loadExperts(engine, store, codec);
    const progress = new Progress(log);
    const model: Model = { engine, progress, encode: (each) => tokenizer.encode(each) };
    const scored = {
      ...(text === undefined ? {} : { text: await scoreText(model, text, Math.min(window, context - 1), limit) }),
      ...(questions === undefined ? {} : { choices: await scoreChoices(model, questions.slice(0, limit)) }),
    };
    return { modelDigest, codec, numerics, expertBytes, tokensPerSecond: progress.tokensPerSecond, ...scored };
  } finally {
    await tokenizer.close();
    await engine.close();
  }
}

/** One report for each form of the experts. Throws AppError `BadOption` for files that cannot be used. */
export async function evaluate(options: EvalOptions, log: Log): Promise<EvalReport[]> {
  const { dir, text: textFile, choices } = options;
  if (textFile === undefined && choices === undefined)
    throw invalid("--text or --choices is missing: the file that the model is judged by");
  const text = textFile === undefined ? undefined : await readBounded(textFile);
  const questions = choices === undefined ? undefined : questionsOf(choices, await readBounded(choices));
  const store = await openStore(dir);
  try {
    const stored = codecsOf(store.index);
    const { codecs = stored } = options;
    const missing = codecs.find((codec) => !stored.includes(codec));
    if (missing !== undefined) throw invalid(`--codec: ${dir} has ${stored.join(", ")}, and not ${missing}`);
    const reports: EvalReport[] = [];
    for (const codec of codecs) reports.push(await evaluateCodec(codec, options, { store, text, questions }, log));
    return reports;
  } finally {
    await store.close();
  }
}
