// Load through 2, 4 and 2 ranks again: workers as processes behind a gateway on loopback, and clients whose streams go on all the while. What
// the operator does for a changed `/scale` is done here in its order: ranks join, a plan takes experts to them and is committed; then ranks
// drain, a plan takes their experts away, their streams go on elsewhere, and they end. Texts must be those of the quiet start.
import { setTimeout as sleep } from "node:timers/promises";
import type { MemberState } from "../../crds/names.ts";
import { openTextModel } from "../../runtime/text/text-thread.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { gatewayOfRanks } from "../kit/gateway/local-gateway.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { topics } from "../kit/gateway/topics.ts";
import { RankProcesses, type RankSettings } from "./ranks/processes.ts";
import { count, log, readArgs } from "./serve.ts";
import { median, p99, round } from "./speed-rows.ts";

const [few, many] = [2, 4] as const;
const [clientsDefault, secondsDefault] = ["4", "20"];
const answerTokens = 48;
const maxContext = 512;
const kvPoolBytes = 2 ** 28;
const model = "tiny";
/** Few, so that each is answered by one number of ranks and by the other. */
const prompts = Object.values(topics).map((texts) => texts[0]);
/** Others may read a drained rank's keys and values for so long. */
const kvWantedMs = 1_500;

interface Seen {
  readonly gaps: { readonly at: number; readonly ms: number }[];
  readonly ends: { readonly at: number; readonly failed: string | undefined }[];
  readonly texts: Map<string, string>;
  differ: number;
}

/** Clients that ask one prompt after another until they are told to stop. */
function startClients(port: number, clients: number): { readonly seen: Seen; stop(): Promise<unknown> } {
  const seen: Seen = { gaps: [], ends: [], texts: new Map(), differ: 0 };
  let [running, next] = [true, 0];
  const one = async (): Promise<void> => {
    const prompt = prompts[next++ % prompts.length] as string;
    let last = 0;
    const onToken = (): void => {
      const at = performance.now();
      if (last > 0) seen.gaps.push({ at, ms: at - last });
      last = at;
    };
    const failed = await ask({ url: `http://127.0.0.1:${port}`, model, prompt, maxTokens: answerTokens, api: "text", onToken }).then(
      ({ text }) => {
        const known = seen.texts.get(prompt) ?? text;
        seen.texts.set(prompt, known);
        if (known !== text) seen.differ += 1;
      },
      (caught) => String(caught),
    );
    seen.ends.push({ at: performance.now(), failed: failed ?? undefined });
  };
  const client = async (): Promise<void> => {
    while (running) await one();
  };
  const all = Array.from({ length: clients }, client);
  return {
    seen,
    stop: () => {
      running = false;
      return Promise.all(all);
    },
  };
}

interface Phase {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

function rowOf({ name, from, to }: Phase, { gaps, ends }: Seen) {
  const within = ({ at }: { readonly at: number }): boolean => at >= from && at < to;
  const own = gaps.filter(within).map(({ ms }) => ms);
  const ended = ends.filter(within);
  const errors = ended.filter(({ failed }) => failed !== undefined);
  for (const { failed } of errors.slice(0, 3)) log(`${name}: ${failed}`);
  const times = { p50Ms: round(median(own)), p99Ms: round(p99(own)), mostMs: round(Math.max(...own)) };
  const seconds = (to - from) / 1000;
  const counted = { requests: ended.length, errors: errors.length, "tokens/s": round(own.length / seconds) };
  return { phase: name, seconds: round(seconds), ...counted, ...times, ok: errors.length === 0 };
}

/** Others' figures as they published them, on their machines. */
const published = [
  {
    phase: "GPUStack 2 -> 4, as published (8 H100)",
    requests: 439,
    errors: 0,
    why: "elastic-ep-benchmark in its docs; it refuses to shrink",
  },
  { phase: "vLLM grows, as published", seconds: 31, why: "vllm #43788, #44994; 3 to 4 s where ranks wait" },
  { phase: "vLLM shrinks, as published", seconds: 7, why: "the same; a lost rank: 57 s, its requests aborted (#46370)" },
];

class Scaling {
  readonly #ranks: RankProcesses;
  readonly #gateway: Awaited<ReturnType<typeof gatewayOfRanks>>;
  #version = 1_000;

