// A loss curve in characters that each have two by four dots: as many steps as there are, in the columns of a terminal. Pure.

export interface Point {
  readonly step: number;
  readonly loss: number;
}

interface Plot {
  /** Characters across and down. */
  readonly width: number;
  readonly height: number;
  /** The whole width. */
  readonly steps: number;
}

/** Dots of a character: bits of U+2800 by column and row. */
const dots = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
] as const;
const blank = 0x2800;

/** The character of a step. */
export const columnOf = (step: number, { width, steps }: Plot): number =>
  Math.min(width - 1, Math.max(0, Math.floor(((step - 1) * width) / Math.max(1, steps))));

interface Drawn {
  /** From the highest loss down. */
  readonly rows: readonly string[];
  readonly high: number;
  readonly low: number;
}

/** Undefined without a point. Each column of dots has the mean of its steps, and is joined to the one before it. */
export function drawCurve(points: readonly Point[], plot: Plot): Drawn | undefined {
  const across = 2 * plot.width;
  const sums = Array.from({ length: across }, () => ({ sum: 0, count: 0 }));
  for (const { step, loss } of points) {
    const cell = sums[columnOf(step, { ...plot, width: across })];
    if (cell === undefined || !Number.isFinite(loss)) continue;
    cell.sum += loss;
    cell.count += 1;
  }
  const means = sums.flatMap(({ sum, count }, column) => (count === 0 ? [] : [{ column, loss: sum / count }]));
  if (means.length === 0) return undefined;
  const [low, high] = [Math.min(...means.map(({ loss }) => loss)), Math.max(...means.map(({ loss }) => loss))];
  const down = 4 * plot.height - 1;
  const bits = Array.from({ length: plot.height }, () => new Array<number>(plot.width).fill(0));
  const set = (column: number, row: number): void => {
    const line = bits[Math.floor(row / 4)] as number[];
    const cell = Math.floor(column / 2);
    line[cell] = (line[cell] ?? 0) | (dots[column % 2]?.[row % 4] ?? 0);
  };
  let before: number | undefined;
  for (const { column, loss } of means) {
    const row = high === low ? down : Math.round(((high - loss) / (high - low)) * down);
    const from = before ?? row;
    for (let at = Math.min(from, row); at <= Math.max(from, row); at++) set(column, at);
    before = row;
  }
  return { rows: bits.map((line) => line.map((cell) => String.fromCodePoint(blank + cell)).join("")), high, low };
}
