// `enodia plan simulate`: runs placement policies over a trace, planning on each window and scoring on the next.

import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { defaultPolicy, policyNames } from "../../../crds/names.ts";
import { type LayerPlan, weightsTotal } from "../../../crds/plan.ts";
import { expertCount } from "../../../runtime/placement/grid.ts";
import { policies } from "../../planner/index.ts";
import {
  type SimulateOptions,
  type SplitName,
  simulate,
  splitNames,
  summarise,
  type WindowResult,
} from "../../planner/offline/simulate.ts";
import { decodeTrace, sizeText, type Trace } from "../../planner/offline/traces.ts";
import { efforts } from "../../planner/policy.ts";
import { choice, declare, flag, text, type Values, value } from "../command.ts";
import { asksForJson, namesOf, outputOptions, positives, whole } from "../options.ts";
import { type OutputFile, openOutput, writeOutput } from "../output-file.ts";
import { svgOutput } from "../svg.ts";
import { table } from "../table.ts";
import { plot, plotCommand } from "./plan-plot.ts";

const bounds = { ranks: 4096, slots: 4096, slotsTotal: 4_194_304, expertReplicas: 2 ** 31, bytes: 2 ** 40 } as const;

const options = {
  ...outputOptions,
  trace: text("--trace <file>", 'recorded by "enodia plan record" or written by "enodia plan generate"'),
  ranks: value("--ranks <number>", "ranks that host experts", whole(1, bounds.ranks)),
  slots: value("--slots <number>", "most experts per layer and rank", whole(1, bounds.slots)),
  slotsTotal: value("--slots-total <number>", "most experts per rank over all layers: layers may differ", whole(1, bounds.slotsTotal)),
  policy: choice("--policy <name>", "the policy", policyNames, defaultPolicy),
  compare: value("--compare <names>", "more policies on the same trace, with commas between", namesOf(policyNames), []),
  split: choice(
    "--split <name>",
    "how tokens are split among replicas of an expert: equal; fixed: weights computed with the plan; optimal: computed anew for the window scored, the limit",
    splitNames,
    "fixed",
  ),
  budgetExpertReplicas: value("--budget-expert-replicas <number>", "most new replicas per plan", whole(0, bounds.expertReplicas)),
  budgetExpertReplicasPerRank: value(
    "--budget-expert-replicas-per-rank <number>",
    "most of them on one rank",
    whole(0, bounds.expertReplicas),
  ),
  rankSpeeds: value("--rank-speeds <list>", "relative speed of each rank, by comma; a shorter list is repeated", positives),
  timing: value(
    "--timing <d,e,c>",
    "measured per window: d seconds of a layer's work that is not experts, e that it waits for experts, c replicas a second that a rank can take; for hecate, which hides them behind other work",
    readTiming,
  ),
  nodes: value("--nodes <number>", "ranks are on so many nodes, in order (default: each on its own)", whole(1, bounds.ranks)),
  minExpertReplicas: value("--min-expert-replicas <number>", "least hosts per expert (default: 1)", whole(1, bounds.ranks)),
  expertBytes: value(
    "--expert-bytes <number>",
    "bytes of one expert, for the bytes printed: by default of DeepSeek-V3 in FP8",
    whole(0, bounds.bytes),
    44_040_192,
  ),
  windows: value("--windows <number>", "only the first windows", whole(1, 2 ** 31)),
  effort: choice("--effort <name>", "of the search", efforts, "quality"),
  planOut: text("--plan-out <file>", "one JSON line per window: {window, epoch, layers: [{hosts, weights}], expert replicas, bytes, ms}"),
  plot: text("--plot <file>", "heat map of rank loads and time series, SVG (default: beside the trace, as <trace>.plot.svg)"),
  noPlot: flag("--no-plot", "no picture"),
};
type SimulateRequest = Values<typeof options>;

export const command = declare({
  about: "Plans on the windows of a trace up to t and scores each plan on window t+1.",
  options,
  notes: "example   enodia plan simulate --trace day.json.gz --ranks 8 --slots 10 --compare eplb",
  action: run,
});

