// A trace as a file that Perfetto opens: spans of ranks in Chrome's format, beside what copies and sums of each layer left exposed. Pure.
import type { Span } from "../../../crds/training-trace.ts";
import { momentsOf } from "./spans.ts";

/** Copies and sums where nothing hides them, by layer; moments of one that follow each other are one. */
function exposedOf(spans: readonly Span[]): Shown[] {
  const found: { -readonly [Field in keyof Shown]: Shown[Field] }[] = [];
  for (const { kind, layer, fromMs, toMs } of momentsOf(spans)) {
    if (kind !== "spAG" && kind !== "spRS") continue;
    const [before, name] = [found.at(-1), `exposed ${kind}`];
    if (before?.toMs === fromMs && before.name === name && before.layer === layer) before.toMs = toMs;
    else found.push({ kind: "exposed", name, layer, fromMs, toMs });
  }
  return found;
}

/** What Chrome's format of traces calls an event; times in microseconds. */
interface TraceEvent {
  readonly name: string;
  readonly ph: "X" | "M";
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly args: Readonly<Record<string, unknown>>;
}

const tracks = ["step", "compute", "dispatch", "spAG", "spRS", "meeting", "exposed"] as const;
/** A span of the file: those that were recorded, and what of copies and sums nothing hid. */
type Shown = Omit<Span, "kind"> & { readonly kind: (typeof tracks)[number] };
/** Rows of one track, at most; spans of a track that overlap lie in rows of their own. */
const rowsMax = 100;
/** Number 0 of a process or thread is the idle one's, where a viewer knows such. */
const numbersFrom = 1;

/** One rank's track of a trace. */
export interface TracedRank {
  readonly name: string;
  readonly spans: readonly Span[];
}

/** The start of a file, by which it is known as one of these. */
export const chromeTraceStart = '{"otherData":{"source":"enodia train"}';

/** Spans of ranks as Chrome's JSON (https://ui.perfetto.dev opens it): a process for each rank, a track for each kind. The last one
 *  has what copies and sums of each layer kept a rank waiting. */
export function chromeTrace(ranks: readonly TracedRank[]): string {
  const events: TraceEvent[] = [];
  for (const [rank, { name: process, spans: recorded }] of ranks.entries()) {
    const pid = rank + numbersFrom;
    const spans: readonly Shown[] = [...recorded, ...exposedOf(recorded)];
    events.push({ name: "process_name", ph: "M", pid, tid: numbersFrom, args: { name: process } });
    events.push({ name: "process_sort_index", ph: "M", pid, tid: numbersFrom, args: { sort_index: pid } });
    for (const [track, kind] of tracks.entries()) {
      const first = track * rowsMax + numbersFrom;
      const ends: number[] = [];
      for (const span of spans.filter((each) => each.kind === kind).sort((a, b) => a.fromMs - b.fromMs)) {
        const free = ends.findIndex((end) => end <= span.fromMs);
        const row = free < 0 ? Math.min(ends.length, rowsMax - 1) : free;
        ends[row] = span.toMs;
        events.push(eventOf(span, pid, first + row));
      }
      for (const row of ends.keys()) {
        const [tid, name] = [first + row, row === 0 ? kind : `${kind} ${row + 1}`];
        events.push({ name: "thread_name", ph: "M", pid, tid, args: { name } });
        events.push({ name: "thread_sort_index", ph: "M", pid, tid, args: { sort_index: tid } });
      }
    }
  }
  return `${chromeTraceStart},"displayTimeUnit":"ms","traceEvents":${JSON.stringify(events)}}`;
}

function eventOf({ kind, name, layer, fromMs, toMs, bytes, peer, rows }: Shown, pid: number, tid: number): TraceEvent {
  const args = Object.fromEntries(
    Object.entries({ layer: layer < 0 ? undefined : layer, bytes, peer, rows }).filter(([, value]) => value !== undefined),
  );
  const shown = layer < 0 ? name : `${name} ${layer}`;
  // Both ends are rounded: with a rounded length a span could end after the next one's begin.
  const [ts, end] = [Math.round(fromMs * 1000), Math.round(toMs * 1000)];
  return { name: shown, ph: "X", pid, tid, ts, dur: end - ts, cat: kind, args };
}
