// The loss curve of a training job as text and as SVG. Pure.
import { ascending, type CurvePoint, joinCurves } from "../../crds/training-report.ts";
import { svgStart, textAt } from "./svg.ts";

/** Marks files of this command. */
export const lossCommand = "enodia train loss";

const [width, height] = [720, 360];
const area = { left: 72, right: 24, top: 48, bottom: 40 } as const;
const [across, down] = [width - area.left - area.right, height - area.top - area.bottom];
const levels = 5;
const axis = { size: 11, anchor: "end" } as const;

interface Mark {
  readonly step: number;
  readonly what: string;
}

/** Undefined below two points. Marks outside its steps are left out. */
export function lossPlot(name: string, points: readonly CurvePoint[], marks: readonly Mark[] = []): string | undefined {
  const curve = ascending(points);
  const [first, last] = [curve[0], curve.at(-1)];
  if (first === undefined || last === undefined || first === last) return undefined;
  const losses = curve.map(({ loss }) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const x = (step: number): string => (area.left + ((step - first.step) / (last.step - first.step)) * across).toFixed(1);
  // The range of extreme losses may overflow: halves do not.
  const scale = Number.isFinite(high - low) ? 1 : 0.5;
  const share = (loss: number): number => (high === low ? 0.5 : (scale * high - scale * loss) / (scale * high - scale * low));
  const y = (loss: number): number => Number((area.top + share(loss) * down).toFixed(1));
  const lines = (high === low ? [high] : Array.from({ length: levels }, (_, i) => levelOf(low, high, i / (levels - 1)))).map(
    (loss) =>
      `<line x1="${area.left}" x2="${area.left + across}" y1="${y(loss)}" y2="${y(loss)}" stroke="#ddd"/>` +
      textAt(area.left - 8, y(loss) + 4, labelOf(loss), axis),
  );
  const below = area.top + down + 18;
  return `${[
    ...svgStart(width, height, lossCommand),
    textAt(area.left, 26, `${name}: loss by step, ${labelOf(first.loss)} to ${labelOf(last.loss)}`, { size: 15, anchor: "start" }),
    ...lines,
    ...marks.filter(({ step }) => step >= first.step && step <= last.step).flatMap((mark, i) => markAt(Number(x(mark.step)), mark.what, i)),
    `<polyline fill="none" stroke="#1b6ca8" stroke-width="1.8" points="${curve.map(({ step, loss }) => `${x(step)},${y(loss)}`).join(" ")}"/>`,
    textAt(area.left, below, `step ${first.step}`),
    textAt(area.left + across, below, `step ${last.step}`, { size: 12, anchor: "end" }),
    "</svg>",
  ].join("\n")}\n`;
}

/** Lines over which neighbouring marks are spread. */
const markLines = 4;

function markAt(x: number, what: string, index: number): readonly string[] {
  const y = area.top + 14 + 16 * (index % markLines);
  const anchor = x > area.left + across / 2 ? "end" : "start";
  return [
    `<line x1="${x}" x2="${x}" y1="${area.top}" y2="${area.top + down}" stroke="#c0392b" stroke-dasharray="4 3"/>`,
    textAt(anchor === "end" ? x - 5 : x + 5, y, what, { size: 11, anchor }),
  ];
}

const levelOf = (low: number, high: number, part: number): number => high * (1 - part) + low * part;

const labelOf = (loss: number): string => (Math.abs(loss) < 1e4 ? loss.toFixed(4) : loss.toExponential(2));

const rows = 12;
const columns = 64;

/** Clamps to the width. */
const cellOf = (share: number, cells: number): number => Math.min(cells - 1, Math.max(0, Math.round(share * (cells - 1)) || 0));

/** Undefined below two points. */
export function curveText(points: readonly CurvePoint[]): string | undefined {
  const curve = joinCurves([], points);
  const [first, last] = [curve[0], curve.at(-1)];
  if (first === undefined || last === undefined || first === last) return undefined;
  const losses = curve.map(({ loss }) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const cells = Array.from({ length: rows }, () => Array<string>(columns).fill(" "));
  for (const { step, loss } of curve) {
    const column = cellOf((step - first.step) / (last.step - first.step), columns);
    const row = high === low ? rows - 1 : cellOf((high - loss) / (high - low), rows);
    (cells[row] as string[])[column] = "*";
  }
  const label = (row: number): string => (row === 0 ? high : row === rows - 1 ? low : undefined)?.toFixed(4) ?? "";
  const width = Math.max(label(0).length, label(rows - 1).length);
  const lines = cells.map((line, row) => `${label(row).padStart(width)} |${line.join("").trimEnd()}`);
  const steps = `${first.step}${`${last.step}`.padStart(columns - `${first.step}`.length)}`;
  return [...lines, `${" ".repeat(width)} +${"-".repeat(columns)}`, `${" ".repeat(width)}  ${steps}  step`].join("\n");
}
