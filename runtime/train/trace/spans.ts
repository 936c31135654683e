// Spans of training's time, of computing and of frames: what of a rank's time each kind took, and a file of them that Perfetto opens. Pure.

/** What a span is for: computing; rows of experts; copies (spAG); sums of experts' gradients (spRS); what all ranks exchange in a step. */
export type SpanKind = "step" | "compute" | "dispatch" | "spAG" | "spRS" | "meeting";

export interface Span {
  readonly kind: SpanKind;
  /** "block forward", "receive rows" */
  readonly name: string;
  /** Of the model, -1 where there is none. */
  readonly layer: number;
  /** Of the clock of the recorder. */
  readonly fromMs: number;
  readonly toMs: number;
  /** Of the payload of a frame. */
  readonly bytes?: number;
  /** Of an expert's call. */
  readonly rows?: number;
}

const kindsOfFrames: Readonly<Record<string, SpanKind>> = {
  copies: "spAG",
  "copies again": "spAG",
  sums: "spRS",
  "shadow sums": "spRS",
  counts: "dispatch",
  rows: "dispatch",
  outputs: "dispatch",
  gradients: "dispatch",
  "row gradients": "dispatch",
};

/** The kind of an exchange, by the name of its frames. */
export const kindOfFrames = (what: string): SpanKind => kindsOfFrames[what] ?? "meeting";

/** Milliseconds of a rank. Each moment is the first's that takes place then: frames beside computing, copies beside rows, are hidden. */
export interface Times {
  readonly compute: number;
  /** Waits for rows, and so for ranks that have more of them. */
  readonly dispatch: number;
  readonly meeting: number;
  readonly spRS: number;
  readonly spAG: number;
  /** None of these: the optimizer, and what is done with rows. */
  readonly host: number;
}

const order = ["compute", "dispatch", "meeting", "spRS", "spAG"] as const;

/** Of all that lies within the spans of steps. */
export function timesOf(spans: readonly Span[]): Times {
  const times = { compute: 0, dispatch: 0, meeting: 0, spRS: 0, spAG: 0, host: 0 };
  const edges = spans.flatMap(({ kind, fromMs, toMs }) => [
    { kind, at: fromMs, by: 1 },
    { kind, at: toMs, by: -1 },
  ]);
  edges.sort((a, b) => a.at - b.at);
  const open = { step: 0, compute: 0, dispatch: 0, meeting: 0, spRS: 0, spAG: 0 };
  let last = 0;
  for (const { kind, at, by } of edges) {
    if (open.step > 0) times[order.find((each) => open[each] > 0) ?? "host"] += at - last;
    open[kind] += by;
    last = at;
  }
  return times;
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

const tracks = ["step", "compute", "dispatch", "spAG", "spRS", "meeting"] as const;
/** Rows of one track, at most; spans of a track that overlap lie in rows of their own. */
const rowsMax = 100;

/** Spans of ranks as Chrome's JSON (https://ui.perfetto.dev opens it): a process for each rank, a track for each kind. */
export function chromeTrace(ranks: readonly (readonly Span[])[]): string {
  const events: TraceEvent[] = [];
  for (const [pid, spans] of ranks.entries()) {
    events.push({ name: "process_name", ph: "M", pid, tid: 0, args: { name: `rank ${pid}` } });
    for (const [track, kind] of tracks.entries()) {
      const ends: number[] = [];
      for (const span of spans.filter((each) => each.kind === kind).sort((a, b) => a.fromMs - b.fromMs)) {
        const free = ends.findIndex((end) => end <= span.fromMs);
        const row = free < 0 ? Math.min(ends.length, rowsMax - 1) : free;
        ends[row] = span.toMs;
        events.push(eventOf(span, pid, track * rowsMax + row));
      }
      for (const row of ends.keys()) {
        const [tid, name] = [track * rowsMax + row, row === 0 ? kind : `${kind} ${row + 1}`];
        events.push({ name: "thread_name", ph: "M", pid, tid, args: { name } });
        events.push({ name: "thread_sort_index", ph: "M", pid, tid, args: { sort_index: tid } });
      }
    }
  }
  return JSON.stringify({ displayTimeUnit: "ms", traceEvents: events });
}

function eventOf({ kind, name, layer, fromMs, toMs, bytes, rows }: Span, pid: number, tid: number): TraceEvent {
  const args = Object.fromEntries(
    Object.entries({ layer: layer < 0 ? undefined : layer, bytes, rows }).filter(([, value]) => value !== undefined),
  );
  const shown = layer < 0 ? name : `${name} ${layer}`;
  return { name: shown, ph: "X", pid, tid, ts: Math.round(fromMs * 1000), dur: Math.round((toMs - fromMs) * 1000), cat: kind, args };
}
