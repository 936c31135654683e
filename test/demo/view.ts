// The demo's output: headings, bars and the closing table. Its steps and main.ts call it; it decides nothing.

const tty = process.stdout.isTTY === true && !process.env.NO_COLOR;
const paint = (code: number) => (text: string) => (tty ? `\u001b[${code}m${text}\u001b[0m` : text);
export const bold = paint(1);
export const dim = paint(2);
const green = paint(32);
export const red = paint(31);
const yellow = paint(33);
export const cyan = paint(36);

export const print = (line = ""): void => {
  process.stdout.write(`${line}\n`);
};

export function heading(number: number, total: number, title: string): void {
  print(`\n${bold(cyan(`[${number}/${total}] ${title}`))}`);
}

/** A bar of `width` cells; 1 fills two thirds, so that an overloaded rank stands out. */
export function bar(ratio: number, width = 24): string {
  const cells = Math.max(0, Math.min(width, Math.round((ratio * width * 2) / 3)));
  return (ratio > 1.15 ? red : green)("█".repeat(cells)) + dim("·".repeat(width - cells));
}

export interface Result {
  readonly step: string;
  readonly ok: boolean;
  readonly seconds: number;
  readonly note: string;
  /** True when it took longer than the demo aims at, which is told and fails nothing. */
  readonly slow?: boolean;
}

export function summary(results: readonly Result[]): void {
  print(`\n${bold("Summary")}`);
  for (const line of summaryLines(results)) print(line);
}

/** One line per result, and the verdict. */
export function summaryLines(results: readonly Result[]): string[] {
  const width = Math.max(...results.map((result) => result.step.length));
  const lines = results.map(({ step, ok, seconds, note, slow }) => {
    const late = slow ? `  ${yellow("slower than aimed")}` : "";
    return `  ${ok ? green("✔") : red("✖")} ${step.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${note}${late}`;
  });
  const failed = results.filter((result) => !result.ok).length;
  const slow = results.filter((result) => result.slow).length;
  const times = slow === 0 ? "" : yellow(` ${slow === 1 ? "One time was" : `${slow} times were`} longer than aimed, which fails nothing.`);
  return [...lines, `${failed === 0 ? green(bold("\nEvery step held.")) : red(bold(`\n${failed} did not hold.`))}${times}`];
}
