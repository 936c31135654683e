// Requests that come while others generate, on one worker: the time between tokens of eight streams while prompts are computed beside
// them, the first token of such a prompt, and both kinds of work at once to one after the other; and many short prompts that come at
// once, to one prompt of as many tokens.

import { type DisturbedRow, disturbedRow } from "./ranks/rows.ts";
import { type EngineUnderTest, generate, greedy, log, openEngine, prompt, readArgs } from "./serve.ts";
import { median, p99 } from "./speed-rows.ts";

const streams = 8;
const streamPrompt = 32;
const quietTokens = 24;
const prompts = 3;
const promptTokens = 512;
const short = { prompts: 32, tokens: 60 };
const maxContext = 2_048;
/** Both kinds of work at once take no longer than one after the other. */
const togetherMost = 1;
/** Short prompts share steps, as parts of a long one do. */
const shortMost = 1.1;

interface Beside {
  readonly quiet: number;
  readonly disturbed: number;
}

interface Round {
  readonly p50: Beside;
  readonly p99: Beside;
  readonly firstToken: Beside;
  readonly together: Beside;
  readonly short: Beside;
  /** CPU seconds of the process while streams and prompts ran. */
  readonly cpuSeconds: number;
}

const cpuSeconds = (): number => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

/** Milliseconds until all of these prompts have their first token, come at once. */
async function firstTokens({ engine, info }: EngineUnderTest, count: number, length: number): Promise<number> {
  const from = performance.now();
  const came = await Promise.all(Array.from({ length: count }, () => generate(engine, prompt(length, info.vocab), 1)));
  return Math.max(...came.map(({ at }) => at[0] ?? from)) - from;
}

/** The gaps of all streams whose tokens came between two moments. */
const gapsWithin = (all: readonly (readonly number[])[], from: number, to: number): number[] =>
  all.flatMap((at) =>
    at.flatMap((time, i) => (i > 0 && (at[i - 1] as number) >= from && time <= to ? [time - (at[i - 1] as number)] : [])),
  );

async function round(under: EngineUnderTest): Promise<Round> {
  const { engine, info } = under;
  const promptAlone = await firstTokens(under, 1, promptTokens);
  const times: number[][] = Array.from({ length: streams }, () => []);
  const until = Promise.withResolvers<void>();
  let over = false;
  const running = times.map(async (at) => {
    const request = { prompt: prompt(streamPrompt, info.vocab), maxTokens: maxContext - streamPrompt, sampling: greedy, eos: [] };
    for await (const event of engine.generate(request)) {
      if (over) break;
      if (event.type !== "token") continue;
      at.push(performance.now());
      if (times.every(({ length }) => length >= quietTokens)) until.resolve();
    }
  });
  await until.promise;
  const [quietFrom, from] = [Math.max(...times.map(([first]) => first ?? 0)), performance.now()];
  const cpu = cpuSeconds();
  const firsts: number[] = [];
  for (let i = 0; i < prompts; i++) firsts.push(await firstTokens(under, 1, promptTokens));
  const to = performance.now();
  const used = cpuSeconds() - cpu;
  over = true;
  await Promise.all(running);
  const [quiet, disturbed] = [gapsWithin(times, quietFrom, from), gapsWithin(times, from, to)];
  const generated = times.flat().filter((time) => time > from && time <= to).length;
  return {
    p50: { quiet: median(quiet), disturbed: median(disturbed) },
    p99: { quiet: p99(quiet), disturbed: p99(disturbed) },
    firstToken: { quiet: promptAlone, disturbed: median(firsts) },
    together: { quiet: (generated / streams) * median(quiet) + prompts * promptAlone, disturbed: to - from },
    short: {
      quiet: await firstTokens(under, 1, short.prompts * short.tokens),
      disturbed: await firstTokens(under, short.prompts, short.tokens),
    },
    cpuSeconds: used,
  };
}

export async function mixedBench(args: readonly string[]): Promise<readonly DisturbedRow[]> {
  const asked = await readArgs(args);
  const under = (await openEngine(asked, { threads: asked.threads.at(-1) ?? 1, maxContext })) as EngineUnderTest;
  const done: Round[] = [];
  try {
    await firstTokens(under, 2, promptTokens); // the first ones make threads and graphs
    for (let run = 0; run < asked.runs; run++) {
      done.push(await round(under));
      log(JSON.stringify(done.at(-1)));
    }
  } finally {
    await under.engine.close();
  }
  const row = (name: string, most: number | undefined, of: (each: Round) => Beside) => disturbedRow(name, most, done.map(of));
  return [
    row(`p50 between tokens of ${streams} streams, prompts of ${promptTokens} beside`, undefined, ({ p50 }) => p50),
    row("p99 between them", undefined, (each) => each.p99),
    row("first token of such a prompt", undefined, ({ firstToken }) => firstToken),
    row("streams and prompts at once, to one after the other", togetherMost, ({ together }) => together),
    row(`first tokens of ${short.prompts} prompts of ${short.tokens}, to one as long`, shortMost, (each) => each.short),
  ];
}
