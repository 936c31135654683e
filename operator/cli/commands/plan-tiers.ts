// `enodia plan tiers`: replays a trace of experts over fast memory and a disk, for each predictor and eviction.
import { AppError } from "../../../crds/common.ts";
import { evictionNames, type PredictorName, predictorNames } from "../../../crds/names.ts";
import { formatBytes, parseQuantity } from "../../../crds/quantity.ts";
import { evictions } from "../../../runtime/experts/cache/index.ts";
import { predictors } from "../../../runtime/experts/prefetch/index.ts";
import { hasOneRouter, type Recall, recallOf, shuffled } from "../../../runtime/experts/replay/recall.ts";
import { type Foresight, type Replayed, replay } from "../../../runtime/experts/replay/replay.ts";
import type { ExpertTrace } from "../../../runtime/experts/replay/trace.ts";
import { uniform } from "../../../runtime/kernels/random.ts";
import { describeGrid, expertsIn } from "../../../runtime/placement/grid.ts";
import { argument, declare, flag, text, type Values, value } from "../command.ts";
import { readExpertTrace } from "../expert-trace-file.ts";
import { asksForJson, namesOf, outputOptions, positives, whole } from "../options.ts";
import { writeOutput } from "../output-file.ts";
import { svgOutput, svgStart, textAt } from "../svg.ts";
import { table } from "../table.ts";
import { chart, margin, series, width } from "./plan-plot.ts";

/** Marks files of this command. */
const tiersCommand = "enodia plan tiers";

const percents = (list: string): readonly number[] => positives(list).map((each) => each / 100);

function positive(given: string): number {
  const [one = 0, ...more] = positives(given);
  if (more.length === 0) return one;
  throw new AppError("it must be one number", { code: "InvalidOption" });
}

const options = {
  ...outputOptions,
  share: value("--share <list>", "experts that fit into fast memory, in percent of their bytes", percents, [1, 0.75, 0.5, 0.35]),
  predictor: value(
    "--predictor <names>",
    "which experts are fetched ahead, with commas between",
    namesOf(predictorNames),
    predictorNames.filter((name) => name !== "batch"),
  ),
  eviction: value("--eviction <names>", "which leave first, with commas between; belady knows the future", namesOf(evictionNames), [
    ...evictionNames,
  ]),
  rate: value("--rate <bytes>", "that the disk gives in a second", (given) => parseQuantity(given, "--rate"), 1e9),
  layerMs: value("--layer-ms <number>", "milliseconds of a layer whose experts are there (default: as recorded)", positive),
  batch: value("--batch <number>", "texts that are computed together", whole(1, 1024), 1),
  lookahead: value("--lookahead <layers>", "that are predicted; routers are asked 2 ahead at most", whole(1, 8), 2),
  ahead: value("--ahead <x>", "experts of each that are fetched ahead, in multiples of top-k", positive, 1),
  shuffle: flag(
    "--shuffle",
    "the control: each layer's choices go to other tokens, so that only how often experts are chosen is left; without next-gate and residual",
  ),
  plot: text("--plot <file>", "stall by share of memory, SVG; an earlier one of this command is replaced"),
};
type TiersRequest = Values<typeof options>;

export const command = declare({
  about:
    "Replays a trace over a fast memory that holds only a part of all experts and a disk with the rest: which part of the needed experts is there when its layer begins, how long a step waits for the others, and what is read. Beside the predictors: none, which fetches nothing ahead, and future, which knows what comes.",
  arguments: [argument("<trace>", 'recorded by "enodia model trace"')],
  options,
  notes: "example   enodia plan tiers trace.json.gz --rate 1G --share 50 --predictor next-gate,last --eviction lfu,belady",
  action: run,
});

interface Row {
  readonly predictor: PredictorName | "none" | "future";
  readonly eviction: (typeof evictionNames)[number];
  /** One for each share. */
  readonly results: readonly Replayed[];
}

