// Tokens/s of training over ranks by planner, on six workloads with planted routing: ranks are processes, each under its share of the CPUs
// and in a network of its own, and planners take turns round by round. Beside them, with --peer torch, the same model in torch.
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { chromeTrace } from "../../runtime/train/trace/chrome.ts";
import type { Span } from "../../runtime/train/trace/spans.ts";
import { quotaGroup, removeLeftGroups } from "./ranks/quota.ts";
import { count, invalid, log } from "./serve.ts";
import { type Network, openNetworks } from "./training/networks.ts";
import { TorchPeer, torchPython } from "./training/peer.ts";
import { TrainingRanks } from "./training/processes.ts";
import { type RoundFigures, roundFigures, type TrainingRow, trainingRow } from "./training/rows.ts";
import { type PlannerName, plannerNames } from "./training/settings.ts";
import { type WorkloadName, workloadNames } from "./training/workloads.ts";

/** `exact` tries all placements, which are too many here. */
const plannersByDefault = plannerNames.filter((name) => name !== "exact");

const options = {
  ranks: { type: "string", default: "4" },
  cpus: { type: "string", default: String(availableParallelism()) },
  planners: { type: "string", default: plannersByDefault.join(",") },
  workloads: { type: "string", default: workloadNames.join(",") },
  link: { type: "string" },
  steps: { type: "string", default: "4" },
  rounds: { type: "string", default: "3" },
  layers: { type: "string", default: "4" },
  sequences: { type: "string", default: "16" },
  "sequence-length": { type: "string", default: "256" },
  microBatches: { type: "string", default: "8" },
  trace: { type: "string" },
  peer: { type: "string" },
  python: { type: "string" },
} as const;
type Values = ReturnType<typeof parseArgs<{ readonly options: typeof options }>>["values"];

/** Steps before the timed ones of a workload: the forecast's window fills, primaries move, V8 compiles. */
const warmSteps = 6;

function named<Name extends string>(option: string, text: string, known: readonly Name[]): readonly Name[] {
  return text.split(",").map((each) => {
    const found = known.find((name) => name === each);
    if (found === undefined) throw invalid(`--${option}: "${each}" is none of ${known.join(", ")}`);
    return found;
  });
}

interface Asked {
  readonly ranks: number;
  readonly cpus: number;
  readonly planners: readonly PlannerName[];
  readonly workloads: readonly WorkloadName[];
  /** MB/s each way of each rank. */
  readonly link: number | undefined;
  readonly steps: number;
  readonly rounds: number;
  readonly sizes: { readonly layers: number; readonly sequences: number; readonly sequenceLength: number; readonly microBatches: number };
  readonly trace: string | undefined;
  /** Of torch; undefined: without the peer. */
  readonly python: string | undefined;
}

async function asked(args: readonly string[]): Promise<Asked> {
  let values: Values;
  try {
    values = parseArgs({ args: [...args], options }).values;
  } catch (caught) {
    throw invalid(caught instanceof Error ? caught.message : String(caught));
  }
  const number = (name: keyof Values): number => count(name, values[name] ?? "");
  const cpus = Number(values.cpus);
  if (!(cpus > 0 && cpus <= availableParallelism()))
    throw invalid(`--cpus: "${values.cpus}" is not above 0 and at most ${availableParallelism()}`);
  if (values.peer !== undefined && values.peer !== "torch") throw invalid(`--peer: "${values.peer}" is not torch`);
  return {
    ranks: number("ranks"),
    cpus,
    planners: named("planners", values.planners, plannerNames),
    workloads: named("workloads", values.workloads, workloadNames),
    link: values.link === undefined ? undefined : number("link"),
    steps: number("steps"),
    rounds: number("rounds"),
    sizes: {
      layers: number("layers"),
      sequences: number("sequences"),
      sequenceLength: number("sequence-length"),
      microBatches: number("microBatches"),
    },
    trace: values.trace,
    python: values.peer === undefined ? undefined : (values.python ?? (await torchPython(log))),
  };
}

function quotasWork(): boolean {
  removeLeftGroups();
  const tried = quotaGroup(`${process.pid}-try`, 1);
  if ("remove" in tried) {
    tried.remove();
    return true;
  }
  log(`no quotas, so that ranks which wait lend their CPUs to those that do not: ${tried.reason}`);
  return false;
}

interface Measured {
  readonly figures: ReadonlyMap<string, readonly RoundFigures[]>;
  /** Tokens/s of the peer, one a round. */
  readonly peerRates: readonly number[];
  /** Of each rank, the last round of the last planner. */
  readonly spans: readonly (readonly Span[])[];
}

