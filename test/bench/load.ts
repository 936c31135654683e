// Experts that come and go while one request runs: the time between its tokens, in turns with quiet times of the same stream; and how
// long one takes to load, beside a plain copy of its bytes. As in a move, none of them is in use here while it comes or goes: their
// layers are routed to another rank, whose answers are zeros at once, in quiet times too. They move one after another at the rate that
// moves for balance have when a deployment names no other.
import { TransferPace } from "../../runtime/experts/memory/transfer-pace.ts";
import type { ModelStore } from "../../runtime/weights/store.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { type DisturbedRow, disturbedRow } from "./ranks/rows.ts";
import { type Asked, count, type EngineUnderTest, generate, log, openEngine, prompt, readArgs } from "./serve.ts";
import { gapsBeside, median, type Period, p99, round } from "./speed-rows.ts";

const promptTokens = 32;
const tokensDefault = "1200";
/** So many tokens come quietly, then so many while experts move, and so on. */
const periodTokens = 40;
const movingLayers = 4;
const bytesPerSecond = 64 * 2 ** 20;
const p99Most = 1.05;
const copyMost = 2;

interface Beside {
  readonly quiet: number;
  readonly disturbed: number;
}

/** One round. */
interface Round {
  readonly p50: Beside;
  readonly p99: Beside;
  readonly load: Beside;
  readonly moves: number;
}

const withExperts = (shapes: ModelStore["layerShapes"]): number[] => shapes.flatMap(({ experts }, layer) => (experts > 0 ? [layer] : []));

/** An engine and the experts of its first layers, one after another, again and again. */
class Moving {
  readonly #under: EngineUnderTest;
  readonly #read: (layer: number, expert: number) => Promise<Uint8Array>;
  /** The first ones that have experts. */
  readonly layers: readonly number[];
  readonly #pace = new TransferPace({ onChange: () => {} });
  readonly #bytes: number;
  #next = 0;
  /** The one that is not here. */
  #away: number | undefined;

  /** `bytes` of an expert. */
  constructor(
    under: EngineUnderTest,
    { layerShapes }: Pick<ModelStore, "layerShapes">,
    bytes: number,
    read: (layer: number, expert: number) => Promise<Uint8Array>,
  ) {
    this.#under = under;
    this.#bytes = bytes;
    this.#read = read;
    this.layers = withExperts(layerShapes).slice(0, movingLayers);
  }

  get experts(): number {
    return this.layers.length * this.#under.info.experts;
  }

  /** The layers' rows go to another rank from now on. */
  async routeAway(): Promise<void> {
    const { engine, info } = this.#under;
    const alike = <T>(value: T): T[] => new Array<T>(info.experts).fill(value);
    const away = (layer: number) => ({ layer, epoch: 1, hosts: alike([1]), weights: alike([1000]) });
    await engine.setRouting({ rank: 0, layers: this.layers.map(away) });
  }

  /** One move, when its turn has come. */
  atPace(): Promise<void> {
    return this.#pace.receive({ bytes: this.#bytes, limit: bytesPerSecond, signal: new AbortController().signal }, () => this.one());
  }