async function run(request: TiersRequest, file: string): Promise<number> {
  const { share: shares, rate, batch, lookahead, ahead: perTopK, plot: svg } = request;
  const recorded = await readExpertTrace(file);
  const trace = request.shuffle ? shuffled(recorded, uniform(1)) : recorded;
  const layerMs = request.layerMs ?? trace.layerMs;
  const chosen = request.predictor.filter((name) => !request.shuffle || predictors[name].asks === undefined);
  if (chosen.length === 0)
    throw new AppError(
      `--shuffle: ${request.predictor.join(", ")} ask routers, and choices of other tokens are none of theirs; name others by --predictor`,
      {
        code: "InvalidOption",
      },
    );
  const recalls = chosen.map((predictor) => ({ predictor, ...recallOf(trace, predictors[predictor], batch) }));
  const foresights: [Row["predictor"], Foresight][] = [
    ["none", undefined],
    ...chosen.map((name): [PredictorName, Foresight] => [name, predictors[name]]),
    ["future", "future"],
  ];
  const rows: Row[] = [];
  for (const eviction of request.eviction)
    for (const [predictor, foresight] of foresights) {
      process.stderr.write(`${predictor}, ${eviction}\n`);
      const of = { trace, foresight, eviction: evictions[eviction], bytesPerSecond: rate, layerMs, batch, lookahead, perTopK };
      rows.push({ predictor, eviction, results: shares.map((share) => replay({ ...of, share })) });
    }
  const setup = { bytesPerSecond: rate, layerMs, batch, lookahead, perTopK, shuffled: request.shuffle };
  const title = titleOf(trace, rate, layerMs);
  if (svg !== undefined) await writeOutput(svgOutput(svg, "--plot", tiersCommand), picture(title, shares, rows));
  const report = { modelDigest: trace.modelDigest, ...setup, shares, recalls, rows };
  process.stdout.write(`${asksForJson(request) ? JSON.stringify(report) : render({ title, shares, recalls, rows, trace, lookahead })}\n`);
  return 0;
}

function titleOf({ grid, topK, expertBytes }: ExpertTrace, rate: number, layerMs: number): string {
  const bytes = expertBytes.reduce((sum, each, layer) => sum + each * expertsIn(grid, layer), 0);
  return `${describeGrid(grid)}, top ${topK}, ${formatBytes(bytes)}; disk ${formatBytes(rate)}/s, ${layerMs.toFixed(2)} ms a layer`;
}

interface Shown {
  readonly title: string;
  readonly shares: readonly number[];
  readonly recalls: readonly ({ readonly predictor: PredictorName } & Recall)[];
  readonly rows: readonly Row[];
  readonly trace: ExpertTrace;
  readonly lookahead: number;
}

/** Predictors that ask routers less far ahead than they should, by the trace. */
function shortSighted({ trace, recalls, lookahead }: Shown): string[] {
  return recalls.flatMap(({ predictor }) => {
    const { asks } = predictors[predictor];
    const most = Math.max(0, ...trace.asked.filter(({ input }) => input === asks).map(({ distance }) => distance));
    return asks === undefined || most >= lookahead ? [] : [`${predictor} predicts ${most} of ${lookahead} layers: the trace has no more.`];
  });
}

const percent = (part: number): string => `${(100 * part).toFixed(1)}%`;

function render(shown: Shown): string {
  const { title, shares, recalls, rows, trace } = shown;
  const recalled = table(
    ["PREDICTOR", "RECALL", "OF TWICE", "BY"],
    recalls.map(({ predictor, once, twice }) => [predictor, percent(once), percent(twice), predictors[predictor].about]),
  );
  const heads = shares.flatMap((share) => [`HIT ${Math.round(100 * share)}%`, "MS", "MB"]);
  const cells = rows.map(({ predictor, eviction, results }) => [
    predictor,
    eviction,
    ...results.flatMap(({ hitRate, stallMs, bytes }) => [percent(hitRate), stallMs.toFixed(2), (bytes / 1e6).toFixed(1)]),
  ]);
  const notes = [
    "RECALL: of the experts that the next layer chooses, those among as many named ones (OF TWICE: twice as many).",
    "HIT: needed experts that were there; MS: what a step waits for the others; MB: read in a step; by share of fast memory.",
    ...(hasOneRouter(trace) ? [] : ["batch knows nothing here: each layer has a router of its own."]),
    ...shortSighted(shown),
  ];
  return [title, "", recalled, "", table(["PREDICTOR", "EVICTION", ...heads], cells), "", ...notes].join("\n");
}

function picture(title: string, shares: readonly number[], rows: readonly Row[]): string {
  const by = Map.groupBy(rows, ({ eviction }) => eviction);
  const order = [...shares.keys()].toSorted((a, b) => (shares[b] as number) - (shares[a] as number));
  const high = Math.max(1e-3, ...rows.flatMap(({ results }) => results.map(({ stallMs }) => stallMs)));
  const axis = order.map((at) => `${Math.round(100 * (shares[at] as number))}%`).join(", ");
  const charts = [...by].flatMap(([eviction, of], i) =>
    chart({
      top: 80 + i * (series.height + series.gap),
      title: `milliseconds that a step waits for experts: ${eviction}`,
      lines: of.map(({ predictor, results }) => ({
        name: predictor,
        points: order.map((at, x) => [x, (results[at] as Replayed).stallMs] as const),
      })),
      low: 0,
      high,
      label: (y) => y.toFixed(1),
      end: `of all experts ${axis} in memory`,
    }),
  );
  return `${[
    ...svgStart(width, 80 + by.size * (series.height + series.gap), tiersCommand),
    textAt(margin.left, 24, title, { size: 15, anchor: "start" }),
    ...charts,
    "</svg>",
  ].join("\n")}\n`;
}