interface Sides {
  readonly ranks: TrainingRanks;
  readonly peer: TorchPeer | undefined;
}

/** All planners on one workload, and the peer, in turns. */
async function measure({ ranks, peer }: Sides, workload: WorkloadName, { planners, steps, rounds, sizes }: Asked): Promise<Measured> {
  const peerRates: number[] = [];
  const tokens = steps * sizes.sequences * sizes.sequenceLength;
  const figures = new Map<string, RoundFigures[]>();
  const losses: number[] = [];
  let spans: readonly (readonly Span[])[] = [];
  for (const planner of planners) {
    await ranks.order({ do: "begin", series: planner, planner, microBatches: sizes.microBatches });
    const { took } = await ranks.steps({ series: planner, workload, from: 1, to: warmSteps + 1 });
    losses.push(took[0]?.losses[0] ?? Number.NaN);
    if (planner === "auto") log(`${workload}: measured ${JSON.stringify(took[0]?.rates)}`);
  }
  if (peer !== undefined) {
    peer.give(workload, warmSteps + rounds * steps);
    const [told] = await peer.steps(workload, 1, warmSteps + 1);
    checkLoss(losses[0] ?? Number.NaN, told?.losses[0] ?? Number.NaN);
  }
  for (let round = 0; round < rounds; round++) {
    const from = warmSteps + 1 + round * steps;
    if (peer !== undefined) {
      const told = await peer.steps(workload, from, from + steps);
      peerRates.push((1000 * tokens) / Math.max(...told.map(({ ms }) => ms)));
      log(`${workload}, torch: ${peerRates.at(-1)?.toFixed(0)} tokens/s`);
    }
    // Those that come later in a round are a little faster, so that rounds take turns in the order.
    for (const planner of round % 2 === 0 ? planners : planners.toReversed()) {
      const { took, cardBytes } = await ranks.steps({ series: planner, workload, from, to: from + steps });
      const found = roundFigures({ took, cardBytes, tokens, steps });
      figures.set(planner, [...(figures.get(planner) ?? []), found]);
      spans = took.map((each) => each.spans);
      log(`${workload}, ${planner}: ${found.tokensPerSecond.toFixed(0)} tokens/s`);
    }
  }
  await ranks.order({ do: "end" });
  return { figures, peerRates, spans };
}

/** Both sides train the same model on the same tokens. */
function checkLoss(ours: number, theirs: number): void {
  if (!(Math.abs(ours - theirs) <= 1e-4 * Math.abs(ours)))
    throw new Error(`the first loss is ${ours}, torch's ${theirs}: they compute different things`);
}

export async function trainingBench(args: readonly string[]): Promise<readonly TrainingRow[]> {
  const given = await asked(args);
  const quotas = quotasWork();
  const networks = await openNetworks(given.ranks, given.link);
  if ("reason" in networks) {
    if (given.link !== undefined) throw invalid(`--link: ${networks.reason}`);
    log(`no networks of their own, so that bytes on the wire are not told: ${networks.reason}`);
  }
  const loopback: Network = { command: [], address: "127.0.0.1", bytes: () => Number.NaN };
  const places = "reason" in networks ? new Array<Network>(given.ranks).fill(loopback) : networks.ranks;
  const rows: TrainingRow[] = [];
  let spans: readonly (readonly Span[])[] = [];
  try {
    const cpus = quotas ? given.cpus / given.ranks : undefined;
    const ranks = await TrainingRanks.start({ sizes: given.sizes, networks: places, cpus });
    let peer: TorchPeer | undefined;
    try {
      const join = (rank: number, pid: number): void => ranks.join(rank, pid);
      if (given.python !== undefined) peer = await TorchPeer.start({ python: given.python, networks: places, sizes: given.sizes, join });
      for (const workload of given.workloads) {
        const { figures: all, peerRates, spans: last } = await measure({ ranks, peer }, workload, given);
        spans = last;
        for (const [planner, figures] of all)
          rows.push(trainingRow({ workload, planner, figures, ep: all.get("ep") ?? [], all: [...all.values()], peer: peerRates }));
      }
    } finally {
      await peer?.close();
      await ranks.close();
    }
  } finally {
    if ("close" in networks) networks.close();
  }
  if (given.trace !== undefined) {
    writeFileSync(given.trace, chromeTrace(spans.map((own, rank) => ({ name: `rank ${rank}`, spans: own }))));
    log(`the last steps are in ${given.trace}: open it at https://ui.perfetto.dev`);
  }
  return rows;
}
