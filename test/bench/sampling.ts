// The time that choosing a token takes, by what a request asks, beside a bare pass over the vocabulary that finds the largest logit. The
// cases take turns, so that a busy machine is busy for all of them; the ratio is what counts.
import { parseArgs } from "node:util";
import type { Constraint } from "../../runtime/constraints/language.ts";
import { Languages } from "../../runtime/constraints/languages.ts";
import { orderOf, type TokenTexts, Vocabulary } from "../../runtime/constraints/vocabulary.ts";
import type { Sampling } from "../../runtime/engine/schedule/request.ts";
import { OpenSampling } from "../../runtime/engine/schedule/sampling/open-sampling.ts";
import { Sampler, uniform } from "../../runtime/engine/schedule/sampling/sampler.ts";

const vocabDefault = 151_936;
const roundsDefault = 60;
const warmupRounds = 10;
/** Tokens of the prompt that penalties look at. */
const promptTokens = 2_000;
const eos = 0;

interface SamplingRow {
  readonly case: string;
  readonly medianMicroseconds: number;
  /** To the bare pass. */
  readonly ratio: number;
}

const greedy = { temperature: 0, topP: 1, topK: 0, seed: 7n } as const;
const drawn = { ...greedy, temperature: 0.8 };
const json = { name: "json_object", spec: "" } as const;
/** A string whose length is counted: each character is a state of its own. */
const text = { type: "string", maxLength: 400 };
const schema = { name: "json_schema", spec: JSON.stringify({ type: "object", additionalProperties: text }) } as const;
/** The text so far is {" and a word, and after it, for the schema, ": and " and a word: a string goes on. */
const begun = new Map<unknown, Uint32Array>([
  [json, Uint32Array.of(1, 20)],
  [schema, Uint32Array.of(1, 20, 3, 2, 20)],
]);

const cases: Readonly<Record<string, Sampling>> = {
  greedy,
  "greedy, 5 top logprobs": { ...greedy, logprobs: true, topLogprobs: 5 },
  "greedy, penalties over 2,000 tokens": { ...greedy, repetitionPenalty: 1.1, presencePenalty: 0.5 },
  "greedy, in a JSON string": { ...greedy, constraint: json },
  "greedy, in a string of a JSON Schema": { ...greedy, constraint: schema },
  "min_p 0.05": { ...drawn, minP: 0.05 },
  "top_k 40": { ...drawn, topK: 40 },
  "top_k 40, top_p 0.95": { ...drawn, topK: 40, topP: 0.95 },
  "top_p 0.95": { ...drawn, topP: 0.95 },
  "temperature alone": drawn,
  "top_k 40, in a JSON string": { ...drawn, topK: 40, constraint: json },
};

/** Numbers as a model gives them: a hill of many, and a few far above it. */
function logitsOf(vocab: number, seed: bigint): Float32Array {
  const row = Float32Array.from({ length: vocab }, (_, id) => {
    const [a, b] = [uniform(seed, 2 * id), uniform(seed, 2 * id + 1)];
    return 2.5 * Math.sqrt(-2 * Math.log(1 - a)) * Math.cos(2 * Math.PI * b);
  });
  for (let i = 0; i < 20; i++) row[1 + Math.floor(uniform(seed, 3 * vocab + i) * (vocab - 1))] = 12 + i / 2;
  return row;
}

/** Words of letters, and marks: as long as those of real vocabularies. */
function textsOf(vocab: number): TokenTexts {
  const marks = ["", '{"', '"', '":', '"}', "{", "}", "[", "]", ",", " ", "\n", '", "'];
  const texts = Array.from({ length: vocab }, (_, id) => {
    const length = 2 + Math.floor(uniform(3n, id) * 9);
    const letters = Array.from({ length }, (_, i) => 97 + Math.floor(uniform(5n, id * 16 + i) ** 2 * 26));
    return Buffer.from(marks[id] ?? String.fromCharCode(...letters));
  });
  let end = 0;
  return { bytes: Buffer.concat(texts), ends: Uint32Array.from(texts, ({ length }) => (end += length)) };
}

