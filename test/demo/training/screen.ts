// The picture of a run that trains, in lines: its loss over all steps with what happened on the way, how far it is, its ranks, who has
// copies of which experts in each layer, and what happened when. Pure.
import type { LayerCopies } from "../../../crds/training-report.ts";
import { columnOf, drawCurve } from "./curve.ts";
import type { RunLog } from "./run-log.ts";

export interface Line {
  readonly text: string;
  readonly look?: "bold" | "dim" | "cyan";
}

interface Frame {
  readonly steps: number;
  readonly layers: number;
  readonly columns: number;
  readonly rows: number;
}

const labelWidth = 8;
const widthMax = 110;
const barCells = 24;
const heightMax = 12;
/** Events that are shown, the newest of them. */
const eventsMax = 9;

const seconds = (value: number): string => `${value.toFixed(0)} s`;

/** What fits the frame; the curve gives way first, then the oldest events. */
export function screenLines(run: RunLog, frame: Frame): Line[] {
  const below = [...progressLines(run, frame), ...layerLines(run.status.copies ?? [], frame.layers)];
  const free = frame.rows - below.length - 4;
  const events = eventLines(run, Math.max(1, Math.min(eventsMax, free - 6)));
  const curve = curveLines(run, frame, Math.max(2, Math.min(heightMax, free - events.length)));
  return [...curve, ...below, ...events].map(({ text, ...look }) => ({ text: text.slice(0, frame.columns - 1), ...look }));
}

/** Numbers under the curve are those of the events. */
function curveLines(run: RunLog, { columns, steps }: Frame, height: number): Line[] {
  const plot = { width: Math.max(10, Math.min(widthMax, columns - labelWidth - 6)), height, steps };
  const drawn = drawCurve(run.lines, plot);
  const pad = " ".repeat(labelWidth);
  const label = (row: number): string => {
    const value = row === 0 ? drawn?.high : row === height - 1 ? drawn?.low : undefined;
    return value === undefined
      ? pad
      : value
          .toFixed(3)
          .padStart(labelWidth - 1)
          .padEnd(labelWidth);
  };
  const rows = Array.from({ length: height }, (_, row): Line => ({ text: `${label(row)}│${drawn?.rows[row] ?? ""}`, look: "cyan" }));
  const marks = new Array<string>(plot.width).fill("─");
  for (const [i, { step }] of run.happenings.entries()) if (step > 0) marks[columnOf(step, plot)] = eventName(i);
  const first = `${pad} step 1`;
  return [
    { text: `${" ".repeat(3)}loss` },
    ...rows,
    { text: `${pad}└${marks.join("")}` },
    { text: `${first}${`${steps}`.padStart(Math.max(1, pad.length + 1 + plot.width - first.length))}`, look: "dim" },
  ];
}

/** One character each: digits, then letters. */
const eventName = (index: number): string => (index + 1).toString(36).slice(-1);

function progressLines(run: RunLog, { steps }: Frame): Line[] {
  const { step, status } = run;
  const filled = Math.floor((barCells * step) / steps);
  const loss = run.lines.at(-1)?.loss;
  const parts = [
    `  step ${step}/${steps} ${"█".repeat(filled)}${"░".repeat(barCells - filled)}`,
    ...(loss === undefined ? [] : [`loss ${loss.toFixed(3)}`, `${run.tokensPerSecond.toFixed(0)} tokens/s`]),
    `${status.readyReplicas ?? 0} pods`,
    ...(step > 0 && step < steps ? [`${seconds(run.secondsLeft(steps))} of steps left`] : []),
  ];
  const running = status.conditions?.find(({ type }) => type === "Running");
  const ranks = (status.world?.ranks ?? []).map(({ rank, node }) => `${rank} on ${node}`).join(", ");
  return [
    { text: parts.join("  "), look: "bold" },
    { text: `  ranks    ${ranks || "none yet"}` },
    { text: `  ${running === undefined ? "" : `${running.reason}: ${running.message}`}`, look: "dim" },
  ];
}

/** Experts of a layer with their ranks, the primary first: ■2 □0 □1. */
function layerLines(copies: readonly LayerCopies[], layers: number): Line[] {
  return Array.from({ length: layers }, (_, layer): Line => {
    const found = copies.find((each) => each.layer === layer);
    const each = (found?.most ?? []).map(
      ({ expert, ranks: [primary, ...others] }) => `e${expert} ■${primary} ${others.map((rank) => `□${rank}`).join(" ")}`,
    );
    const told =
      found === undefined
        ? "every expert at its primary"
        : `${found.copied} of ${found.experts} experts on more ranks   ${each.join("   ")}`;
    return { text: `  layer ${layer}  ${told}` };
  });
}

function eventLines({ happenings }: RunLog, most: number): Line[] {
  const first = Math.max(0, happenings.length - most);
  return happenings.slice(first).map(({ seconds: at, step, what }, i) => ({
    text: `  ${eventName(first + i)}  ${seconds(at).padStart(6)}  ${`step ${step}`.padEnd(10)}  ${what}`,
  }));
}

/** The same in one line, where there is no terminal. */
export function plainLine(run: RunLog, steps: number): string {
  const loss = run.lines.at(-1)?.loss.toFixed(3) ?? "-";
  const copies = (run.status.copies ?? []).map(({ layer, copied }) => `${copied} in layer ${layer}`).join(", ");
  const ranks = run.status.world?.ranks.length ?? 0;
  return `${seconds(run.seconds).padStart(6)}  step ${run.step}/${steps}  loss ${loss}  ${run.tokensPerSecond.toFixed(0)} tokens/s  ${ranks} ranks  experts with copies: ${copies || "none"}`;
}