async function run(request: SimulateRequest): Promise<number> {
  const { split, expertBytes, planOut } = request;
  const json = asksForJson(request);
  const file = required(request.trace, "--trace", "the file to read");
  const trace = await decodeTrace(await readFile(file));
  if (request.plot !== undefined && request.noPlot) throw invalid("--plot and --no-plot exclude each other");
  const setup = readSetup(request, trace);
  // Refuse impossible policies before computing anything.
  const chosen = [request.policy, ...request.compare].map((name) => policies[name]);
  const lines = planOut === undefined ? undefined : await planWriter(planOut, expertBytes);
  const runs: { name: string; results: WindowResult[] }[] = [];
  for (const [i, policy] of chosen.entries()) {
    const writer = i === 0 ? lines : undefined;
    const results = await simulate({ ...setup, policy, ...(writer ? { onWindow: writer.write } : {}) });
    await writer?.close();
    runs.push({ name: policy.name, results });
  }
  const rows = runs.map(({ name, results }) => summary(name, results, split, expertBytes));
  const svg = request.noPlot ? undefined : await savePlot(request.plot, file, plot({ trace, split, runs, ranks: setup.ranks }));
  const report = { trace: sizes(trace), ...describe(file, setup, split), policies: rows, plot: svg ?? null };
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else process.stdout.write(`${[render(trace, setup, split, rows), ...(svg ? ["", `plot: ${svg}`] : [])].join("\n")}\n`);
  return 0;
}

/** Writes to the requested path, else beside the trace, else into the working directory; returns the path. */
async function savePlot(request: string | undefined, trace: string, svg: string): Promise<string | undefined> {
  if (request !== undefined) {
    await writeOutput(plotOutput(request), svg);
    return request;
  }
  const name = `${basename(trace).replace(/(\.json)?(\.gz)?$/, "")}.plot.svg`;
  const places = [join(dirname(trace), name), name];
  for (const place of places) {
    const written = await writeOutput(plotOutput(place), svg).then(
      () => true,
      () => false,
    );
    if (written) return place;
  }
  process.stderr.write(`enodia: no plot: ${places.join(" and ")} cannot be written; name another file with --plot, or --no-plot\n`);
  return undefined;
}

function readSetup(request: SimulateRequest, trace: Trace): Omit<SimulateOptions, "policy"> {
  const {
    slots,
    slotsTotal,
    split,
    budgetExpertReplicas,
    budgetExpertReplicasPerRank,
    rankSpeeds: speeds,
    timing,
    windows,
    nodes,
    minExpertReplicas,
  } = request;
  const ranks = required(request.ranks, "--ranks", "how many ranks host experts");
  if (slots === undefined && slotsTotal === undefined) throw invalid("--slots or --slots-total: how many experts a rank may have");
  if (slots !== undefined && slotsTotal !== undefined) throw invalid("--slots and --slots-total exclude each other");
  if (slots !== undefined) checkSlots("--slots", ranks, slots, trace.experts);
  if (slotsTotal !== undefined) checkSlots("--slots-total", ranks, slotsTotal, expertCount(trace));
  const upTo = {
    "--windows": [windows, trace.windows],
    "--nodes": [nodes, ranks],
    "--min-expert-replicas": [minExpertReplicas, ranks],
  } as const;
  for (const [option, [number = 1, most]] of Object.entries(upTo))
    if (number > most) throw invalid(`${option}: ${number} is more than the ${most} that there are`);
  const present = {
    slots,
    slotsTotal,
    speeds,
    budgetExpertReplicas,
    budgetExpertReplicasPerRank,
    timing,
    windows,
    nodes,
    minExpertReplicas,
  };
  return {
    trace,
    ranks,
    split: split === "equal" ? "equal" : "weighted",
    fixedWeights: split === "fixed",
    effort: request.effort,
    now: () => performance.now(),
    ...(Object.fromEntries(Object.entries(present).filter(([, one]) => one !== undefined)) as Partial<SimulateOptions>),
  };
}

function checkSlots(option: string, ranks: number, slots: number, experts: number): void {
  if (slots * ranks >= experts) return;
  throw invalid(`${option}: ${ranks} ranks x ${slots} slots do not hold ${experts} experts: at least ${Math.ceil(experts / ranks)}`);
}

function readTiming(present: string): NonNullable<SimulateOptions["timing"]> {
  const numbers = positives(present);
  const [denseSeconds, expertSeconds, bytesPerSecond] = numbers;
  if (numbers.length !== 3 || denseSeconds === undefined || expertSeconds === undefined || bytesPerSecond === undefined)
    throw invalid(`${numbers.length} numbers, expected three: other work, waiting for experts, replicas a second`);
  return { denseSeconds, expertSeconds, bytesPerSecond };
}

interface Row {
  readonly policy: string;
  readonly balance: Readonly<Record<SplitName, number>>;
  readonly meanImbalance: number;
  readonly worstImbalance: number;
  readonly bound: number;
  readonly expertReplicas: number;
  readonly expertReplicasPerStep: number;
  readonly bytes: number;
  readonly bytesPerStep: number;
  readonly msMedian: number;
  readonly msMax: number;
  readonly reasons: readonly string[];
}

