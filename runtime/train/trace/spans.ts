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

interface Moment {
  readonly kind: keyof Times;
  /** Of the span of that kind that began first; -1 of the host's. */
  readonly layer: number;
  readonly fromMs: number;
  readonly toMs: number;
}

/** All that lies within the spans of steps, one moment after another. */
function* momentsOf(spans: readonly Span[]): Generator<Moment> {
  const edges = spans.flatMap((span) => [
    { span, at: span.fromMs, opens: true },
    { span, at: span.toMs, opens: false },
  ]);
  edges.sort((a, b) => a.at - b.at);
  const kinds = ["step", ...order] as const;
  const open = Object.fromEntries(kinds.map((kind) => [kind, new Set<Span>()])) as Record<SpanKind, Set<Span>>;
  let last = 0;
  for (const { span, at, opens } of edges) {
    if (open.step.size > 0 && at > last) {
      const kind = order.find((each) => open[each].size > 0);
      const [first] = kind === undefined ? [] : open[kind];
      yield { kind: kind ?? "host", layer: first?.layer ?? -1, fromMs: last, toMs: at };
    }
    if (opens) open[span.kind].add(span);
    else open[span.kind].delete(span);
    last = at;
  }
}

export function timesOf(spans: readonly Span[]): Times {
  const times = { compute: 0, dispatch: 0, meeting: 0, spRS: 0, spAG: 0, host: 0 };
  for (const { kind, fromMs, toMs } of momentsOf(spans)) times[kind] += toMs - fromMs;
  return times;
}

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

/** Of copies and sums: milliseconds within steps that nothing hid, and bytes that were sent from within them. */
export function movedWithin(spans: readonly Span[]): { readonly exposedMs: number; readonly bytes: number } {
  const { spAG, spRS } = timesOf(spans);
  const steps = spans.filter(({ kind }) => kind === "step");
  const within = ({ kind, fromMs: at }: Span): boolean =>
    (kind === "spAG" || kind === "spRS") && steps.some(({ fromMs, toMs }) => fromMs <= at && at < toMs);
  const bytes = spans.reduce((sum, span) => sum + (within(span) ? (span.bytes ?? 0) : 0), 0);
  return { exposedMs: spAG + spRS, bytes };
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

/** Spans of ranks as Chrome's JSON (https://ui.perfetto.dev opens it): a process for each rank, a track for each kind. The last one
 *  has what copies and sums of each layer kept a rank waiting. */
export function chromeTrace(ranks: readonly (readonly Span[])[]): string {
  const events: TraceEvent[] = [];
  for (const [pid, recorded] of ranks.entries()) {
    const spans: readonly Shown[] = [...recorded, ...exposedOf(recorded)];
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

function eventOf({ kind, name, layer, fromMs, toMs, bytes, rows }: Shown, pid: number, tid: number): TraceEvent {
  const args = Object.fromEntries(
    Object.entries({ layer: layer < 0 ? undefined : layer, bytes, rows }).filter(([, value]) => value !== undefined),
  );
  const shown = layer < 0 ? name : `${name} ${layer}`;
  return { name: shown, ph: "X", pid, tid, ts: Math.round(fromMs * 1000), dur: Math.round((toMs - fromMs) * 1000), cat: kind, args };
}
