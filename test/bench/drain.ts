// The pause of a stream whose rank is drained, with its keys and values fetched by the other one, by parts: two ranks with all experts behind
// the gateway's own pool and failover, on loopback, the other rank quiet or decoding streams of its own. The rate is that of the same bytes
// between them when both are quiet.

import { createEngine, type Engine, type EngineOptions } from "../../runtime/engine/engine.ts";
import { type Generation, generate, type Workers } from "../../runtime/gateway/routing/failover.ts";
import { failoverLimits } from "../../runtime/gateway/routing/patience.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { Ranks } from "../kit/ranks/ranks.ts";
import { poolOf, without } from "./failover.ts";
import { count, log, prompt, readArgs } from "./serve.ts";
import { median, round } from "./speed-rows.ts";

const contextDefault = "1500";
const loadsDefault = "0,8";
const loadPromptTokens = 32;
const [tokensBefore, tokensAfter] = [24, 8] as const;
const kvPoolBytes = 2 ** 30;
const requestMs = 600_000;
/** Milliseconds of a pause beside bytes / rate. */
const restMost = 300;

/** When something was done for the drained stream at the rank that goes on with it. */
class Marks {
  readonly at = { look: 0, looked: 0, write: 0, wrote: 0, asked: 0 };
  bytes = 0;
  on = false;

  watch(engine: Engine): Engine {
    const { kv } = engine;
    if (kv === undefined) throw new Error("keys and values of this engine stay");
    const timed = <A extends unknown[], R>(from: "look" | "write", to: "looked" | "wrote", work: (...args: A) => Promise<R>) => {
      return async (...args: A): Promise<R> => {
        if (this.on) this.at[from] ||= performance.now();
        const result = await work(...args);
        if (this.on) this.at[to] = performance.now();
        return result;
      };
    };
    const write = timed("write", "wrote", kv.write);
    const counted: typeof kv.write = (written) => {
      if (this.on) this.bytes += written.data.byteLength;
      return write(written);
    };
    const generated = engine.generate.bind(engine);
    const own: Engine["generate"] = (request) => {
      if (this.on && (request.replay?.length ?? 0) > 0) this.at.asked = performance.now();
      return generated(request);
    };
    return Object.assign(engine, { kv: { ...kv, look: timed("look", "looked", kv.look), write: counted }, generate: own });
  }

  begin(): void {
    Object.assign(this.at, { look: 0, looked: 0, write: 0, wrote: 0, asked: 0 });
    [this.bytes, this.on] = [0, true];
  }
}

interface Streamed {
  readonly tokens: number[];
  readonly at: number[];
  /** When the gateway knew that its first rank leaves, and the tokens until then. */
  cut?: { readonly at: number; readonly tokens: number };
}

async function stream(
  pool: Workers,
  ids: readonly number[],
  maxTokens: number,
  on: { signal?: AbortSignal; token?: (streamed: Streamed) => void } = {},
) {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: false };
  const { signal = new AbortController().signal, token } = on;
  const request: Generation = {
    requestId: "bench",
    prompt: ids,
    maxTokens,
    sampling,
    eos: [],
    traceparent: "",
    signal,
    deadlineUnixMs: Date.now() + requestMs,
  };
  const streamed: Streamed = { tokens: [], at: [] };
  const onFailover = (): void => {
    streamed.cut ??= { at: performance.now(), tokens: streamed.tokens.length };
  };
  try {
    for await (const event of generate(request, pool, failoverLimits, { onFailover }))
      if (event.type === "token") {
        streamed.tokens.push(event.id);
        streamed.at.push(performance.now());
        token?.(streamed);
      }
  } catch (caught) {
    if (!signal.aborted) throw caught;
  }
  return streamed;
}

/** Milliseconds of one round. */
interface Pause {
  readonly pause: number;
  readonly cut: number;
  readonly attempt: number;
  readonly look: number;
  readonly fetch: number;
  readonly first: number;
  /** 0 where the text was sooner computed. */
  readonly bytes: number;
  /** Tokens that each of the streams beside it had meanwhile: steps that decode, which the machine's load does not change. */
  readonly steps: number;
  readonly same: boolean;
}

interface Scene {
  readonly ranks: Ranks;
  readonly marks: readonly Marks[];
  readonly pool: Workers;
  readonly vocab: number;
}

