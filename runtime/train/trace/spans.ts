// Spans of computing and of frames, also as a pod sends them, which is untrusted; and the one to which each moment of a rank is attributed.
import { z } from "zod";
import { ranksMax } from "../../../crds/training-world.ts";

/** dispatch: rows of experts; spAG: expert replicas; spRS: sums of experts' gradients; meeting: exchanges of all ranks. */
const kinds = ["step", "compute", "dispatch", "spAG", "spRS", "meeting"] as const;
type SpanKind = (typeof kinds)[number];

/** The most spans of a step; the first ones of a longer step are lost. */
export const stepSpansMax = 200_000;

const count = z.int().min(0);
export const spanSchema = z.object({
  kind: z.enum(kinds),
  /** "block forward", "receive rows" */
  name: z.string().max(128),
  /** -1 where there is none. */
  layer: z.int().min(-1).max(65_535),
  fromMs: z.number(),
  toMs: z.number(),
  /** The size of a frame's payload. */
  bytes: count.optional(),
  /** The other rank of a frame. */
  peer: count.max(ranksMax).optional(),
  /** The rows of an expert's call. */
  rows: count.optional(),
});
export type Span = Readonly<z.infer<typeof spanSchema>>;

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

export const worldsMeet = "worlds meet";

export const kindOfFrames = (what: string): SpanKind => kindsOfFrames[what] ?? "meeting";

/** Milliseconds of a rank. A moment counts for the first kind in this order, so frames beside computing are hidden. */
export interface Times {
  readonly compute: number;
  /** Waiting for rows, and so for busier ranks. */
  readonly dispatch: number;
  readonly meeting: number;
  readonly spRS: number;
  readonly spAG: number;
  readonly host: number;
}

const order = ["compute", "dispatch", "meeting", "spRS", "spAG"] as const;

interface Moment {
  readonly kind: keyof Times;
  /** The layer of the earliest span of that kind; -1 for the host. */
  readonly layer: number;
  readonly fromMs: number;
  readonly toMs: number;
  readonly open: Readonly<Record<SpanKind, ReadonlySet<Span>>>;
}

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

/** The exposed milliseconds of replicas and sums within steps, and the bytes sent there. */
export function movedWithin(spans: readonly Span[]): { readonly exposedMs: number; readonly bytes: number } {
  const { spAG, spRS } = timesOf(spans);
  const steps = spans.filter(({ kind }) => kind === "step");
  const within = ({ kind, fromMs: at }: Span): boolean =>
    (kind === "spAG" || kind === "spRS") && steps.some(({ fromMs, toMs }) => fromMs <= at && at < toMs);
  const bytes = spans.reduce((sum, span) => sum + (within(span) ? (span.bytes ?? 0) : 0), 0);
  return { exposedMs: spAG + spRS, bytes };
}
