// The start and texts of SVG pictures, and which earlier ones a command may replace.
import type { OutputFile } from "./output-file.ts";

interface Look {
  readonly size: number;
  readonly anchor: "start" | "middle" | "end";
}

export function textAt(x: number, y: number, what: string, { size, anchor }: Look = { size: 12, anchor: "start" }): string {
  return `<text x="${x}" y="${y}" font-size="${size}" text-anchor="${anchor}">${escaped(what)}</text>`;
}

export function escaped(what: string): string {
  return what.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** Includes a mark of the command. */
export function svgStart(width: number, height: number, by: string): readonly string[] {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" ${madeBy(by)}>`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
  ];
}

const madeBy = (by: string): string => `data-made-by="${by}"`;

/** Only an earlier picture of the same command may be replaced. */
export const svgOutput = (path: string, option: string, by: string): OutputFile => ({
  path,
  option,
  kind: "a plot of this command",
  isOurs: (head) => head.toString("utf8").includes(madeBy(by)),
  overwrite: true,
});
