// How topics use experts, as text and as SVG: a block for each topic, in it a row for each layer with experts and a cell for each expert.
import type { TopicUse } from "../../runtime/experts/replay/topics.ts";
import { binned, cellAt, glyphOf } from "./expert-map.ts";
import { svgStart, textAt } from "./svg.ts";

/** Marks files of this command. */
export const expertUseCommand = "enodia model experts";

/** A use so many times an even share has the darkest cell. */
const darkest = 3;
const shade = (use: number): number => Math.min(1, use / darkest);

const percent = (part: number): string => `${Math.round(100 * part)}%`;

export function useText(uses: readonly TopicUse[], columns: number): string {
  const experts = Math.max(1, ...uses.flatMap(({ use }) => use.map((row) => row.length)));
  const room = Math.max(4, Math.floor((columns - 6) / uses.length) - 2);
  const perCell = Math.ceil(experts / room);
  const width = Math.max(Math.ceil(experts / perCell), 4);
  const layers = uses[0]?.use.length ?? 0;
  const line = (layer: number): string =>
    uses
      .map(({ use }) =>
        binned(use[layer] ?? [], perCell)
          .map((each) => glyphOf(shade(each)))
          .join("")
          .padEnd(width),
      )
      .join("  ");
  const heads = (of: (use: TopicUse) => string): string => `      ${uses.map((use) => of(use).slice(0, width).padEnd(width)).join("  ")}`;
  return [
    heads(({ topic }) => topic).trimEnd(),
    heads(({ apart }) => percent(apart)).trimEnd(),
    ...Array.from({ length: layers }, (_, layer) => `${String(layer).padStart(4)}  ${line(layer)}`.trimEnd()),
    "",
    `rows are layers with experts; blank: not used, # from ${darkest} times an even share on; ${perCell === 1 ? "a cell is an expert" : `a cell is ${perCell} experts`}`,
    "percentages: choices of the topic that go elsewhere than those of all topics together",
  ].join("\n");
}

/** Larger pictures merge cells. */
const cellsMax = 65_536;
const panel = { across: 4, width: 250, gap: 30, top: 64, head: 22, rowMost: 12, height: 360 } as const;

export function useSvg(uses: readonly TopicUse[], title: string): string {
  const layers = Math.max(1, uses[0]?.use.length ?? 0);
  const experts = Math.max(1, ...uses.flatMap(({ use }) => use.map((row) => row.length)));
  const perCell = Math.max(1, Math.ceil((layers * experts * uses.length) / cellsMax));
  const down = Math.min(panel.rowMost, panel.height / layers);
  const block = layers * down + panel.head + panel.gap;
  const across = panel.width / Math.ceil(experts / perCell);
  const drawn = uses.flatMap(({ topic, tokens, apart, use }, i) => {
    const x = panel.gap + (i % panel.across) * (panel.width + panel.gap);
    const y = panel.top + Math.floor(i / panel.across) * block + panel.head;
    const cells = use.flatMap((row, layer) =>
      binned(row, perCell).flatMap((each, cell) =>
        each <= 0 ? [] : [cellAt(x + cell * across, y + layer * down, [across, down], shade(each))],
      ),
    );
    return [
      textAt(x, y - 8, `${topic}: ${tokens} tokens, ${percent(apart)} apart`),
      ...cells,
      `<rect x="${x}" y="${y}" width="${panel.width}" height="${(layers * down).toFixed(1)}" fill="none" stroke="#888"/>`,
    ];
  });
  const rows = Math.ceil(uses.length / panel.across);
  const width = panel.gap + Math.min(uses.length, panel.across) * (panel.width + panel.gap);
  return `${[
    ...svgStart(width, Math.ceil(panel.top + rows * block), expertUseCommand),
    textAt(panel.gap, 24, title, { size: 15, anchor: "start" }),
    textAt(
      panel.gap,
      44,
      `rows are layers, columns experts; the darker, the more of the topic's choices, up to ${darkest} times an even share`,
    ),
    ...drawn,
    "</svg>",
  ].join("\n")}\n`;
}
