// The screen of --watch: redraws a text, or prints it when it has changed. DECISIONS.md 9.
import { setTimeout as sleepFor } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { span } from "../views/format.ts";
import { columnsOf } from "./environment.ts";

/** Pause in ms, and as a multiple of the time that a look took. */
const intervalMs = 2_000;
const restFactor = 3;

export interface Screen {
  readonly isTTY: boolean;
  readonly size: () => { readonly rows: number; readonly columns: number };
  write(text: string): void;
}

export const terminalScreen: Screen = {
  isTTY: process.stdout.isTTY === true,
  size: () => ({ rows: process.stdout.rows ?? 24, columns: columnsOf() ?? 80 }),
  write: (text) => void process.stdout.write(text),
};

const enter = "\x1b[?1049h\x1b[?25l"; // alternate screen, no cursor
const leave = "\x1b[?25h\x1b[?1049l";
const begin = "\x1b[?2026h\x1b[H"; // synchronized output where the terminal has it
const end = "\x1b[J\x1b[?2026l";

/** Cuts lines to the width and counts those beyond the height. */
export function frame(text: string, { rows, columns }: { readonly rows: number; readonly columns: number }): string {
  const lines = text.split("\n");
  const fit = lines.length <= rows ? lines : [...lines.slice(0, rows - 1), `... ${lines.length - rows + 1} more lines`];
  return `${begin}${fit.map((line) => `${[...line].slice(0, columns).join("")}\x1b[K`).join("\n")}${end}`;
}

export interface WatchOptions {
  readonly make: () => Promise<string>;
  readonly screen: Screen;
  readonly signal: AbortSignal;
  /** Returns early once the signal is set. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  /** Monotonic milliseconds. */
  readonly clock: () => number;
}

/** The first look must succeed; later failures appear above the last text. */
export async function watch({ make, screen, signal, sleep, clock }: WatchOptions): Promise<void> {
  let text = await make();
  let seenAt = clock();
  let trouble = "";
  let shown = "";
  let waitMs = intervalMs;
  if (screen.isTTY) screen.write(enter);
  try {
    for (;;) {
      const whole = trouble === "" ? text : `${trouble}; below is what was seen ${span(clock() - seenAt)} ago\n\n${text}`;
      if (screen.isTTY) screen.write(frame(whole, screen.size()));
      else if (whole !== shown) screen.write(`${shown === "" ? "" : "\n"}${whole}\n`);
      shown = whole;
      await sleep(waitMs, signal);
      if (signal.aborted) return;
      const askedAt = clock();
      try {
        text = await make();
        seenAt = clock();
        trouble = "";
      } catch (caught) {
        trouble = AppError.from(caught).message;
      }
      waitMs = Math.max(intervalMs, restFactor * (clock() - askedAt));
    }
  } finally {
    if (screen.isTTY) screen.write(`${leave}${text}\n`);
  }
}

/** Prints once, or `again` and again until Ctrl-C. Returns the exit code. */
export async function show(
  make: () => Promise<string>,
  { json, again }: { readonly json: boolean; readonly again: boolean },
): Promise<number> {
  if (again) {
    const screen = json ? { ...terminalScreen, isTTY: false } : terminalScreen;
    await untilInterrupted((signal) => watch({ make, screen, signal, sleep: pause, clock: () => performance.now() }));
  } else process.stdout.write(`${await make()}\n`);
  return 0;
}

export const pause = (ms: number, signal: AbortSignal): Promise<void> => sleepFor(ms, undefined, { signal }).catch(() => undefined);

/** Until `work` ends, or Ctrl-C or SIGTERM ends it. */
export async function untilInterrupted(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const ending = new AbortController();
  const stop = () => ending.abort();
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) process.on(name, stop);
  try {
    await work(ending.signal);
  } finally {
    for (const name of signals) process.off(name, stop);
  }
}
