// What papers on models larger than memory claim, beside what their idea gives here on a small model, with a control that should not.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readExpertTrace } from "../../operator/cli/expert-trace-file.ts";
import { recordTrace } from "../../runtime/cli/trace.ts";
import { createBackend } from "../../runtime/compute/index.ts";
import { predictors } from "../../runtime/experts/prefetch/index.ts";
import type { ExpertTrace } from "../../runtime/experts/replay/trace.ts";
import { batchedExperts, faster, hitsToLru, loadedOnce, lostByPruning, mixed } from "./papers/replays.ts";
import { batchedRatio, dealtRatio, halvedRatio, streamedRatio, ternaryRatio } from "./papers/simulated.ts";
import { SmallStores } from "./papers/stores.ts";
import { type Asked, invalid, log, readArgs } from "./serve.ts";
import { round } from "./speed-rows.ts";
import { tiersBench } from "./tiers.ts";

interface World {
  readonly asked: Asked;
  /** Recorded when it is asked for first. */
  trace(): Promise<ExpertTrace>;
  readonly stores: SmallStores;
}

interface Figure {
  readonly here: number;
  readonly control: number;
}

interface Paper {
  /** What the figure is, and what the paper says of it. */
  readonly what: string;
  readonly claim: string;
  readonly better: "more" | "less";
  readonly control: string;
  readonly by: string;
  /** Unset: not in the product, as `by` says. */
  readonly run?: (world: World) => Promise<Figure>;
}

const batch = 16;
const onTrace = (of: (trace: ExpertTrace) => Figure) => async (world: World) => of(await world.trace());

/** In the order. To fill one that is out: its `run`, and in `by` what turns it on. */
const papers: Readonly<Record<string, Paper>> = {
  "SE-MoE": {
    what: "tokens/s of a ring of whole layers to loading on demand, 16 texts at once",
    ...{ claim: "1.13 to DeepSpeed", better: "more", control: "random", by: "experts.prefetch: Ring" },
    run: onTrace((trace) => ({ here: faster(trace, predictors.ring, batch), control: faster(trace, predictors.random, batch) })),
  },
  "Pre-gated MoE": {
    what: "tokens/s of asking the next layer's router to loading on demand",
    ...{ claim: "1.5", better: "more", control: "random", by: "experts.prefetch: NextGate" },
    run: onTrace((trace) => ({ here: faster(trace, predictors["next-gate"]), control: faster(trace, predictors.random) })),
  },
  ExpertFlow: {
    what: "hits of path prediction to those of LRU",
    ...{ claim: "1.20 (91.9% to 76.6%)", better: "more", control: "shuffled trace", by: "experts.prefetch: Path" },
    run: onTrace((trace) => ({ here: hitsToLru(trace), control: hitsToLru(mixed(trace)) })),
  },
  "Read-ME": {
    what: "different experts of a batch of texts of one topic to those of texts in their order",
    ...{ claim: "0.69 (3.51 to 5.08)", better: "less", control: "batches by chance", by: "out: requests are not sorted by experts" },
    run: onTrace((trace) => ({ here: batchedExperts(trace, "topic"), control: batchedExperts(trace, "chance") })),
  },
  M2R2: {
    what: "tokens/s of asking it with moved rows to loading on demand",
    ...{ claim: "2.9", better: "more", control: "rows as they are", by: "experts.prefetch: Residual; trained adapters: out" },
    run: onTrace((trace) => ({ here: faster(trace, predictors.residual), control: faster(trace, predictors["next-gate"]) })),
  },
  "ZeRO-Infinity": {
    what: "bytes of experts to memory for them, texts equal",
    ...{ claim: "50 to what memory holds", better: "more", control: "Never", by: "experts.oversubscription: Allow" },
    run: async ({ asked }) => {
      const options = ["--store", asked.storeDir, "--codec", asked.codec, "--shares", "100,35", "--streams", "1", "--runs", "1", "--alone"];
      const rows = (await tiersBench(options)) as readonly { readonly sameText: boolean }[];
      return { here: rows.every(({ sameText }) => sameText) ? 100 / 35 : 0, control: 1 };
    },
  },
  "DeepSpeed Inference": {
    what: "bytes of a model to those that its device needs, layers streamed, in Llama-3-70B's shape",
    ...{ claim: "25", better: "more", control: "all stay", by: "runtime.deviceDenseMemory" },
    run: async () => ({ here: streamedRatio(), control: 1 }),
  },
  "ZeRO-Inference": {
    what: "tokens/s of 4,096 rows in a step to those of 64, layers streamed at 25 GB/s, by bytes and products",
    ...{ claim: "memory that is spared is for a larger batch", better: "more", control: "all stay", by: "runtime.deviceDenseMemory" },
    run: async () => ({ here: batchedRatio(4096, 64, true), control: batchedRatio(4096, 64, false) }),
  },
  "Micro-batches": {
    what: "time of a step of 8 texts to one of 4, by bytes: the most that halves at once on two devices gain, 128 experts",
    ...{ claim: "-", better: "more", control: "64 texts", by: "out: ranks of one device each compute at once; devices adds memory" },
    run: async () => ({ here: halvedRatio(8, 128, 8), control: halvedRatio(64, 128, 8) }),
  },
  "MC-MoE": {
    what: "error of experts with as many bits as each needs to as many dealt by number",
    ...{ claim: "67.5 of 71.3 points at 2.5 bits, one type 42.7", better: "less", control: "by number", by: "model quantize --bits" },
    run: async ({ stores }) => ({ here: await stores.quantizeError(), control: 1 }),
  },
  QMoE: {
    ...{
      what: "bytes of bf16 to those of ternary in a dictionary code",
      claim: "19.8 (0.807 bits)",
      better: "more",
      control: "as many of each value",
    },
    by: "model quantize --types qmoe",
    run: async () => ({ here: ternaryRatio(0.885), control: ternaryRatio(1 / 3) }),
  },
  Duplex: {
    what: "time of the faster engine to that of both, 8 experts of 1 to 128 rows, device 8 times faster but for a start",
    ...{ claim: "2.67 to a GPU, simulated", better: "more", control: "one engine", by: "runtime.deviceExpertMemory" },
    run: async () => ({ here: dealtRatio(), control: 1 }),
  },
  "Edge-MoE": {
    what: "loads of an expert for 16 tokens together to those for each by itself",
    ...{ claim: "each expert once in a layer", better: "less", control: "token by token", by: "always" },
    run: onTrace((trace) => ({ here: loadedOnce(trace, batch), control: 1 })),
  },
  M3: {
    what: "choices lost where the least used quarter of the experts goes; a merge that is undone has the digest",
    ...{ claim: "pruned by use", better: "less", control: "the first quarter", by: "model prune --keep --load, model merge" },
    run: async ({ trace, stores }) => {
      const recorded = await trace();
      const undone = await stores.mergesBack();
      return { here: undone ? lostByPruning(recorded, "use") : Number.NaN, control: lostByPruning(recorded, "number") };
    },
  },
  "SS-MoE": {
    what: "error of the mean of experts to the FFN that they were made of",
    ...{ claim: "0 where experts are alike", better: "less", control: "noise of 0.5", by: "model average" },
    run: async ({ stores }) => ({ here: await stores.averageError(0), control: await stores.averageError(0.5) }),
  },
  UoE: {
    what: "error of logits where a token uses all 8 parts of an FFN",
    ...{ claim: "0 but for the order of sums", better: "less", control: "4 of 8 parts", by: "model split" },
    run: async ({ stores }) => ({ here: await stores.splitError(8), control: await stores.splitError(4) }),
  },
};