async function drained({ ranks, marks, pool, vocab }: Scene, context: number, load: number): Promise<Pause> {
  const [from, to] = [1, 0] as const;
  const ids = prompt(context, vocab);
  const over = new AbortController();
  const others: Promise<Streamed>[] = [];
  let warm = 0;
  let [drainedAt, firstAt] = [0, 0];
  const mark = marks[to] as Marks;
  const drain = (on: boolean) => ranks.control(from).drain({ sender: ranks.sender(), cancel: !on });
  // Both ranks take streams, and the first attempt goes to the one that leaves.
  let attempts = 0;
  const first: Workers = Object.assign({}, without(pool, to), {
    start: (...args: Parameters<Workers["start"]>) =>
      attempts++ === 0 ? without(pool, to).start(...args) : without(pool, from).start(...args),
  });
  for (let i = 0; i < load; i++) {
    const token = (streamed: Streamed): void => void (streamed.at.length === 4 && warm++);
    others.push(stream(without(pool, from), prompt(loadPromptTokens, vocab), 1_000, { signal: over.signal, token }));
  }
  while (warm < load) await new Promise((resolve) => setTimeout(resolve, 20));
  const token = ({ tokens, cut }: Streamed): void => {
    if (drainedAt === 0 && tokens.length >= tokensBefore) {
      mark.begin();
      drainedAt = performance.now();
      void drain(true);
    }
    if (cut !== undefined && firstAt === 0) firstAt = performance.now();
    if (cut !== undefined && tokens.length >= cut.tokens + tokensAfter) over.abort();
  };
  const broken = await stream(first, ids, 1_000, { signal: over.signal, token });
  const beside = await Promise.all(others);
  mark.on = false;
  await drain(false);
  const whole = await stream(without(pool, to), ids, tokensBefore + tokensAfter); // not before, since either rank would have the text then
  const { cut } = broken;
  if (cut === undefined) throw new Error("the stream was not cut");
  const { look, looked, write, wrote, asked } = mark.at;
  const lastAt = broken.at[cut.tokens - 1] as number;
  const meanwhile = beside.map(({ at }) => at.filter((each) => each > lastAt && each < firstAt).length);
  const common = Math.min(whole.tokens.length, broken.tokens.length);
  return {
    pause: firstAt - lastAt,
    steps: load > 0 ? median(meanwhile) : 0,
    ...{
      cut: cut.at - drainedAt,
      attempt: look - cut.at,
      look: looked - look,
      fetch: write > 0 ? wrote - looked : 0,
      first: firstAt - asked,
    },
    bytes: write > 0 ? mark.bytes : 0,
    same: broken.tokens.slice(0, common).join() === whole.tokens.slice(0, common).join(),
  };
}

export async function drainBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["context", "loads"]);
  const context = count("context", asked.own.context ?? contextDefault);
  const loads = (asked.own.loads ?? loadsDefault).split(",").map((each) => (each === "0" ? 0 : count("loads", each)));
  const store = await openStore(asked.storeDir);
  const vocab = (store.config as { vocab_size: number }).vocab_size;
  const marks = [new Marks(), new Marks()];
  const ranks = new Ranks({ dir: asked.storeDir, index: store.index }, (rank) => ({
    ...{ backend: asked.backend, codec: asked.codec, threads: 1, kvPoolBytes, expertBudgetBytes: 2 ** 33, maxContext: context + 1_024 },
    overrides: { createEngine: async (options: EngineOptions) => (marks[rank] as Marks).watch(await createEngine(options)) },
  }));
  try {
    for (const rank of marks.keys()) await ranks.launch(rank);
    await ranks.firstPlan(marks.length);
    const pool = await poolOf(ranks);
    const scene = { ranks, marks, pool, vocab };
    await stream(without(pool, 1), prompt(context >> 1, vocab), 4); // graphs are built, and the speed is known
    const pauses = loads.map((): Pause[] => []);
    for (let run = 0; run < asked.runs; run++)
      for (const [i, load] of loads.entries()) {
        const pause = await drained(scene, context, load);
        pauses[i]?.push(pause);
        log(`${load} streams beside it: ${JSON.stringify(pause)}`);
      }
    pool.close();
    const quiet = median((pauses[0] ?? []).filter(({ bytes }) => bytes > 0).map(({ bytes, fetch }) => bytes / fetch));
    return loads.map((load, i) => {
      const own = pauses[i] ?? [];
      const middle = (part: Exclude<keyof Pause, "same">): number => round(median(own.map((each) => each[part])));
      const same = own.filter(({ same }) => same).length;
      const rate = middle("bytes") / quiet;
      const parts = {
        cutMs: middle("cut"),
        attemptMs: middle("attempt"),
        lookMs: middle("look"),
        fetchMs: middle("fetch"),
        firstMs: middle("first"),
        "their steps": middle("steps"),
      };
      const [pauseMs, MB] = [middle("pause"), round(middle("bytes") / 1e6)];
      const judged = {
        most: round(restMost + rate),
        sameText: `${same} of ${own.length}`,
        ok: pauseMs <= restMost + rate && same === own.length,
      };
      return {
        tokens: context,
        "streams beside": load,
        pauseMs,
        MB,
        "bytes / rate": round(rate),
        ratio: round(pauseMs / rate, 2),
        ...parts,
        ...judged,
      };
    });
  } finally {
    await ranks.close();
    await store.close();
  }
}