  constructor(ranks: RankProcesses, gateway: Awaited<ReturnType<typeof gatewayOfRanks>>) {
    [this.#ranks, this.#gateway] = [ranks, gateway];
  }

  async grow(): Promise<void> {
    const joining = Array.from({ length: many - few }, (_, i) => few + i);
    await Promise.all(joining.map((rank) => this.#ranks.launch(rank)));
    await this.#ranks.push();
    await this.#place(many);
    this.#tell({});
  }

  async shrink(): Promise<void> {
    const leaving = [...this.#ranks.byRank.keys()].filter((rank) => rank >= few);
    const states = Object.fromEntries(leaving.map((rank) => [rank, "draining" as MemberState]));
    await this.#ranks.push(states);
    this.#tell(states);
    await this.#place(few);
    await Promise.all(leaving.map((rank) => this.#ranks.control(rank).drain({ sender: this.#ranks.sender() })));
    await sleep(kvWantedMs);
    const workers = leaving.map((rank) => this.#ranks.byRank.get(rank)?.worker);
    for (const rank of leaving) this.#ranks.byRank.delete(rank);
    await this.#ranks.push();
    this.#tell({});
    await Promise.all(workers.map((worker) => worker?.close(0)));
  }

  /** Experts evenly over so many ranks. */
  async #place(ranks: number): Promise<void> {
    const layers = Array.from({ length: this.#ranks.index.layers }, (_, layer) =>
      this.#ranks.layerPlan(layer, 0, (expert) => [(expert + layer) % ranks]),
    );
    await this.#ranks.carryOut(this.#ranks.nextPlan(layers));
  }

  #tell(states: Readonly<Record<number, MemberState>>): void {
    this.#gateway.apply({ version: this.#version++, members: this.#ranks.members(states) });
  }
}

export async function scaleBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["clients", "seconds"]);
  const clients = count("clients", asked.own.clients ?? (clientsDefault as string));
  const steadyMs = 1_000 * count("seconds", asked.own.seconds ?? (secondsDefault as string));
  const store = await openStore(asked.storeDir);
  const textModel = await openTextModel(asked.storeDir);
  const compute = { backend: asked.backend, codec: asked.codec, threads: 1 };
  const settings: RankSettings = Object.assign(compute, { maxContext, kvPoolBytes, cpus: undefined });
  const ranks = await RankProcesses.start({ dir: asked.storeDir, index: store.index }, few, settings);
  const gateway = await gatewayOfRanks(ranks, { maxContext, servedName: model }, { textModel });
  const scaling = new Scaling(ranks, gateway);
  try {
    const warm = startClients(gateway.httpPort, clients);
    await sleep(steadyMs / 2);
    await warm.stop();
    const { seen, stop } = startClients(gateway.httpPort, clients);
    const phases: Phase[] = [];
    const phase = async (name: string, work: () => Promise<unknown>): Promise<void> => {
      const from = performance.now();
      await work();
      phases.push({ name, from, to: performance.now() });
      log(`${name}: ${round((performance.now() - from) / 1000)} s`);
    };
    await phase(`${few} ranks`, () => sleep(steadyMs));
    await phase(`${few} -> ${many}`, () => scaling.grow());
    await phase(`${many} ranks`, () => sleep(steadyMs));
    await phase(`${many} -> ${few}`, () => scaling.shrink());
    await phase(`${few} ranks again`, () => sleep(steadyMs));
    await stop();
    const rows = phases.map((each) => rowOf(each, seen));
    const texts = { phase: `texts that differ, of ${seen.ends.length}`, errors: seen.differ, ok: seen.differ === 0 };
    return [...rows, texts, ...published];
  } finally {
    await gateway.close(0);
    await ranks.close();
    await textModel.close();
    await store.close();
  }
}
