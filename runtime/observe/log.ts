// JSON logs on stdout through pino. Never log prompts, keys or token ids.
import { type Logger, pino } from "pino";
import type { LogLevel } from "../../crds/names.ts";

type Fields = Readonly<Record<string, unknown>>;

export interface Log {
  debug(fields: Fields, message: string): void;
  info(fields: Fields, message: string): void;
  warn(fields: Fields, message: string): void;
  error(fields: Fields, message: string): void;
  child(fields: Fields): Log;
  /** Applies to parent and children too. */
  setLevel(level: LogLevel): void;
}

export interface LogOptions {
  readonly level: LogLevel;
  /** The process: operator, gateway, worker. */
  readonly name: string;
  readonly fields?: Fields;
  /** Defaults to stdout. */
  readonly write?: (line: string) => void;
}

export function createLog(options: LogOptions): Log {
  const { write } = options;
  const destination = write ? { write } : pino.destination({ fd: 1, sync: false, minLength: 0 });
  const lines = pino(
    {
      name: options.name,
      level: "trace", // LeveledLog decides: pino's children keep their initial level
      base: { name: options.name, ...options.fields },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: errorFields },
      messageKey: "message",
    },
    destination,
  );
  return new LeveledLog(lines, { least: severity(options.level) });
}

const severity = (level: LogLevel): number => pino.levels.values[level] ?? Number.POSITIVE_INFINITY;

class LeveledLog implements Log {
  readonly #lines: Logger;
  readonly #level: { least: number };

  constructor(lines: Logger, level: { least: number }) {
    this.#lines = lines;
    this.#level = level;
  }

  debug(fields: Fields, message: string): void {
    this.#write("debug", fields, message);
  }
  info(fields: Fields, message: string): void {
    this.#write("info", fields, message);
  }
  warn(fields: Fields, message: string): void {
    this.#write("warn", fields, message);
  }
  error(fields: Fields, message: string): void {
    this.#write("error", fields, message);
  }
  child(fields: Fields): Log {
    return new LeveledLog(this.#lines.child(fields), this.#level);
  }
  setLevel(level: LogLevel): void {
    const least = severity(level);
    if (least === this.#level.least) return;
    this.#level.least = least;
    // Logged at the new level, so that it always appears.
    if (level !== "silent") this.#write(level === "trace" ? "debug" : level, { logLevel: level }, "log level changed");
  }

  #write(level: "debug" | "info" | "warn" | "error", fields: Fields, message: string): void {
    if (severity(level) >= this.#level.least) this.#lines[level](fields, message);
  }
}

export const silentLog: Log = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silentLog, setLevel: nothing };

function nothing(): void {}

/** Keeps the chain of causes for debugging; an AppError's message is for its reader. */
function errorFields(caught: unknown, depth = 0): unknown {
  if (!(caught instanceof Error)) return caught;
  const code = "code" in caught ? { code: caught.code } : {};
  const cause = caught.cause !== undefined && depth < 4 ? { cause: errorFields(caught.cause, depth + 1) } : {};
  return { type: caught.name, message: caught.message, ...code, stack: caught.stack, ...cause };
}
