// A group's streams as operations, pure: neighbours of like length are one.
import type { KvRun } from "./kv-memory.ts";

export type Span = Pick<KvRun, "first" | "length">;
/** Operations of one group; each length is another graph. */
const runsMax = 8;
type Join = (run: KvRun, span: Span) => KvRun | undefined;

/** `paddings`: how many times the positions that they have streams of one operation may read, the first that gives few operations. */
export const runsOfSpans = (spans: readonly Span[], paddings: readonly number[], join: Join): readonly KvRun[] | undefined =>
  paddings.map((padding) => joinedAll(spans, padding, join)).find(({ length }) => length <= runsMax);

function joinedAll(spans: readonly Span[], padding: number, join: Join): readonly KvRun[] {
  const runs: KvRun[] = [];
  let sum = 0;
  for (const [at, span] of spans.entries()) {
    const joined = at > 0 ? join(runs.at(-1) as KvRun, span) : undefined;
    const together = joined !== undefined && joined.batch * joined.length <= padding * (sum + span.length);
    sum = together ? sum + span.length : span.length;
    if (together) runs[runs.length - 1] = joined;
    else runs.push({ at, batch: 1, ...span, step: span.length });
  }
  return runs;
}
