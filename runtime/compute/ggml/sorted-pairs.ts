// The (row, expert) pairs of a layer, sorted by expert, so that each expert multiplies its rows at once.
import type { MoeLayer } from "../../kernels/segment.ts";

export interface SortedPairs {
  /** The experts that are chosen: form by form, of each those with most rows first. */
  readonly groups: readonly { readonly expert: number; readonly rows: number }[];
  /** The row of each sorted pair, or 0 where a group is filled up. */
  readonly rows: Int32Array;
  /** Where each (row, k) lies among the sorted, [topK, n]. */
  readonly places: Int32Array;
}

interface Forms {
  /** The rows that are computed for so many. */
  sizeOf(rows: number, expert: number): number;
  formIn(expert: number): number;
}

/** `ids` [n, topK]. */
export function sortPairs(ids: Int32Array, { topK, experts }: Pick<MoeLayer, "topK" | "experts">, { sizeOf, formIn }: Forms): SortedPairs {
  const counts = new Int32Array(experts);
  for (const id of ids) counts[id] = (counts[id] as number) + 1;
  const groups = [...counts.entries()].filter(([, count]) => count > 0).map(([expert, count]) => ({ expert, rows: sizeOf(count, expert) }));
  groups.sort((a, b) => formIn(a.expert) - formIn(b.expert) || b.rows - a.rows || a.expert - b.expert);
  const next = counts;
  let total = 0;
  for (const { expert, rows } of groups) {
    next[expert] = total;
    total += rows;
  }
  const rows = new Int32Array(total);
  const places = new Int32Array(ids.length);
  for (const [pair, id] of ids.entries()) {
    const place = next[id] as number;
    next[id] = place + 1;
    const row = Math.floor(pair / topK);
    places[(pair % topK) * (ids.length / topK) + row] = place;
    rows[place] = row;
  }
  return { groups, rows, places };
}
