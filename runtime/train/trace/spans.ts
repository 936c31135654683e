// Spans of training's time, of computing and of frames, and which of them each moment of a rank belongs to. Pure.
import type { Span, SpanKind } from "../../../crds/training-trace.ts";

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

/** The name of the span of a meeting of worlds, which lies between two steps. */
export const worldsMeet = "worlds meet";

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
  /** All spans that are under way, while the moment is looked at. */
  readonly open: Readonly<Record<SpanKind, ReadonlySet<Span>>>;
}

/** All that lies within the spans of steps, one moment after another. */
export function* momentsOf(spans: readonly Span[]): Generator<Moment> {
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
      yield { kind: kind ?? "host", layer: first?.layer ?? -1, fromMs: last, toMs: at, open };
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

/** Of copies and sums: milliseconds within steps that nothing hid, and bytes that were sent from within them. */
export function movedWithin(spans: readonly Span[]): { readonly exposedMs: number; readonly bytes: number } {
  const { spAG, spRS } = timesOf(spans);
  const steps = spans.filter(({ kind }) => kind === "step");
  const within = ({ kind, fromMs: at }: Span): boolean =>
    (kind === "spAG" || kind === "spRS") && steps.some(({ fromMs, toMs }) => fromMs <= at && at < toMs);
  const bytes = spans.reduce((sum, span) => sum + (within(span) ? (span.bytes ?? 0) : 0), 0);
  return { exposedMs: spAG + spRS, bytes };
}
