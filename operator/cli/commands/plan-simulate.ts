// `enodia plan simulate`: runs placement policies over a trace, planning on each window and scoring on the next, and
// prints balance, bound, expert replicas, bytes and time. Offline: reads the trace, writes what is asked for, touches no cluster.

import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { defaultPolicy, type PolicyName, policyNames } from "../../../crds/names.ts";
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
import { positives, whole } from "../options.ts";
import { type OutputFile, openOutput, writeOutput } from "../output-file.ts";
import { asksForJson, outputFlag } from "../output-flag.ts";
import { pictureOutput } from "../svg.ts";
import { table } from "../table.ts";
import { plot, plotCommand } from "./plan-plot.ts";

const usage = `usage: enodia plan simulate --trace FILE --ranks N --slots C [options]

Plans on the windows of a trace up to t and scores each plan on window t+1.

      --trace FILE         recorded by "enodia plan record" or written by "enodia plan generate"
      --ranks N            ranks that host experts
      --slots C            at most C experts per layer and rank
      --slots-total C      at most C experts per rank over all layers: layers may differ (instead of --slots)
      --policy NAME        ${policyNames.join(", ")} (default ${defaultPolicy})
      --compare NAMES      more policies on the same trace, by comma
      --split NAME         how tokens are split among expert replicas: equal; fixed (default): weights computed with the plan;
                           optimal: computed anew for the window scored, the limit
      --budget-expert-replicas K    at most K new expert replicas per plan
      --budget-expert-replicas-per-rank K
                           at most K of them on one rank
      --rank-speeds LIST   relative speed of each rank, by comma; a shorter list is repeated
      --timing D,E,C       measured per window: D seconds of a layer's work that is not experts, E that it waits for experts,
                           C expert replicas a second that a rank can take; for hecate, which hides expert replicas behind other work
      --nodes N            ranks are on N nodes, in order (default: each on its own)
      --min-expert-replicas N       at least N hosts per expert (default 1)
      --expert-bytes N     bytes of one expert, for the bytes printed (default ${44_040_192}: DeepSeek-V3 in FP8)
      --windows N          only the first N windows
      --effort NAME        quality (default) or fast
  -o, --output json        the summary, for programs
      --plan-out FILE      one JSON line per window: {window, epoch, layers: [{hosts, weights}], expert replicas, bytes, ms}
      --plot FILE          heat map of rank loads and time series, SVG (default: beside the trace, as <trace>.plot.svg)
      --no-plot            none`;

