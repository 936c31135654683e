// Parses log lines: our processes write a JSON object per line, others anything. Pure.
import type { Subject } from "./log-subject.ts";
import { plainLine } from "./table.ts";

export const lineCharsMax = 16_384;
/** Fields with a column of their own. */
const inColumns = ["time", "level", "name", "message", "rank", "replica", "err"];
const fieldCharsMax = 200;

export const logLevels = ["debug", "info", "warn", "error", "fatal"] as const;
type Level = (typeof logLevels)[number];

export interface LogLine {
  /** The kubelet's time, by which lines are merged. */
  readonly at: string;
  readonly source: string;
  /** undefined for other programs' lines. */
  readonly level: Level | undefined;
  readonly text: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Undefined without the kubelet's time in front. */
export function parseLine(source: string, line: string): LogLine | undefined {
  const cut = line.slice(0, lineCharsMax);
  const space = cut.indexOf(" ");
  if (space < 0) return undefined;
  const at = cut.slice(0, space);
  const text = cut.slice(space + 1);
  const fields = objectIn(text);
  const level = logLevels.find((one) => one === fields?.level);
  if (!fields || !level) return { at, source, level: undefined, text, fields: {} };
  return { at, source, level, text: String(fields.message ?? ""), fields };
}

function objectIn(text: string): Readonly<Record<string, unknown>> | undefined {
  if (!text.startsWith("{")) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

export interface LineFilter {
  readonly request?: string | undefined;
  /** This level and above; lines without a level appear only without this filter. */
  readonly level?: Level | undefined;
}

export function matches({ level, fields, text }: LogLine, filter: LineFilter): boolean {
  const { request } = filter;
  if (request !== undefined && ![fields.requestId, fields.answerId].includes(request) && !text.includes(request)) return false;
  if (filter.level === undefined) return true;
  return level !== undefined && logLevels.indexOf(level) >= logLevels.indexOf(filter.level);
}

/** The operator's line is about this object, or about none. */
export function concerns({ fields }: LogLine, namespace: string, { name, kind, controller }: Subject): boolean {
  const { key, deployment } = fields;
  if (typeof fields.controller === "string" && fields.controller !== controller) return false;
  if (typeof key === "string") return key === `${namespace}/${name}`;
  return typeof deployment === "string" ? kind === "MoEDeployment" && deployment === name : true;
}

export function lineText({ at, source, level, text, fields }: LogLine, sourceWidth: number): string {
  const time = /T([\d:]{8})(\.\d{1,3})?/.exec(at);
  const clock = time ? `${time[1]}${(time[2] ?? ".").padEnd(4, "0")}` : at;
  const rest = Object.entries(fields).flatMap(([name, value]) => (inColumns.includes(name) ? [] : [`${name}=${valueText(value)}`]));
  const parts = [clock, (level ?? "").toUpperCase().padEnd(5), source.padEnd(sourceWidth), text, rest.join(" "), errorText(fields.err)];
  return plainLine(parts.filter((word, i) => i < 3 || word !== "").join("  "));
}

function valueText(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.length > fieldCharsMax ? `${text.slice(0, fieldCharsMax)}...` : text;
}

/** The error and its causes, but no stacks. */
function errorText(caught: unknown): string {
  const parts: string[] = [];
  for (let error = caught as { message?: unknown; cause?: unknown } | undefined; error?.message !== undefined && parts.length < 4; ) {
    parts.push(String(error.message));
    error = error.cause as typeof error;
  }
  return parts.length === 0 ? "" : `error: ${parts.join(" <- ")}`;
}

export const byTime = (a: LogLine, b: LogLine): number => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0);
