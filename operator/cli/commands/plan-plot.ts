// The SVG of a simulation: rank loads over time as a heat map, balance and replicas per policy as curves. Pure.
import type { SplitName, WindowResult } from "../../planner/offline/simulate.ts";
import { sizeText, type Trace } from "../../planner/offline/traces.ts";
import { escaped, svgStart, textAt } from "../svg.ts";

export interface Plotted {
  readonly trace: Trace;
  readonly split: SplitName;
  readonly ranks: number;
  readonly runs: readonly { readonly name: string; readonly results: readonly WindowResult[] }[];
}

/** Marks files of this command. */
export const plotCommand = "enodia plan simulate";

export const width = 960;
export const margin = { left: 64, right: 170, top: 40 } as const;
const inner = width - margin.left - margin.right;
/** More ranks and windows share cells. */
const heat = { top: 60, height: 260, rowsMax: 130, columnsMax: 150 } as const;
export const series = { height: 150, gap: 60 } as const;
const axis = { size: 11, anchor: "end" } as const;
const colours = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", "#6a4c93", "#2e4057", "#8d96a3", "#00798c", "#b56576"];

export function plot(plotted: Plotted): string {
  const first = plotted.runs[0];
  const balanceTop = heat.top + heat.height + series.gap;
  const expertReplicasTop = balanceTop + series.height + series.gap;
  const height = expertReplicasTop + series.height + series.gap;
  const balance = plotted.runs.map(({ name, results }) => ({
    name,
    points: results.flatMap((r) => (r.next ? [[r.window + 1, r.next[plotted.split].balance] as const] : [])),
  }));
  const expertReplicas = plotted.runs.map(({ name, results }) => ({
    name,
    points: results.map((r) => [r.window, Math.log10(1 + r.expertReplicas)] as const),
  }));
  const lowest = Math.min(1, ...balance.flatMap(({ points }) => points.map(([, y]) => y)));
  const parts = [
    ...svgStart(width, height, plotCommand),
    textAt(margin.left, 22, `${plotted.trace.name}: ${sizeText(plotted.trace)} on ${plotted.ranks} ranks, split ${plotted.split}`, {
      size: 15,
      anchor: "start",
    }),
    ...(first ? heatMap(first, plotted.split) : []),
    ...chart({
      top: balanceTop,
      title: "balance on the next window (mean/max, mean of layers)",
      lines: balance,
      low: Math.floor(lowest * 20) / 20,
      high: 1,
      label: (y) => y.toFixed(2),
    }),
    ...chart({
      top: expertReplicasTop,
      title: "expert replicas per plan (logarithmic)",
      lines: expertReplicas,
      low: 0,
      high: Math.max(1, Math.ceil(Math.max(...expertReplicas.flatMap(({ points }) => points.map(([, y]) => y))))),
      label: (y) => String(Math.round(10 ** y - 1)),
    }),
    "</svg>",
  ];
  return `${parts.join("\n")}\n`;
}

const splitNames: Readonly<Record<SplitName, string>> = {
  equal: "split equally",
  fixed: "split by the plan's weights",
  optimal: "split at best",
};

/** A row per rank, a column per window: load / mean load over layers. */
function heatMap({ name, results }: Plotted["runs"][number], split: SplitName): string[] {
  const loads = results.flatMap((r) => (r.rankLoad ? [r.rankLoad[split]] : []));
  const ranks = loads[0]?.length ?? 0;
  if (ranks === 0) return [];
  const perRow = Math.ceil(ranks / heat.rowsMax);
  const perColumn = Math.ceil(loads.length / heat.columnsMax);
  const columns = coarse(loads, perRow, perColumn);
  const w = inner / columns.length;
  const h = heat.height / (columns[0]?.length ?? 1);
  const cells = columns.flatMap((load, c) =>
    load.map(
      (value, g) =>
        `<rect x="${(margin.left + c * w).toFixed(1)}" y="${(heat.top + g * h).toFixed(1)}" width="${(w + 0.3).toFixed(1)}" height="${(h + 0.3).toFixed(1)}" fill="${heatColour(value)}"/>`,
    ),
  );
  const legend = [0.8, 0.9, 1, 1.1, 1.2].map((value, i) => {
    const y = heat.top + 20 + i * 18;
    return `<rect x="${width - margin.right + 14}" y="${y - 10}" width="12" height="12" fill="${heatColour(value)}"/>${textAt(width - margin.right + 32, y, `${value.toFixed(1)} x mean`)}`;
  });
  const shared = perRow * perColumn > 1 ? `; a cell is the highest of ${perRow} ranks x ${perColumn} windows` : "";
  return [
    textAt(
      margin.left,
      heat.top - 8,
      `load of each rank (rows) by window (columns), ${splitNames[split]}, mean of layers: ${name}${shared}`,
    ),
    ...cells,
    textAt(margin.left - 8, heat.top + 10, "rank 0", axis),
    textAt(margin.left - 8, heat.top + heat.height, String(ranks - 1), axis),
    ...legend,
  ];
}

/** Each cell has the highest value of its ranks and windows. */
function coarse(columns: readonly Float64Array[], perRow: number, perColumn: number): number[][] {
  const ranks = columns[0]?.length ?? 0;
  const out = Array.from({ length: Math.ceil(columns.length / perColumn) }, () => new Array<number>(Math.ceil(ranks / perRow)).fill(0));
  columns.forEach((load, c) => {
    const cells = out[Math.floor(c / perColumn)] as number[];
    load.forEach((value, g) => {
      const row = Math.floor(g / perRow);
      cells[row] = Math.max(cells[row] as number, value);
    });
  });
  return out;
}

/** White at the mean, blue below, red above; full colour at 25%. */
function heatColour(value: number): string {
  const off = Math.max(-1, Math.min(1, (value - 1) / 0.25));
  const fade = Math.round(255 * (1 - Math.abs(off)));
  return off >= 0 ? `rgb(255,${fade},${fade})` : `rgb(${fade},${fade},255)`;
}

interface Chart {
  readonly top: number;
  readonly title: string;
  readonly lines: readonly { readonly name: string; readonly points: readonly (readonly [number, number])[] }[];
  readonly low: number;
  readonly high: number;
  readonly label: (y: number) => string;
  /** Below the end of the axis; unset: the last window. */
  readonly end?: string;
}

export function chart({ top, title, lines, low, high, label, end }: Chart): string[] {
  const last = Math.max(1, ...lines.flatMap(({ points }) => points.map(([x]) => x)));
  const px = (x: number): string => (margin.left + (x / last) * inner).toFixed(1);
  const py = (y: number): string => (top + series.height * (1 - (y - low) / Math.max(1e-9, high - low))).toFixed(1);
  const ticks = [low, (low + high) / 2, high].map(
    (y) =>
      `<line x1="${margin.left}" x2="${margin.left + inner}" y1="${py(y)}" y2="${py(y)}" stroke="#ddd"/>${textAt(margin.left - 8, Number(py(y)) + 4, label(y), axis)}`,
  );
  const drawn = lines.map(({ name, points }, i) => {
    const colour = colours[i % colours.length] ?? "black";
    const path = points.map(([x, y]) => `${px(x)},${py(y)}`).join(" ");
    return `<polyline fill="none" stroke="${colour}" stroke-width="1.8" points="${path}"/><text x="${width - margin.right + 14}" y="${top + 14 + i * 16}" fill="${colour}">${escaped(name)}</text>`;
  });
  return [
    textAt(margin.left, top - 10, title),
    ...ticks,
    ...drawn,
    textAt(margin.left + inner, top + series.height + 16, end ?? `window ${last}`, axis),
  ];
}