function summary(policy: string, results: readonly WindowResult[], split: SplitName, expertBytes: number): Row {
  const all = summarise(results, split);
  return {
    policy,
    balance: all.balance,
    meanImbalance: all.meanWorst,
    worstImbalance: all.worst,
    bound: all.bound,
    expertReplicas: all.expertReplicas,
    expertReplicasPerStep: all.expertReplicasPerStep,
    bytes: all.expertReplicas * expertBytes,
    bytesPerStep: all.expertReplicasPerStep * expertBytes,
    msMedian: all.msMedian,
    msMax: all.msMax,
    reasons: results.slice(0, 3).map((result) => result.reason),
  };
}

function render(trace: Trace, setup: Omit<SimulateOptions, "policy">, split: SplitName, rows: readonly Row[]): string {
  const slots = setup.slotsTotal === undefined ? `${setup.slots} slots per layer and rank` : `${setup.slotsTotal} slots per rank`;
  const head = `${trace.name}: ${setup.windows ?? trace.windows} windows, ${sizeText(trace)} on ${setup.ranks} ranks, ${slots}; split ${split}`;
  const cells = rows.map((row) => [
    row.policy,
    ...splitNames.map((name) => known(row.balance[name], 4)),
    known(row.worstImbalance, 3),
    known(row.bound, 3),
    row.expertReplicasPerStep.toFixed(1),
    (row.bytesPerStep / 1e9).toFixed(2),
    row.msMedian.toFixed(1),
    row.msMax.toFixed(1),
  ]);
  const header = ["POLICY", "EQUAL", "FIXED", "OPTIMAL", "WORST", "BOUND", "COPIES/STEP", "GB/STEP", "MS", "MS MAX"];
  const note =
    "EQUAL, FIXED, OPTIMAL: balance = mean/max rank load, mean of layers, by split. WORST: highest max/mean of any layer and window.\nBOUND: least max/mean of the worst layer that the slots allow.";
  return [head, "", table(header, cells), "", note].join("\n");
}

function known(value: number, digits: number): string {
  return Number.isNaN(value) ? "-" : value.toFixed(digits);
}

function describe(file: string, setup: Omit<SimulateOptions, "policy">, split: SplitName): Record<string, unknown> {
  const { trace: _trace, now: _now, ...rest } = setup;
  return { file, options: { ...rest, split } };
}

function sizes(trace: Trace): Record<string, unknown> {
  const { name, windows, layers, experts, layerExperts } = trace;
  return { name, windows, layers, experts, ...(layerExperts ? { layerExperts } : {}) };
}

interface PlanWriter {
  readonly write: (result: WindowResult, layers: readonly LayerPlan[]) => Promise<void>;
  readonly close: () => Promise<void>;
}

const plotOutput = (path: string): OutputFile => svgOutput(path, "--plot", plotCommand);

const planOutput = (path: string): OutputFile => ({
  path,
  option: "--plan-out",
  kind: "plans of this command",
  isOurs: (head) => /^\{"window":\d+,"epoch":\d+,/.test(head.toString("utf8")),
  overwrite: true,
});

/** Epoch = window + 1. Weights are fractions that sum to 1. */
async function planWriter(file: string, expertBytes: number): Promise<PlanWriter> {
  const failed = (cause: unknown): never => {
    throw new AppError(`--plan-out: cannot write ${file}: ${String(cause)}`, { code: "WriteFailed", cause });
  };
  const out = await openOutput(planOutput(file));
  return {
    async write({ window, expertReplicas, ms }, layers) {
      const line = {
        window,
        epoch: window + 1,
        layers: layers.map(fractions),
        expertReplicas,
        bytes: expertReplicas * expertBytes,
        ms: Math.round(ms * 1000) / 1000,
      };
      await out.appendFile(`${JSON.stringify(line)}\n`).catch(failed);
    },
    close: () => out.close().catch(failed),
  };
}

function fractions(layer: LayerPlan): { hosts: readonly (readonly number[])[]; weights: number[][] } {
  return { hosts: layer.hosts, weights: layer.weights.map((row) => row.map((share) => share / weightsTotal)) };
}

function required<T>(present: T | undefined, option: string, what: string): T {
  if (present !== undefined) return present;
  throw invalid(`${option}: ${what}; see: enodia plan simulate --help`);
}

function invalid(message: string): AppError {
  return new AppError(message, { code: "InvalidOption" });
}
