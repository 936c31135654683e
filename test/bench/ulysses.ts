// A long prompt over ranks: what it gives to spread the heads of its attention, or its tokens as well, by a model of measured rates; a link
// of 1 MB/s is the control, on which nothing pays. Beside it the first token of a rank that shares heads with another one, which computes
// the same prompt alone in turns, with the same text.
import { openStore } from "../../runtime/weights/store-reader.ts";
import { linkEngines } from "../kit/ranks/linked-engines.ts";
import { loadedEngine, nobodyElse } from "../kit/ranks/loaded-engine.ts";
import { type Asked, type Came, count, generate, invalid, log, prompt, readArgs } from "./serve.ts";
import { median, ratioOf, round } from "./speed-rows.ts";
import { ratesOf, type ShapeName, shapeNames, shapeOf } from "./ulysses/measure.ts";
import { layerMs, paysFrom, type Rates, type Shape, sharings, spreadBytes, type World } from "./ulysses/model.ts";

const defaults = { shapes: shapeNames.join(","), tokens: "1024,4096,8192,16384,32768", ranks: "2,4", link: "1250", each: "1", run: "2048" };
/** Times as fast from which a way pays. */
const paysLeast = 1.1;
/** Milliseconds of a frame with next to nothing in it (`npm run bench -- wire`), and MB/s of a link on which nothing pays. */
const [messageMs, slowLink] = [0.1, 1];
const answerTokens = 8;
const kvPoolBytes = 2 ** 31;

interface UlyssesRow {
  readonly case: string;
  /** Until the first token; gains are to those. */
  readonly seconds: number;
  readonly heads: number;
  readonly tokens: number | "-";
  /** Tokens of a prompt from which it is 1.1 times as fast. */
  readonly headsFrom: number | "never" | "-";
  readonly tokensFrom: number | "never" | "-";
  /** Of the busiest link in a layer, for heads and for tokens. */
  readonly megabytes: string;
  readonly ok: boolean | "-";
}

interface Modelled {
  readonly shape: Shape;
  readonly rates: Rates;
  readonly tokens: number;
  readonly world: World;
}

export function rowOf(name: string, { shape, rates, tokens, world }: Modelled): UlyssesRow {
  const asItIs = layerMs(shape, rates, tokens, "as it is", world);
  const gain = (way: "heads" | "tokens"): number => round(asItIs / layerMs(shape, rates, tokens, way, world), 2);
  const from = (way: "heads" | "tokens") => paysFrom(shape, rates, way, world, paysLeast) ?? "never";
  const bytes = (["heads", "tokens"] as const).map((way) => round(spreadBytes(shape, tokens, way, world.ranks) / 1e6));
  return {
    ...{ case: name, seconds: round((shape.layers * asItIs) / 1000), heads: gain("heads"), tokens: gain("tokens") },
    ...{ headsFrom: from("heads"), tokensFrom: from("tokens"), megabytes: bytes.join(", "), ok: "-" },
  };
}

/** Two ranks with all experts, of which the first one shares heads. */
async function measured({ storeDir, codec, runs }: Asked, tokens: number): Promise<UlyssesRow> {
  const store = await openStore(storeDir);
  const common = { storeDir, codec, backend: "cpu", threads: 1, kvPoolBytes, maxContext: tokens + 64, onDemand: nobodyElse } as const;
  const engines = [];
  for (const prefillParallelismFrom of [tokens, tokens + 1])
    engines.push(await loadedEngine(store, { ...common, prefillParallelism: 2, prefillParallelismFrom }));
  const [sharing, alone] = engines as [(typeof engines)[number], (typeof engines)[number]];
  const linked = await linkEngines(engines);
  try {
    const { vocab } = alone.describe();
    const times = { sharing: [] as number[], alone: [] as number[] };
    let same = 0;
    for (let run = 0; run < runs; run++) {
      const ids = prompt(tokens, vocab);
      const timed = async (engine: typeof alone): Promise<{ readonly ms: number; readonly came: Came }> => {
        const from = performance.now();
        const came = await generate(engine, ids, answerTokens);
        return { ms: (came.at[0] ?? Number.NaN) - from, came };
      };
      const [one, two] = [await timed(alone), await timed(sharing)];
      times.alone.push(one.ms);
      times.sharing.push(two.ms);
      if (`${one.came.tokens}` === `${two.came.tokens}`) same += 1;
      log(`${tokens} tokens: ${Math.round(one.ms)} ms until the first token, ${Math.round(two.ms)} where two ranks share the heads`);
    }
    const gain = round(ratioOf(times.alone, times.sharing), 2);
    const megabytes = `${round(linked.bytes() / runs / store.index.layers / 1e6)} both ways`;
    return {
      ...{ case: `measured, ${tokens} tokens, 2 ranks, ${same} of ${runs} texts are the same`, seconds: round(median(times.alone) / 1000) },
      ...{ heads: gain, tokens: "-", headsFrom: "-", tokensFrom: "-", megabytes, ok: gain > 1 && same === runs },
    };
  } finally {
    linked.close();
    for (const engine of engines) await engine.close();
    await store.close();
  }
}

export async function ulyssesBench(args: readonly string[]): Promise<readonly UlyssesRow[]> {
  const asked = await readArgs(args, Object.keys(defaults));
  const own: typeof defaults = Object.assign({}, defaults, asked.own);
  const names = own.shapes.split(",").map((name) => {
    const known = shapeNames.find((each) => each === name);
    if (known !== undefined) return known;
    throw invalid(`--shapes: "${name}" is none of ${shapeNames.join(", ")}`);
  });
  const [ranks, lengths] = [own.ranks.split(",").map((each) => count("ranks", each)), own.tokens.split(",").map(tokensOf)];
  const [threads, link] = [count("each", own.each), 1000 * count("link", own.link)];
  const rows: UlyssesRow[] = [];
  for (const name of names as readonly ShapeName[]) {
    const shape = shapeOf(name);
    const rates = await ratesOf(name, sharings(shape, [2, ...ranks]));
    const row = (what: string, tokens: number, world: Pick<World, "ranks" | "link">): UlyssesRow =>
      rowOf(`${name}, ${tokens} tokens, ${what}`, { shape, rates, tokens, world: { threads, messageMs, ...world } });
    for (const each of ranks) for (const tokens of lengths) rows.push(row(`${each} ranks`, tokens, { ranks: each, link }));
    const control = row("2 ranks, 1 MB/s", 4096, { ranks: 2, link: 1000 * slowLink });
    rows.push({ ...control, ok: control.heads <= 1 });
  }
  return [...rows, await measured(asked, tokensOf(own.run))];
}

function tokensOf(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw invalid(`"${text}" is no number of tokens from 1 to 9999999`);
}