const topics = join(import.meta.dirname, "../../runtime/modelstore/upcycle/topics");

async function recorded({ storeDir, codec }: Asked): Promise<ExpertTrace> {
  const files = (await readdir(topics)).sort().map((name) => join(topics, name));
  const sizes = { texts: 2, prompt: 32, tokens: 48, follow: true, threads: 1 };
  return recordTrace({ dir: storeDir, files, codec, backend: "cpu", ...sizes }, log);
}

export async function papersBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["trace", "only"]);
  const names = asked.own.only?.split(",") ?? Object.keys(papers);
  const known = (name: string): string | undefined => Object.keys(papers).find((each) => each.toLowerCase() === name.trim().toLowerCase());
  const unknown = names.find((name) => known(name) === undefined);
  if (unknown !== undefined) throw invalid(`--only: "${unknown}" is none of ${Object.keys(papers).join(", ")}`);
  const dir = await mkdtemp(join(tmpdir(), "enodia-papers-"));
  const backend = await createBackend("cpu", { threads: 1 });
  let trace: Promise<ExpertTrace> | undefined;
  const traced = (): Promise<ExpertTrace> => (trace ??= asked.own.trace ? readExpertTrace(asked.own.trace) : recorded(asked));
  try {
    const world: World = { asked, trace: traced, stores: new SmallStores(dir, backend) };
    const rows: object[] = [];
    for (const name of names.map((each) => known(each) as string)) {
      log(name);
      rows.push(await rowOf(name, papers[name] as Paper, world));
    }
    return rows;
  } finally {
    await backend.close();
    await rm(dir, { recursive: true, force: true });
  }
}

async function rowOf(paper: string, { what, claim, better, control, by, run }: Paper, world: World): Promise<object> {
  const figure = await run?.(world);
  const shown = (value: number | undefined): number | "-" => (value === undefined ? "-" : round(value, value < 0.01 ? 9 : 2));
  const holds = figure && (better === "more" ? figure.here > figure.control : figure.here < figure.control);
  return { paper, what, claim, here: shown(figure?.here), control, ofControl: shown(figure?.control), ok: holds ?? "-", by };
}
