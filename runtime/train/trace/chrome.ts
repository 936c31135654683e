// Writes a trace in Chrome's format for Perfetto, with the exposed times of each layer's replicas and sums.
import { momentsOf, type Span } from "./spans.ts";

/** Replicas and sums that nothing hides, by layer; adjacent moments are merged. */
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
type Shown = Omit<Span, "kind"> & { readonly kind: (typeof tracks)[number] };
const rowsMax = 100;
/** Viewers treat process or thread 0 as idle. */
const numbersFrom = 1;

export interface TracedRank {
  readonly name: string;
  readonly spans: readonly Span[];
}

export const chromeTraceStart = '{"otherData":{"source":"enodia train"}';

/** Chrome's JSON of the spans (https://ui.perfetto.dev): a process for each rank, a track for each kind, and one for exposed times. */
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
  // Both ends are rounded: with a rounded length a span could overlap the next.
  const [ts, end] = [Math.round(fromMs * 1000), Math.round(toMs * 1000)];
  return { name: shown, ph: "X", pid, tid, ts, dur: end - ts, cat: kind, args };
}