  /** The next expert goes, and the one that went before it comes back; `loading` gets its bytes and does the load. */
  async one(loading: (unit: Uint8Array, load: () => Promise<void>) => Promise<void> = (_, load) => load()): Promise<void> {
    const { engine } = this.#under;
    const [goes, comes] = [this.#next, this.#away];
    this.#next = (this.#next + 1) % this.experts;
    this.#away = goes;
    await engine.unloadExpert(...this.#placeOf(goes));
    if (comes === undefined) return;
    const [layer, expert] = this.#placeOf(comes);
    const unit = await this.#read(layer, expert);
    await loading(unit, () => engine.loadExpert(layer, expert, unit));
  }

  #placeOf(number: number): [layer: number, expert: number] {
    const { experts } = this.#under.info;
    return [this.layers[Math.floor(number / experts)] as number, number % experts];
  }
}

/** Milliseconds to copy an expert's bytes into memory that is in use, and to load it: medians over all that move. */
async function loadBesideCopy(moving: Moving): Promise<Beside> {
  const [copies, loads]: [number[], number[]] = [[], []];
  let into = Buffer.alloc(0);
  for (let i = 0; i < moving.experts; i++)
    await moving.one(async (unit, load) => {
      if (into.length !== unit.length) into = Buffer.alloc(unit.length, 1);
      const from = Buffer.from(unit.buffer, unit.byteOffset, unit.byteLength);
      const start = performance.now();
      from.copy(into);
      const copied = performance.now();
      await load();
      copies.push(copied - start);
      loads.push(performance.now() - copied);
    });
  return { quiet: median(copies), disturbed: median(loads) };
}

/** The stream of a round, and the periods in which experts moved beside it. */
async function stream(
  { engine, info }: EngineUnderTest,
  moving: Moving,
  tokens: number,
): Promise<{ at: number[]; periods: Period[]; moves: number }> {
  const periods: Period[] = [];
  let [wanted, moves] = [false, 0];
  let running = Promise.resolve();
  const move = async (): Promise<void> => {
    const from = performance.now();
    for (; wanted; moves++) await moving.atPace();
    periods.push({ from, to: performance.now() });
  };
  const { at } = await generate(engine, prompt(promptTokens, info.vocab), tokens, (came) => {
    if (came % periodTokens > 0) return;
    wanted = came % (2 * periodTokens) > 0;
    if (wanted) running = running.then(move);
  });
  wanted = false;
  await running;
  return { at: [...at], periods, moves };
}

async function oneRound(under: EngineUnderTest, moving: Moving, tokens: number): Promise<Round> {
  const load = await loadBesideCopy(moving);
  const { at, periods, moves } = await stream(under, moving, tokens);
  const { quiet, disturbed } = gapsBeside(at, periods);
  return {
    ...{ p50: { quiet: median(quiet), disturbed: median(disturbed) }, p99: { quiet: p99(quiet), disturbed: p99(disturbed) } },
    ...{ load, moves },
  };
}

async function rounds(asked: Asked, under: EngineUnderTest, tokens: number): Promise<readonly DisturbedRow[]> {
  const store = await openStore(asked.storeDir);
  try {
    const { byteLength } = await store.readUnit(withExperts(store.layerShapes)[0] as number, 0, asked.codec);
    const moving = new Moving(under, store, byteLength, (layer, expert) => store.readUnit(layer, expert, asked.codec));
    await moving.routeAway();
    await stream(under, moving, Math.min(tokens, 2 * periodTokens)); // the first one builds graphs
    const done: Round[] = [];
    for (let run = 0; run < asked.runs; run++) {
      const each = await oneRound(under, moving, tokens);
      done.push(each);
      log(JSON.stringify(each));
    }
    return [
      disturbedRow(
        "p50 between tokens, experts moving",
        undefined,
        done.map(({ p50 }) => p50),
      ),
      disturbedRow(
        "p99 between tokens, experts moving",
        p99Most,
        done.map((each) => each.p99),
      ),
      disturbedRow(
        `load of an expert of ${round(byteLength / 1e6, 2)} MB, to a copy`,
        copyMost,
        done.map(({ load }) => load),
      ),
    ];
  } finally {
    await store.close();
  }
}

export async function loadBench(args: readonly string[]): Promise<readonly DisturbedRow[]> {
  const asked = await readArgs(args, ["tokens"]);
  const tokens = count("tokens", asked.own.tokens ?? tokensDefault);
  let hidden = 0;
  const onDemand = { run: async ({ pairRows }: { pairRows: Uint32Array }) => new Float32Array(pairRows.length * hidden) };
  const threads = asked.threads.at(-1) ?? 1;
  const under = (await openEngine(asked, { threads, maxContext: promptTokens + tokens, onDemand })) as EngineUnderTest;
  hidden = under.info.hidden;
  try {
    return await rounds(asked, under, tokens);
  } finally {
    await under.engine.close();
  }
}
