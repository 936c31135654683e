// The ejection chain: two replicas that relieve a rank when no single one can.

import { none } from "../layer-state.ts";
import { above, type Basin, levelWith, meets } from "./bounds.ts";
import { beats, ceilingOf, expertReplicaCost, offer, type View } from "./step.ts";

const chainCold = 4;
const chainExperts = 2;

/** Candidates of two replicas: e gets one on a cold rank, whose f goes to a third rank, where a redundant d makes way. */
export function chains(view: View): void {
  const { state, hot } = view;
  const pieces: { readonly f: number; readonly rank: number; readonly rows: number }[] = [];
  for (const rank of view.cold.slice(0, chainCold))
    for (const f of state.on[rank] as number[]) pieces.push({ f, rank, rows: state.rowsOn(f, rank) });
  for (const { expert: d, rank: third, spill } of view.redundant) {
    if (third === hot) continue;
    // More rows would make the third rank as hot as the hot one.
    const most = (state.normal(hot) - state.normal(third)) / (state.scale[third] as number) + state.rowsOn(d, third);
    for (const { f, rank, rows } of pieces)
      if (rank !== third && f !== d && rows < most) ejections(view, { d, third, spill, f, rank, rows });
  }
}

interface Chain {
  readonly d: number;
  readonly third: number;
  readonly spill: number;
  readonly f: number;
  readonly rank: number;
  readonly rows: number;
}

function ejections(view: View, { d, third, spill, f, rank, rows }: Chain): void {
  const { state, arena } = view;
  const fHosts = state.hosts[f] as number[];
  if (fHosts.includes(third)) return;
  const dHosts = state.hosts[d] as number[];
  for (let i = 0; i < Math.min(chainExperts, view.experts.length); i++) {
    const e = view.experts[i] as number;
    const hosts = state.hosts[e] as number[];
    if (e === f || e === d || hosts.includes(rank)) continue;
    // The bounds hold where none of the three experts shares a host with another.
    const apart = fHosts.length === 1 && !hosts.includes(third) && !dHosts.includes(rank) && !meets(dHosts, third, hosts);
    if (apart && above(Math.max(spill, levelWith(state, view.basins[i] as Basin, rank, rows)), ceilingOf(view, 2))) continue;
    state.begin();
    for (const expert of [d, f, e]) state.take(expert);
    state.give(d, third, none);
    state.give(f, rank, third);
    state.give(e, none, rank);
    const price = { total: state.finish(), cost: expertReplicaCost(view, e, rank) + expertReplicaCost(view, f, third) };
    if (!beats(view, price)) continue;
    if (!arena.mayLeave(state, f, rank) || !arena.mayAdd(state, f, third, d) || !arena.mayAdd(state, e, rank, f)) continue;
    offer(view, price, () => ({
      kind: "chain",
      changes: [
        { expert: d, hosts: dHosts.filter((g) => g !== third) },
        { expert: f, hosts: fHosts.map((g) => (g === rank ? third : g)) },
        { expert: e, hosts: [...hosts, rank] },
      ],
      adds: [
        { expert: e, rank },
        { expert: f, rank: third },
      ],
      drops: [
        { expert: f, rank },
        { expert: d, rank: third },
      ],
    }));
  }
}
