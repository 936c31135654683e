// The pause of a stream whose worker is killed: two workers as processes, each with all experts, behind the gateway's own pool and
// failover, over the real wire on loopback. The worker that answers is killed after so many tokens; the other one prefills the prompt
// and those tokens and goes on. Beside it, once the killed one is known to be lost, the other worker prefills as many tokens when quiet.
import { gatewayRank } from "../../crds/common.ts";
import { type Generated, type Generation, generate, type Stall, type Workers } from "../../runtime/gateway/routing/failover.ts";
import { failoverLimits } from "../../runtime/gateway/routing/patience.ts";
import { WorkerPool } from "../../runtime/gateway/routing/worker-pool.ts";
import { grpcNetwork } from "../../runtime/net/grpc.ts";
import { createTracing } from "../../runtime/observe/trace.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { deployment, deploymentUid, namespace, type Ranks } from "../kit/ranks/ranks.ts";
import { RankProcesses, type RankSettings } from "./ranks/processes.ts";
import { count, log, prompt, readArgs } from "./serve.ts";
import { median, ratioOf, round } from "./speed-rows.ts";

const workers = 2;
const promptTokens = 32;
const tokensDefault = "500";
/** Tokens after those, whose text must be the same. */
const tokensAfter = 32;
const quietPrefills = 3;
const kvPoolBytes = 2 ** 29;
const requestMs = 600_000;

/** The tokens of a request, the milliseconds at which they came, and the rank that began it. */
interface Came {
  readonly tokens: number[];
  readonly at: number[];
  rank: number;
  stall?: Stall;
  startedAt: number;
}

/** Milliseconds of one round. */
export interface Loss {
  /** Between the last token of the first worker and the first one of the other. */
  readonly pause: number;
  /** Parts of it, as the gateway tells them: until the loss is known, until the other worker computes, until its first token. */
  readonly detection: number;
  readonly failover: number;
  readonly prefill: number;
  /** The same prefill when nothing else runs. */
  readonly quietPrefill: number;
  /** The tokens are those of an unbroken run. */
  readonly sameText: boolean;
}

/** Of the pause without the detection, to the quiet prefill. */
const most = 1.2;

export function failoverRow(name: string, losses: readonly Loss[]) {
  const middle = (part: Exclude<keyof Loss, "sameText">): number => round(median(losses.map((each) => each[part])));
  const ratio = ratioOf(
    losses.map(({ pause, detection }) => pause - detection),
    losses.map(({ quietPrefill }) => quietPrefill),
  );
  const same = losses.filter(({ sameText }) => sameText).length;
  return {
    ...{ case: name, pauseMs: middle("pause"), detectionMs: middle("detection"), failoverMs: middle("failover") },
    ...{ prefillMs: middle("prefill"), quietPrefillMs: middle("quietPrefill"), ratio: round(ratio, 2), most },
    ...{ sameText: `${same} of ${losses.length}`, ok: ratio <= most && same === losses.length },
  };
}

/** The clock of the gateway's deadlines, in parts of milliseconds. */
const now = (): number => performance.timeOrigin + performance.now();

async function ask(pool: Workers, ids: readonly number[], maxTokens: number, onToken: (came: Came) => unknown = () => {}): Promise<Came> {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, logprobs: false };
  const rest = { requestId: "bench", eos: [], traceparent: "", signal: new AbortController().signal };
  const request: Generation = Object.assign({ prompt: ids, maxTokens, sampling, deadlineUnixMs: Date.now() + requestMs }, rest);
  const came: Came = { tokens: [], at: [], rank: -1, startedAt: 0 };
  const take = (event: Generated): unknown => {
    if (event.type === "started") {
      if (came.rank < 0) came.rank = event.rank;
      came.startedAt = now();
    }
    if (event.type !== "token") return undefined;
    came.tokens.push(event.id);
    came.at.push(now());
    return onToken(came);
  };
  const onRecovered = (stall: Stall): void => {
    came.stall = stall;
  };
  for await (const event of generate(request, pool, failoverLimits, { now, onRecovered })) await take(event);
  return came;
}

/** The pool without one rank, while there is another. */
export const without = (pool: Workers, rank: number): Workers => ({
  start: (request, replay, { avoid, busy }) => pool.start(request, replay, { avoid: new Set([...avoid, rank]), busy }),
  changed: (timeoutMs, signal) => pool.changed(timeoutMs, signal),
});

/** From the moment that a worker computes it to its first token. */
async function prefillMs(pool: Workers, tokens: number, vocab: number): Promise<number> {
  const { at, startedAt } = await ask(pool, prompt(tokens, vocab), 1);
  return (at[0] ?? startedAt) - startedAt;
}

export async function poolOf(ranks: Ranks): Promise<WorkerPool> {
  const identity = { deploymentUid, rank: gatewayRank, podUid: "gateway", bootId: "gateway" };
  const tracing = await createTracing({ service: "gateway" });
  const pool = new WorkerPool({
    identity,
    namespace,
    deployment,
    tls: ranks.tls("gateway"),
    network: grpcNetwork,
    tracing,
    routing: "PrefixAware",
  });
  pool.apply({ version: 1, members: ranks.members() });
  return pool;
}

async function loss(ranks: RankProcesses, pool: WorkerPool, tokens: number, vocab: number): Promise<Loss> {
  const ids = prompt(promptTokens, vocab);
  const whole = await ask(pool, ids, tokens + tokensAfter);
  const other = without(pool, whole.rank);
  await prefillMs(other, promptTokens + tokens, vocab); // the first one builds graphs
  let killed: Promise<unknown> | undefined;
  const broken = await ask(without(pool, 1 - whole.rank), ids, tokens + tokensAfter, (came) => {
    if (came.tokens.length === tokens) killed = ranks.kill(came.rank);
  });
  await killed;
  const { stall } = broken;
  if (stall === undefined || broken.rank !== whole.rank) throw new Error("the stream had ended before its worker was gone; --tokens");
  await ranks.push({ [whole.rank]: "lost" });
  const quiet: number[] = [];
  for (let i = 0; i < quietPrefills; i++) quiet.push(await prefillMs(other, promptTokens + stall.tokensReplayed, vocab));
  const { at } = broken;
  return {
    pause: (at[stall.tokensReplayed] as number) - (at[stall.tokensReplayed - 1] as number),
    ...{ detection: stall.detectionMs, failover: stall.failoverMs, prefill: stall.replayMs, quietPrefill: median(quiet) },
    sameText: broken.tokens.join() === whole.tokens.join(),
  };
}

export async function failoverBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["tokens"]);
  const tokens = count("tokens", asked.own.tokens ?? tokensDefault);
  const store = await openStore(asked.storeDir);
  const vocab = (store.config as { vocab_size: number }).vocab_size;
  const maxContext = promptTokens + tokens + tokensAfter;
  const compute = { backend: asked.backend, codec: asked.codec, threads: asked.threads[0] ?? 1 };
  const settings: RankSettings = Object.assign(compute, { maxContext, kvPoolBytes, cpus: undefined, copies: workers });
  const losses: Loss[] = [];
  try {
    for (let run = 0; run < asked.runs; run++) {
      const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, workers, settings);
      const pool = await poolOf(ranks);
      try {
        losses.push(await loss(ranks, pool, tokens, vocab));
        log(JSON.stringify(losses.at(-1)));
      } finally {
        pool.close();
        await ranks.close();
      }
    }
  } finally {
    await store.close();
  }
  return [failoverRow(`killed after ${tokens} tokens`, losses)];
}