function bare(row: Float32Array): number {
  let best = 0;
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < row.length; i++) {
    const value = row[i] as number;
    if (value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

export async function samplingBench(args: readonly string[]): Promise<readonly SamplingRow[]> {
  const options = { vocab: { type: "string" }, rounds: { type: "string" } } as const;
  const { values } = parseArgs({ args: [...args], options });
  const vocab = Number(values.vocab ?? vocabDefault);
  const rounds = Number(values.rounds ?? roundsDefault);
  const rows = [1n, 2n, 3n, 4n].map((seed) => logitsOf(vocab, seed));
  const texts = textsOf(vocab);
  const startedAt = performance.now();
  const vocabulary = new Vocabulary(texts, orderOf(texts));
  const orderMs = performance.now() - startedAt;
  const languages = new Languages(vocab, async () => vocabulary);
  await languages.prepare();
  const sampler = new Sampler();
  const prompt = Uint32Array.from({ length: promptTokens }, (_, i) => 20 + i * 7);
  const times = new Map<string, number[]>();
  const timed = (name: string, work: () => void): void => {
    const from = performance.now();
    work();
    times.set(name, [...(times.get(name) ?? []), (performance.now() - from) * 1000]);
  };
  const requests = Object.entries(cases).map(([name, sampling]) => {
    const replay = begun.get(sampling.constraint) ?? new Uint32Array(0);
    return { name, request: new OpenSampling({ sampling, prompt, replay, eos: [eos] }, languages) };
  });
  for (let round = 0; round < warmupRounds + rounds; round++) {
    if (round === warmupRounds) times.clear();
    const row = rows[round % rows.length] as Float32Array;
    timed("bare pass", () => bare(row));
    for (const { name, request } of requests) timed(name, () => sampler.sample(row, request, round));
  }
  const median = (name: string): number => (times.get(name) ?? []).sort((a, b) => a - b)[rounds >> 1] as number;
  const all = ["bare pass", ...requests.map(({ name }) => name)].map((name) => [name, median(name)] as const);
  const first = (of: Constraint) => firstSetMicroseconds({ vocabulary, vocab, rounds }, of);
  const found = [
    ...all,
    ["a JSON string's set, not yet known", await first(json)] as const,
    ["a counted string's set, not yet known", await first(schema)] as const,
    ["a repeating pattern's sets, worst of 50", await worstMicroseconds({ vocabulary, vocab, rounds })] as const,
  ];
  const report = found.map(([name, micros]) => ({ case: name, medianMicroseconds: micros, ratio: micros / median("bare pass") }));
  process.stdout.write(`vocabulary of ${vocab}, ${rounds} rounds; its tokens were put in order in ${orderMs.toFixed(0)} ms\n`);
  for (const { case: name, medianMicroseconds: micros, ratio } of report)
    process.stdout.write(`${name.padEnd(38)} ${micros.toFixed(0).padStart(7)} us  x ${ratio.toFixed(2)}\n`);
  return report;
}

interface FirstSets {
  readonly vocabulary: Vocabulary;
  readonly vocab: number;
  readonly rounds: number;
}

/** Its sets of places are as many as texts. */
const repeating = { name: "json_schema", spec: JSON.stringify({ type: "string", pattern: "^[ -~]*[a-m][ -~]{450}$" }) } as const;
const drawnTokens = 50;

/** The longest time for the tokens that may come next, over a text of random ones. */
async function worstMicroseconds({ vocabulary, vocab }: FirstSets): Promise<number> {
  const languages = new Languages(vocab, async () => vocabulary);
  await languages.prepare();
  const held = languages.hold(repeating, [eos], new Uint32Array(0));
  const into = new Uint32Array(vocab);
  let worst = 0;
  for (let position = 0; position < drawnTokens; position++) {
    const from = performance.now();
    const count = held.candidates(into) as number;
    worst = Math.max(worst, (performance.now() - from) * 1000);
    held.accept(into[Math.floor(uniform(11n, position) * count)] as number);
  }
  return worst;
}

/** The walk over the vocabulary that a state takes when it is met for the first time. */
async function firstSetMicroseconds({ vocabulary, vocab, rounds }: FirstSets, constraint: Constraint): Promise<number> {
  const into = new Uint32Array(vocab);
  const times: number[] = [];
  for (let i = 0; i < Math.min(rounds, 15); i++) {
    const languages = new Languages(vocab, async () => vocabulary);
    await languages.prepare();
    const held = languages.hold(constraint, [eos], begun.get(constraint) as Uint32Array);
    const from = performance.now();
    held.candidates(into);
    times.push((performance.now() - from) * 1000);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] as number;
}
