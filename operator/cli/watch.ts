// The screen of commands with --watch: a text that is drawn over the last one, or printed when it has changed. DECISIONS.md 9.
import { setTimeout as sleepFor } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { span } from "../views/format.ts";

/** Milliseconds between two looks, and the multiple of a look's own time. */
const intervalMs = 2_000;
const restFactor = 3;

export interface Screen {
  readonly isTTY: boolean;
  readonly size: () => { readonly rows: number; readonly columns: number };
  write(text: string): void;
}

export const terminalScreen: Screen = {
  isTTY: process.stdout.isTTY === true,
  size: () => ({ rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 }),
  write: (text) => void process.stdout.write(text),
};

const enter = "\x1b[?1049h\x1b[?25l"; // the other screen, without a cursor
const leave = "\x1b[?25h\x1b[?1049l";
const begin = "\x1b[?2026h\x1b[H"; // drawn at once where the terminal can
const end = "\x1b[J\x1b[?2026l";

/** Draws `text` over the last one: lines are cut to the width, those beyond the height counted. */
export function frame(text: string, { rows, columns }: { readonly rows: number; readonly columns: number }): string {
  const lines = text.split("\n");
  const fit = lines.length <= rows ? lines : [...lines.slice(0, rows - 1), `... ${lines.length - rows + 1} more lines`];
  return `${begin}${fit.map((line) => `${[...line].slice(0, columns).join("")}\x1b[K`).join("\n")}${end}`;
}

export interface WatchOptions {
  readonly make: () => Promise<string>;
  readonly screen: Screen;
  /** Ends the watch. */
  readonly signal: AbortSignal;
  /** Waits, and returns early once the signal is set. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>;
  /** Milliseconds of a clock that nobody sets. */
  readonly clock: () => number;
}

/** The first look has to succeed; a later failure is shown above the last text. */
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

/** Prints the text once, or `again` and again until Ctrl-C. Returns the exit code. */
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

/** Waits as the watches of commands do; a signal ends it early. */
export const pause = (ms: number, signal: AbortSignal): Promise<void> => sleepFor(ms, undefined, { signal }).catch(() => undefined);

/** Runs `work` until it is done or Ctrl-C, or SIGTERM, asks it to end. */
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
