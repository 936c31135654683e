// Another client's long prompt beside a running stream, and what each does to the other: the time between the stream's tokens on one
// rank while a prompt is prefilled on another, and that prompt's time to its first token, each beside its quiet value of the same round.
import { availableParallelism } from "node:os";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { RankProcesses } from "./ranks/processes.ts";
import { type DisturbedRow, disturbedRow } from "./ranks/rows.ts";
import { sharesOf } from "./ranks/shares.ts";
import { log, prompt, readArgs } from "./serve.ts";
import { median } from "./speed-rows.ts";

const promptTokens = 1_580;
const streamPrompt = 32;
const quietTokens = 60;
const maxContext = 2_048;
const kvPoolBytes = 2 ** 30;
const gapMost = 1.5;
const firstTokenMost = 1.3;

/** Milliseconds between neighbours. */
export const gapsOf = (at: readonly number[]): number[] => at.slice(1).map((time, i) => time - (at[i] as number));

interface Round {
  readonly gap: { readonly quiet: number; readonly disturbed: number };
  readonly firstToken: { readonly quiet: number; readonly disturbed: number };
}

/** Milliseconds until the first token of a long prompt, on the second rank. */
async function firstToken(ranks: RankProcesses, vocab: number): Promise<{ readonly from: number; readonly to: number }> {
  const from = performance.now();
  await ranks.text([1], prompt(promptTokens, vocab), 1);
  return { from, to: performance.now() };
}

/** A stream on the first rank: quiet at first, then with the prompt beside it, until that has its first token. */
async function round(ranks: RankProcesses, vocab: number): Promise<Round> {
  const alone = await firstToken(ranks, vocab);
  const at: number[] = [];
  let prefill: Promise<{ from: number; to: number }> | undefined;
  let over = false;
  const stream = ranks
    .text([0], prompt(streamPrompt, vocab), maxContext - streamPrompt - 1, () => {
      at.push(performance.now());
      if (at.length === quietTokens) prefill = firstToken(ranks, vocab).finally(() => (over = true));
      if (over) throw new Enough();
    })
    .catch((caught: unknown) => {
      if (!(caught instanceof Error && caught.cause instanceof Enough)) throw caught;
    });
  await stream;
  const beside = await (prefill ?? Promise.reject(new Error("the stream ended before the prompt came")));
  const during = at.filter((time) => time >= beside.from && time <= beside.to);
  if (during.length < 2) during.push(beside.to); // it stood still: the whole time is one gap
  return {
    gap: { quiet: median(gapsOf(at.slice(0, quietTokens))), disturbed: median(gapsOf(during)) },
    firstToken: { quiet: alone.to - alone.from, disturbed: beside.to - beside.from },
  };
}

/** Ends a stream from within. */
class Enough extends Error {}

export async function interferenceBench(args: readonly string[]): Promise<readonly DisturbedRow[]> {
  const asked = await readArgs(args, ["ranks"]);
  const { counts } = sharesOf({ ranks: asked.own.ranks ?? "3" }, availableParallelism());
  const store = await openStore(asked.storeDir);
  const vocab = (store.config as { vocab_size: number }).vocab_size;
  const rows: DisturbedRow[] = [];
  try {
    for (const count of counts) {
      const settings = { backend: asked.backend, codec: asked.codec, threads: 1, maxContext, kvPoolBytes, cpus: undefined };
      const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, Math.max(2, count), settings);
      const rounds: Round[] = [];
      try {
        await ranks.text([0], prompt(streamPrompt, vocab), 8); // what comes first opens streams and builds graphs
        await firstToken(ranks, vocab);
        for (let run = 0; run < asked.runs; run++) {
          rounds.push(await round(ranks, vocab));
          log(`${JSON.stringify(rounds.at(-1))}`);
        }
      } finally {
        await ranks.close();
      }
      const name = (what: string): string => `${ranks.byRank.size} ranks: ${what}`;
      rows.push(
        disturbedRow(
          name("p50 between a stream's tokens, a prompt elsewhere"),
          gapMost,
          rounds.map(({ gap }) => gap),
        ),
      );
      rows.push(
        disturbedRow(
          name(`first token of that prompt of ${promptTokens}`),
          firstTokenMost,
          rounds.map((each) => each.firstToken),
        ),
      );
    }
  } finally {
    await store.close();
  }
  return rows;
}
