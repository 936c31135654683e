// Structured logs: one JSON object per line on stdout, through pino. Callers see only `Log`; never log prompts, keys or
// token ids. Not here: what becomes a condition or an event.
//
//   const log = createLog({ level: "info", name: "worker", fields: { rank: 0 } });
//   log.info({ epoch: 7 }, "plan committed");   log.error({ err }, "fetch failed");   const child = log.child({ requestId });
import { pino } from "pino";

const logLevels = ["trace", "debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
type Fields = Readonly<Record<string, unknown>>;

export interface Log {
  debug(fields: Fields, message: string): void;
  info(fields: Fields, message: string): void;
  warn(fields: Fields, message: string): void;
  error(fields: Fields, message: string): void;
  child(fields: Fields): Log;
}

export interface LogOptions {
  readonly level: LogLevel;
  /** Which process: operator, gateway, worker. */
  readonly name: string;
  readonly fields?: Fields;
  /** Where lines go; stdout by default. */
  readonly write?: (line: string) => void;
}

export function createLog(options: LogOptions): Log {
  const { write } = options;
  const destination = write ? { write } : pino.destination({ fd: 1, sync: false, minLength: 0 });
  return pino(
    {
      name: options.name,
      level: options.level,
      base: { name: options.name, ...options.fields },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: errorFields },
      messageKey: "message",
    },
    destination,
  );
}

/** For tests and tools that want no lines. */
export const silentLog: Log = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silentLog };

function nothing(): void {}

/** Causes are kept: an AppError's message is for its reader, the chain below it for who debugs. */
function errorFields(caught: unknown, depth = 0): unknown {
  if (!(caught instanceof Error)) return caught;
  const code = "code" in caught ? { code: caught.code } : {};
  const cause = caught.cause !== undefined && depth < 4 ? { cause: errorFields(caught.cause, depth + 1) } : {};
  return { type: caught.name, message: caught.message, ...code, stack: caught.stack, ...cause };
}