export const options = {
  trace: { type: "string" },
  ranks: { type: "string" },
  slots: { type: "string" },
  "slots-total": { type: "string" },
  policy: { type: "string" },
  compare: { type: "string" },
  split: { type: "string" },
  "budget-expert-replicas": { type: "string" },
  "budget-expert-replicas-per-rank": { type: "string" },
  "rank-speeds": { type: "string" },
  timing: { type: "string" },
  nodes: { type: "string" },
  "min-expert-replicas": { type: "string" },
  "expert-bytes": { type: "string" },
  windows: { type: "string" },
  effort: { type: "string" },
  ...outputFlag,
  "plan-out": { type: "string" },
  plot: { type: "string" },
  "no-plot": { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

const defaultExpertBytes = 44_040_192;
const bounds = { ranks: 4096, slots: 4096, slotsTotal: 4_194_304, expertReplicas: 2 ** 31, bytes: 2 ** 40 } as const;

type Values = ReturnType<typeof parse>;
function parse(args: readonly string[]) {
  return parseArgs({ args: [...args], options }).values;
}

export async function run(args: readonly string[]): Promise<number> {
  const values = parse(args);
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const json = asksForJson(values);
  const file = required(values.trace, "--trace", "the file to read");
  const trace = await decodeTrace(await readFile(file));
  const names = [oneOf(values.policy ?? defaultPolicy, policyNames, "--policy"), ...compared(values.compare)];
  const split = oneOf(values.split ?? "fixed", splitNames, "--split");
  if (values.plot !== undefined && values["no-plot"]) throw invalid("--plot and --no-plot exclude each other");
  const setup = readSetup(values, trace, split);
  const expertBytes = whole(values["expert-bytes"], "--expert-bytes", 0, bounds.bytes) ?? defaultExpertBytes;
  const chosen = names.map((name) => policies[name]);
  const lines = values["plan-out"] === undefined ? undefined : await planWriter(values["plan-out"], expertBytes);
  const runs: { name: string; results: WindowResult[] }[] = [];
  for (const [i, policy] of chosen.entries()) {
    const writer = i === 0 ? lines : undefined;
    const results = await simulate({ ...setup, policy, ...(writer ? { onWindow: writer.write } : {}) });
    await writer?.close();
    runs.push({ name: policy.name, results });
  }
  const rows = runs.map(({ name, results }) => summary(name, results, split, expertBytes));
  const picture = values["no-plot"] ? undefined : await savePlot(values.plot, file, plot({ trace, split, runs, ranks: setup.ranks }));
  const report = { trace: sizes(trace), ...describe(values, setup, split), policies: rows, plot: picture ?? null };
  if (json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else process.stdout.write(`${[render(trace, setup, split, rows), ...(picture ? ["", `plot: ${picture}`] : [])].join("\n")}\n`);
  return 0;
}

/**
 * Writes the picture and returns its path: as asked, else beside the trace, or in the working directory where that folder takes
 * none.
 */
async function savePlot(asked: string | undefined, trace: string, picture: string): Promise<string | undefined> {
  if (asked !== undefined) {
    await writeOutput(plotOutput(asked), picture);
    return asked;
  }
  const name = `${basename(trace).replace(/(\.json)?(\.gz)?$/, "")}.plot.svg`;
  const places = [join(dirname(trace), name), name];
  for (const place of places) {
    const written = await writeOutput(plotOutput(place), picture).then(
      () => true,
      () => false,
    );
    if (written) return place;
  }
  process.stderr.write(`enodia: no plot: ${places.join(" and ")} cannot be written; name another file with --plot, or --no-plot\n`);
  return undefined;
}

function readSetup(values: Values, trace: Trace, split: SplitName): Omit<SimulateOptions, "policy"> {
  const ranks = whole(required(values.ranks, "--ranks", "how many ranks host experts"), "--ranks", 1, bounds.ranks) ?? 1;
  const slots = whole(values.slots, "--slots", 1, bounds.slots);
  const slotsTotal = whole(values["slots-total"], "--slots-total", 1, bounds.slotsTotal);
  if (slots === undefined && slotsTotal === undefined) throw invalid("--slots or --slots-total: how many experts a rank may hold");
  if (slots !== undefined && slotsTotal !== undefined) throw invalid("--slots and --slots-total exclude each other");
  if (slots !== undefined && slots * ranks < trace.experts) {
    throw invalid(
      `--slots: ${ranks} ranks x ${slots} slots do not hold ${trace.experts} experts: at least ${Math.ceil(trace.experts / ranks)}`,
    );
  }
  const experts = expertCount(trace);
  if (slotsTotal !== undefined && slotsTotal * ranks < experts) {
    throw invalid(
      `--slots-total: ${ranks} ranks x ${slotsTotal} slots do not hold ${experts} experts: at least ${Math.ceil(experts / ranks)}`,
    );
  }
  const speeds = positives(values["rank-speeds"], "--rank-speeds");
  const budgetExpertReplicas = whole(values["budget-expert-replicas"], "--budget-expert-replicas", 0, bounds.expertReplicas);
  const budgetExpertReplicasPerRank = whole(
    values["budget-expert-replicas-per-rank"],
    "--budget-expert-replicas-per-rank",
    0,
    bounds.expertReplicas,
  );
  const timing = readTiming(values.timing);
  const windows = whole(values.windows, "--windows", 1, trace.windows);
  const nodes = whole(values.nodes, "--nodes", 1, ranks);
  const minExpertReplicas = whole(values["min-expert-replicas"], "--min-expert-replicas", 1, ranks);
  return {
    trace,
    ranks,
    split: split === "equal" ? "equal" : "weighted",
    fixedWeights: split === "fixed",
    effort: oneOf(values.effort ?? "quality", efforts, "--effort"),
    now: () => performance.now(),
    ...(slots === undefined ? {} : { slots }),
    ...(slotsTotal === undefined ? {} : { slotsTotal }),
    ...(speeds === undefined ? {} : { speeds }),
    ...(budgetExpertReplicas === undefined ? {} : { budgetExpertReplicas }),
    ...(budgetExpertReplicasPerRank === undefined ? {} : { budgetExpertReplicasPerRank }),
    ...(timing === undefined ? {} : { timing }),
    ...(windows === undefined ? {} : { windows }),
    ...(nodes === undefined ? {} : { nodes }),
    ...(minExpertReplicas === undefined ? {} : { minExpertReplicas }),
  };
}

function readTiming(text: string | undefined): SimulateOptions["timing"] {
  const numbers = positives(text, "--timing");
  if (numbers === undefined) return undefined;
  const [denseSeconds, expertSeconds, bytesPerSecond] = numbers;
  if (numbers.length !== 3 || denseSeconds === undefined || expertSeconds === undefined || bytesPerSecond === undefined)
    throw invalid(`--timing: ${numbers.length} numbers, expected three: other work, waiting for experts, expert replicas a second`);
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

/** A trace of one window scores nothing. */
function known(value: number, digits: number): string {
  return Number.isNaN(value) ? "-" : value.toFixed(digits);
}

/** The settings of the run, for scripts. */
function describe(values: Values, setup: Omit<SimulateOptions, "policy">, split: SplitName): Record<string, unknown> {
  const { trace: _trace, now: _now, ...rest } = setup;
  return { file: values.trace, options: { ...rest, split } };
}

function sizes(trace: Trace): Record<string, unknown> {
  const { name, windows, layers, experts, layerExperts } = trace;
  return { name, windows, layers, experts, ...(layerExperts ? { layerExperts } : {}) };
}

interface PlanWriter {
  readonly write: (result: WindowResult, layers: readonly LayerPlan[]) => Promise<void>;
  readonly close: () => Promise<void>;
}

const plotOutput = (path: string): OutputFile => pictureOutput(path, "--plot", plotCommand);

const planOutput = (path: string): OutputFile => ({
  path,
  option: "--plan-out",
  kind: "plans of this command",
  isOurs: (head) => /^\{"window":\d+,"epoch":\d+,/.test(head.toString("utf8")),
  overwrite: true,
});

/** Epoch = window + 1: each window's plan replaces the one before. Weights are fractions that sum to 1. */
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
  return { hosts: layer.hosts, weights: layer.weights.map((row) => row.map((weight) => weight / weightsTotal)) };
}

function compared(text: string | undefined): PolicyName[] {
  return (text ?? "").split(",").flatMap((name) => (name.trim() === "" ? [] : [oneOf(name.trim(), policyNames, "--compare")]));
}

function oneOf<T extends string>(text: string, names: readonly T[], option: string): T {
  const found = names.find((name) => name === text);
  if (found !== undefined) return found;
  throw invalid(`${option}: "${text}" is not one of ${names.join(", ")}`);
}

function required(text: string | undefined, option: string, what: string): string {
  if (text !== undefined) return text;
  throw invalid(`${option}: ${what}; see enodia plan simulate --help`);
}

function invalid(message: string): AppError {
  return new AppError(message, { code: "InvalidOption" });
}
