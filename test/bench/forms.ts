// What each form of experts, and mixes of forms, cost and give: bytes, tokens a second, perplexity and answers. A mix has the bytes of one
// form for all; its control has the same forms for as many experts of each layer, dealt by chance.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { evaluate } from "../../runtime/cli/evaluate.ts";
import { uniform } from "../../runtime/kernels/random.ts";
import { type Chosen, type JudgedStore, judgeStore } from "../../runtime/modelstore/quantize/quantize.ts";
import { type RoundedType, storedTypeFor, usualTypes } from "../../runtime/modelstore/quantize/types.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import type { ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { heldOut, provideTrained, questionsOf, type Subject } from "./forms/models.ts";
import { publishedRows } from "./forms/published.ts";
import { type Asked, type EngineUnderTest, generate, invalid, log, openEngine, prompt, readArgs } from "./serve.ts";
import { median, ratioOf, round } from "./speed-rows.ts";

/** The first is what others are compared with, as papers do. */
const types: readonly RoundedType[] = ["f16", "q8_0", "q6_K", "q4_K", "q3_K", "q2_K", "iq1_s", "qmoe"];
/** Of a model of 240 experts, which has rows of whole blocks in one matrix of three. */
const fewTypes: readonly RoundedType[] = ["f16", "q4_K", "q2_K", "iq1_s", "qmoe"];
const tokens = { judged: 2048, decoded: 48 } as const;
const turns = 5;
const claims: Readonly<Record<string, string>> = {
  q2_K: "MC-MoE: 42.7 of 71.3 points, 2 bits for all",
  "mixed, bytes of q2_K": "MC-MoE: 67.5 of 71.3 points, perplexity 1.33, bytes 1/6.0, speed 1.63 (2.54 bits)",
  qmoe: "QMoE: perplexity 1.08 (without GPTQ 2.6), bytes 1/19.8, speed 0.95",
};

interface Form {
  readonly name: string;
  readonly chosen: Chosen;
}

/** The same choices in each layer, for other experts. */
function byChance(chosen: Chosen): Chosen {
  const draw = uniform(3);
  return chosen.map((experts) => {
    const drawn = experts.map((way) => ({ way, at: draw() }));
    return drawn.sort((a, b) => a.at - b.at).map(({ way }) => way);
  });
}

function formsOf({ layerShapes }: ModelStore, { layers, choose }: JudgedStore, { types, fewBits }: Subject): Form[] {
  const alike = (type: RoundedType): Chosen =>
    layers.map(({ ways }, layer) => {
      const { experts = 0, matrices = [] } = layerShapes[layer] ?? {};
      const wanted = matrices.map((matrix) => storedTypeFor(type, matrix)).join();
      return new Array<number>(experts).fill(ways.findIndex((way) => way.types.join() === wanted));
    });
  const bitsOf = (chosen: Chosen): number => {
    const bytes = sum(chosen.flatMap((ways, layer) => ways.map((way) => layers[layer]?.ways[way]?.bytes ?? 0)));
    return (8 * bytes) / sum(chosen.map(({ length }, layer) => length * (layers[layer]?.values ?? 0)));
  };
  const usual = usualTypes.filter((type) => types.includes(type));
  const targets = { "bytes of q2_K": bitsOf(alike("q2_K")), [`${fewBits} bits`]: fewBits };
  const mixes = Object.entries(targets).flatMap(([as, bits]) => {
    const chosen = choose(bits, usual);
    return [
      { name: `mixed, ${as}`, chosen },
      { name: `mixed, ${as}, by chance`, chosen: byChance(chosen) },
    ];
  });
  return [...types.map((type) => ({ name: type as string, chosen: alike(type) })), ...mixes];
}

/** Milliseconds of one processor for a token of one request, whatever else the machine does. */
async function decodeMs({ engine, info }: EngineUnderTest): Promise<number> {
  let start = process.cpuUsage();
  const onToken = (came: number): void => {
    if (came === 1) start = process.cpuUsage();
  };
  await generate(engine, prompt(8, info.vocab, 1), tokens.decoded, onToken);
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000 / (tokens.decoded - 1);
}

interface Row {
  readonly model: string;
  readonly form: string;
  readonly bits: number;
  readonly MB: number;
  readonly bytes: string;
  readonly tokensPerSecond: number;
  readonly speed: number;
  readonly perplexity: number;
  readonly perplexityOf: number;
  readonly right: string;
}

