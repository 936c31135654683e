// Tables of a training trace: times of each rank's steps, and traffic of each layer. Pure.
import { chromeTraceStart } from "../../../runtime/train/trace/chrome.ts";
import { layersOf, type RankTimes } from "../../../runtime/train/trace/summary.ts";
import type { OutputFile } from "../output-file.ts";
import { plainLine, table } from "../table.ts";

/** The same command can write it again. */
export const perfettoOutput = (path: string, option: string): OutputFile => ({
  path,
  option,
  kind: "a trace of enodia train",
  isOurs: (head) => head.toString("latin1", 0, chromeTraceStart.length) === chromeTraceStart,
  overwrite: true,
});

export interface ShownRank {
  readonly name: string;
  readonly times: RankTimes;
}

const ms = (value: number): string => value.toFixed(value < 10 ? 2 : 1);

export const traceColumns = `  COMPUTE     of the step, in ms: computing
  DISPATCH    waits for rows of experts, and so for ranks with more of them
  MEETING     waits for what all ranks exchange in a step
  +SPRS +SPAG waits for sums of gradients and for copies of experts that nothing hid; with HOST, all else, that is the whole STEP
  BETWEEN     from a step to the next one, mostly checkpoints; WORLDS of it are meetings with other worlds
  SPAG, SPRS  of a layer: copies and sums were under way, hidden or not; EXPOSED of that nothing hid; MOST on one rank, and which`;

/** Milliseconds per step. */
export function traceText(ranks: readonly ShownRank[]): string {
  const meets = ranks.some(({ times }) => times.worlds > 0);
  const header = ["MS A STEP", "STEP", "COMPUTE", "DISPATCH", "MEETING", "+SPRS", "+SPAG", "HOST", "BETWEEN", ...(meets ? ["WORLDS"] : [])];
  const rows = ranks.map(({ name, times }) => {
    const { step, compute, dispatch, meeting, spRS, spAG, host, between, worlds } = times;
    return [plainLine(name), ...[step, compute, dispatch, meeting, spRS, spAG, host, between, ...(meets ? [worlds] : [])].map(ms)];
  });
  return `${table(header, rows)}\n\n${layerTable(ranks.map(({ times }) => times))}`;
}

function layerTable(ranks: readonly RankTimes[]): string {
  const rows = layersOf(ranks).map(({ layer, compute, dispatch, spAG, spRS, exposed, most, at }) => [
    layer < 0 ? "others" : `layer ${layer}`,
    ...[compute, dispatch, spAG, spRS, exposed, most].map(ms),
    most > 0 ? `rank ${at}` : "-",
  ]);
  return table(["MEAN OF RANKS", "COMPUTE", "DISPATCH", "SPAG", "SPRS", "EXPOSED", "MOST", "AT"], rows);
}
