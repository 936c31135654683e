// The map of a placement as text and as SVG: a row per rank, a cell per expert. Pure.
import type { ExpertMap } from "../views/experts-view.ts";
import { bytes, percent } from "../views/format.ts";
import { svgStart, textAt } from "./svg.ts";

/** Marks files of this command. */
export const expertsCommand = "enodia experts";

/** A weight above 0 is visible. */
const glyphs = [" ", ".", ":", "+", "*", "#"] as const;
/** Columns of a line beside the map. */
const aroundColumns = 70;
const cellsMin = 16;

export const glyphOf = (share: number): string =>
  glyphs[share <= 0 ? 0 : Math.min(glyphs.length - 1, 1 + Math.floor(share * (glyphs.length - 1)))] ?? " ";

export function binned(weights: readonly number[], perCell: number): number[] {
  return Array.from({ length: Math.ceil(weights.length / perCell) }, (_, cell) => {
    const part = weights.slice(cell * perCell, (cell + 1) * perCell);
    return part.reduce((sum, share) => sum + share, 0) / part.length;
  });
}

function titleOf({ name, epoch, layer, layers, experts }: ExpertMap): string {
  const which = layer === undefined ? `${layers} ${layers === 1 ? "layer" : "layers"} together` : `layer ${layer}`;
  return `${name}   epoch ${epoch}, ${which}, experts 0 to ${experts - 1}`;
}

export function mapText(map: ExpertMap, columns: number): string {
  const width = Math.max(cellsMin, columns - aroundColumns);
  const perCell = Math.ceil(map.experts / width);
  const cells = Math.ceil(map.experts / perCell);
  const lines = map.rows.map(({ rank, held, expertReplicas, hostedBytes, servedBytes, loadPercent, state, weights }) => {
    const drawn = binned(weights, perCell).map(glyphOf).join("");
    const size = `${bytes(hostedBytes).padStart(9)}${servedBytes === undefined ? "" : " in memory"}`;
    const figures = `${String(held).padStart(4)} experts, ${String(expertReplicas).padStart(3)} secondary, ${size}, load ${percent(loadPercent)}`;
    return `${String(rank).padStart(4)} |${drawn}| ${figures}${state === undefined || state === "active" ? "" : `  ${state}`}`;
  });
  const scale = glyphs.map((glyph, i) =>
    i === 0 ? "blank none" : `${glyph} ${i === glyphs.length - 1 ? "all" : `to ${Math.round((100 * i) / (glyphs.length - 1))}%`}`,
  );
  const bin = perCell === 1 ? "a cell is an expert" : `a cell is ${perCell} experts, their mean`;
  return [
    titleOf(map),
    "",
    `rank |${"-".repeat(cells)}|`,
    ...lines,
    "",
    `of an expert's rows a rank takes: ${scale.join(", ")}; ${bin}`,
  ].join("\n");
}

/** Larger pictures merge cells. */
const cellsMax = 65_536;
const area = { left: 56, right: 200, top: 56, bottom: 40 } as const;
const widthOfCells = 960;
const rowHeight = { most: 24, least: 3 } as const;
const heightOfCells = 900;

export function mapSvg(map: ExpertMap): string {
  const perCell = Math.max(1, Math.ceil((map.experts * map.rows.length) / cellsMax));
  const cells = Math.ceil(map.experts / perCell);
  const across = widthOfCells / cells;
  const down = Math.min(rowHeight.most, Math.max(rowHeight.least, heightOfCells / map.rows.length));
  const labelEvery = Math.max(1, Math.ceil(12 / down));
  const height = area.top + map.rows.length * down + area.bottom;
  const rows = map.rows.flatMap((row, i) => {
    const y = area.top + i * down;
    const drawn = binned(row.weights, perCell).flatMap((share, cell) =>
      share <= 0 ? [] : [cellAt(area.left + cell * across, y, [across, down], share)],
    );
    const figures = `${row.held} experts, ${row.expertReplicas} secondary, load ${percent(row.loadPercent)}`;
    const label = i % labelEvery === 0;
    return [
      ...drawn,
      ...(label ? [textAt(area.left - 8, y + down * 0.7, String(row.rank), { size: 11, anchor: "end" })] : []),
      ...(label ? [textAt(area.left + widthOfCells + 8, y + down * 0.7, figures, { size: 11, anchor: "start" })] : []),
    ];
  });
  return `${[
    ...svgStart(area.left + widthOfCells + area.right, Math.ceil(height), expertsCommand),
    textAt(area.left, 24, titleOf(map), { size: 15, anchor: "start" }),
    textAt(
      area.left,
      44,
      `a row is a rank; the darker, the more of an expert's rows it takes${perCell === 1 ? "" : `; a cell is ${perCell} experts`}`,
    ),
    ...rows,
    `<rect x="${area.left}" y="${area.top}" width="${widthOfCells}" height="${(map.rows.length * down).toFixed(1)}" fill="none" stroke="#888"/>`,
    textAt(area.left, height - 14, "expert 0"),
    textAt(area.left + widthOfCells, height - 14, `expert ${map.experts - 1}`, { size: 12, anchor: "end" }),
    "</svg>",
  ].join("\n")}\n`;
}

export function cellAt(x: number, y: number, [width, height]: readonly [number, number], share: number): string {
  const mix = (from: number, to: number): number => Math.round(from + (to - from) * share);
  const fill = `rgb(${mix(214, 8)},${mix(230, 48)},${mix(244, 107)})`;
  return `<rect x="${x.toFixed(2)}" y="${y.toFixed(2)}" width="${width.toFixed(2)}" height="${height.toFixed(2)}" fill="${fill}"/>`;
}
