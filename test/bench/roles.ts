// Another client's long prompt beside running streams, by a gateway before three ranks with CPUs of their own: with one rank for prefill
// and two for decode, and in turns with ranks that do both. The stream that suffers most counts, and the prompt's own first tokens.
import { availableParallelism } from "node:os";
import { rolesOf } from "../../crds/roles.ts";
import type { Gateway } from "../../runtime/gateway/gateway.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { letters } from "../kit/gateway/letters.ts";
import { gatewayOfRanks } from "../kit/gateway/local-gateway.ts";
import { gapsOf } from "./interference.ts";
import { RankProcesses } from "./ranks/processes.ts";
import { type DisturbedRow, disturbedRow } from "./ranks/rows.ts";
import { sharesOf } from "./ranks/shares.ts";
import { count, log, readArgs } from "./serve.ts";
import { median } from "./speed-rows.ts";

const [rankCount, streamCount] = [3, 3];
const promptTokensUsual = 1_580;
const streamPrompt = 32;
const quietTokens = 40;
/** Of the prompt's answer: the first is of the rank for prefill, the second waits for keys and values. */
const answerTokens = 8;
/** Beside the prompt: a stream has so many more. */
const contextMore = 200;
const kvPoolBytes = 2 ** 30;
const most = 1.2;

interface Pair {
  readonly quiet: number;
  readonly disturbed: number;
}
type Round = Readonly<Record<"gap" | "first" | "second", Pair>>;

let texts = 0;
/** No two of them begin alike. */
function promptOf(tokens: number): number[] {
  const seed = ++texts;
  return Array.from({ length: tokens }, (_, i) => 3 + ((i * 37 + seed * 101 + i * i * seed) % 240));
}

/** When each token came; ends early where `enough` says so. */
async function timesOf({ httpPort }: Gateway, tokens: number, maxTokens: number, enough: (at: number[]) => boolean = () => false) {
  const at: number[] = [];
  const leave = new AbortController();
  const body = JSON.stringify({ model: "tiny", prompt: promptOf(tokens), max_tokens: maxTokens, temperature: 0, stream: true });
  const from = performance.now();
  try {
    const url = `http://127.0.0.1:${httpPort}/v1/completions`;
    const response = await fetch(url, { method: "POST", body, signal: leave.signal });
    if (response.body === null || response.status !== 200)
      throw new Error(`the gateway answers ${response.status}: ${await response.text()}`);
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      for (const _ of chunk.matchAll(/"text":"[^"]/g)) at.push(performance.now());
      if (enough(at)) leave.abort();
    }
  } catch (caught) {
    if (!leave.signal.aborted) throw caught;
  }
  return { from, at };
}

async function round(gateway: Gateway, promptTokens: number): Promise<Round> {
  const alone = await timesOf(gateway, promptTokens, answerTokens);
  let over = false;
  const begun = Array.from({ length: streamCount }, () => Promise.withResolvers<void>());
  const streams = begun.map(({ resolve }) =>
    timesOf(gateway, streamPrompt, promptTokens + contextMore - streamPrompt - 1, (at) => {
      if (at.length >= quietTokens) resolve();
      return over;
    }),
  );
  await Promise.all(begun.map(({ promise }) => promise));
  const beside = await timesOf(gateway, promptTokens, answerTokens);
  over = true;
  const until = beside.at[0] ?? performance.now();
  const gaps = (await Promise.all(streams)).map(({ at }): Pair => {
    const during = at.filter((time) => time >= beside.from && time <= until);
    if (during.length < 2) during.push(until); // it stood still: the whole time is one gap
    return { quiet: median(gapsOf(at.filter((time) => time < beside.from).slice(-quietTokens))), disturbed: median(gapsOf(during)) };
  });
  const nth = (n: number): Pair => {
    const of = ({ from, at }: typeof alone): number => (at[n] ?? Number.NaN) - (n === 0 ? from : (at[n - 1] as number));
    return { quiet: of(alone), disturbed: of(beside) };
  };
  const worst = gaps.reduce((a, b) => (b.disturbed / b.quiet > a.disturbed / a.quiet ? b : a));
  return { gap: worst, first: nth(0), second: nth(1) };
}

export async function rolesBench(args: readonly string[]): Promise<readonly DisturbedRow[]> {
  const asked = await readArgs(args, ["quota", "copies", "tokens"]);
  const { quota = 0.5 } = sharesOf({ ranks: String(rankCount), ...asked.own }, availableParallelism());
  const copies = count("copies", asked.own.copies ?? "1");
  const promptTokens = count("tokens", asked.own.tokens ?? String(promptTokensUsual));
  const maxContext = promptTokens + contextMore;
  const store = await openStore(asked.storeDir);
  const settings = { backend: asked.backend, codec: asked.codec, threads: 1, maxContext, kvPoolBytes, cpus: quota, copies };
  const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, rankCount, settings);
  const rounds: Record<"apart" | "both", Round[]> = { apart: [], both: [] };
  try {
    const gateway = await gatewayOfRanks(ranks, { maxContext }, { textModel: letters });
    try {
      for (let run = -1; run < asked.runs; run++) {
        for (const kind of ["both", "apart"] as const) {
          const roles = rolesOf(kind === "apart" ? { prefill: 1, decode: 2 } : undefined, [...ranks.byRank.keys()]);
          const members = ranks.members().map((member) => {
            const role = roles.get(member.rank);
            return role === undefined ? member : Object.assign({}, member, { role });
          });
          gateway.apply({ version: (gateway.pool.version ?? 0) + 1, members });
          const made = await round(gateway, promptTokens);
          log(`${kind}: ${JSON.stringify(made)}`);
          if (run >= 0) rounds[kind].push(made); // what comes first opens streams and builds graphs
        }
      }
    } finally {
      await gateway.close(0);
    }
  } finally {
    await ranks.close();
    await store.close();
  }
  const rows = (kind: "apart" | "both", name: string, bound: number | undefined): DisturbedRow[] => {
    const row = (what: string, part: keyof Round, of: number | undefined) =>
      disturbedRow(
        `${name}: ${what}`,
        of,
        rounds[kind].map((each) => each[part]),
      );
    return [
      row(`p50 between tokens of the slowest of ${streamCount} streams`, "gap", bound),
      row(`first token of a prompt of ${promptTokens}`, "first", bound),
      row("from it to the second", "second", undefined),
    ];
  };
  return [...rows("apart", "1 for prefill, 2 for decode", most), ...rows("both", "3 that do both", undefined)];
}
