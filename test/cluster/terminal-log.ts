// Progress for people: whole lines everywhere, and on a terminal a last line that the next one replaces. The cluster's command
// line and the demo make one from the stream that they write to.
import type { Log } from "./exec.ts";

interface Output {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const columnsDefault = 80;
const clearLine = "\r\u001b[2K";

/** `dress`: how a line is indented and coloured. */
export function terminalLog(output: Output, dress: (line: string) => string = (line) => line): Log {
  if (output.isTTY !== true) return (line) => void output.write(`${dress(line)}\n`);
  const log = (line: string): void => void output.write(`${clearLine}${dress(line)}\n`);
  // Two columns are left for the indent; a line that wraps could not be replaced.
  const fitting = (line: string): string => line.slice(0, Math.max(1, (output.columns ?? columnsDefault) - 3));
  return Object.assign(log, {
    replace: (line: string): void => void output.write(line === "" ? clearLine : `${clearLine}${dress(fitting(line))}`),
  });
}