/** Rows of one model. Each form is decoded in turns with the first one. */
class FormRows {
  readonly #subject: Subject;
  readonly #dir: string;
  readonly #asked: Asked;
  #first: { readonly engine: EngineUnderTest; readonly bytes: number; readonly perplexity: number } | undefined;

  constructor(subject: Subject, dir: string, asked: Asked) {
    this.#subject = subject;
    this.#dir = dir;
    this.#asked = asked;
  }

  async close(): Promise<void> {
    await this.#first?.engine.engine.close();
  }

  async of({ name, chosen }: Form, judged: JudgedStore): Promise<Row> {
    const { name: model, dir: source, window } = this.#subject;
    log(`${model}: ${name}`);
    const dir = join(this.#dir, this.#first === undefined ? "first" : "form");
    const { bits, bytes } = await judged.write(chosen, { dir, overwrite: true, sources: [source] });
    const given = { text: join(this.#dir, "text"), choices: join(this.#dir, "questions") };
    const threads = availableParallelism();
    const [scored] = await evaluate({ dir, ...given, backend: "cpu", window, threads }, () => undefined);
    const { perplexity = Number.NaN } = scored?.text ?? {};
    const opened = (await openEngine(
      { ...this.#asked, storeDir: dir, codec: "source" },
      { threads: 1, maxContext: 512 },
    )) as EngineUnderTest;
    const first = this.#first ?? { engine: opened, bytes, perplexity };
    this.#first = first;
    const [own, others] = [[] as number[], [] as number[]];
    for (let turn = 0; turn < turns; turn++) {
      others.push(await decodeMs(first.engine));
      own.push(opened === first.engine ? (others[turn] as number) : await decodeMs(opened));
    }
    if (opened !== first.engine) await opened.engine.close();
    return {
      ...{ model, form: name, bits: round(bits, 2), MB: round(bytes / 1e6), bytes: `1/${round(first.bytes / bytes, 2)}` },
      ...{ tokensPerSecond: round(1000 / median(own)), speed: round(ratioOf(others, own), 2) },
      ...{ perplexity: round(perplexity, 2), perplexityOf: round(perplexity / first.perplexity, 3) },
      right: `${round(100 * (scored?.choices?.accuracy ?? Number.NaN))}%`,
    };
  }
}

async function rowsOf(subject: Subject, asked: Asked): Promise<readonly Row[]> {
  const dir = await mkdtemp(join(tmpdir(), "enodia-forms-"));
  const store = await openStore(subject.dir);
  const rows = new FormRows(subject, dir, asked);
  try {
    const text = heldOut();
    await writeFile(join(dir, "text"), text.slice(0, subject.length));
    await writeFile(join(dir, "questions"), questionsOf(text, subject.questions).join("\n"));
    const judged = await judgeStore(store, { types: subject.types, tokens: tokens.judged }, log);
    const found: Row[] = [];
    for (const form of formsOf(store, judged, subject)) found.push(await rows.of(form, judged));
    return found;
  } finally {
    await rows.close();
    await store.close();
    await rm(dir, { recursive: true, force: true });
  }
}

/** A mix by error has to be better than its control, which comes next. */
const judgedRow = (row: Row, at: number, rows: readonly Row[]): object => {
  const holds = rows[at + 1]?.form === `${row.form}, by chance` ? row.perplexity < (rows[at + 1]?.perplexity ?? 0) : "-";
  return { ...row, ok: holds, claim: claims[row.form] ?? "-" };
};

export async function formsBench(args: readonly string[]): Promise<readonly object[]> {
  const published = args.indexOf("--published");
  if (published >= 0) return publishedRows(args[published + 1] ?? "");
  const asked = await readArgs(args, ["only"]);
  const subjects: Readonly<Record<string, () => Promise<Subject>>> = {
    upcycled: async () => ({
      name: "upcycled",
      dir: asked.storeDir,
      window: 512,
      length: 12_000,
      questions: 32,
      types: fewTypes,
      fewBits: 3.7,
    }),
    trained: async () => ({ name: "trained", dir: await provideTrained(), window: 128, length: 16_000, questions: 96, types, fewBits: 2 }),
  };
  const names = asked.own.only?.split(",") ?? Object.keys(subjects);
  const rows: object[] = [];
  for (const name of names) {
    const subject = await subjects[name]?.();
    if (subject === undefined) throw invalid(`--only: "${name}" is none of ${Object.keys(subjects).join(", ")}`);
    rows.push(...(await rowsOf(subject, asked)).map(judgedRow));
  }
  return rows;
}
