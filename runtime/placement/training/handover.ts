// State that moves between ranks when a world begins or primaries move: who is to hold each unit, and who sends it. One rule covers
// loss, growth, shrinking and drain.

/** A transfer of one unit; from a rank to itself where it has the state already. */
export interface Transfer {
  readonly unit: number;
  readonly from: number;
  readonly to: number;
}

export interface HandoverProblem {
  readonly held: readonly ReadonlySet<number>[];
  readonly wanted: readonly (readonly number[])[];
  readonly floats: readonly number[];
}

/** Transfers in the order of units, so that ranks never wait in a circle. Every unit must be held. */
export function handover({ held, wanted, floats }: HandoverProblem): Transfer[] {
  const sent = new Array<number>(held.length).fill(0);
  return wanted.flatMap((ranks, unit) => {
    const holders = [...held.keys()].filter((rank) => held[rank]?.has(unit));
    return ranks.map((to): Transfer => {
      if (holders.includes(to)) return { unit, from: to, to };
      const from = holders.reduce((least, rank) => ((sent[rank] as number) < (sent[least] as number) ? rank : least), holders[0] ?? -1);
      if (from < 0) throw new TypeError(`nobody holds unit ${unit}`);
      sent[from] = (sent[from] as number) + (floats[unit] as number);
      return { unit, from, to };
    });
  });
}

/**
 * Primaries of one layer's experts in a new world: the usual number per rank, on a rank with the expert's state where possible.
 * `holders[expert]` are ranks by preference.
 */
export function primariesNear(holders: readonly (readonly number[])[], ranks: number): number[] {
  const experts = holders.length;
  const freeSlots = new Array<number>(ranks).fill(0);
  for (let expert = 0; expert < experts; expert++) addTo(freeSlots, Math.floor((expert * ranks) / experts), 1);
  const primaries = holders.map((row): number | undefined => {
    const primary = row.find((rank) => (freeSlots[rank] ?? 0) > 0);
    if (primary !== undefined) addTo(freeSlots, primary, -1);
    return primary;
  });
  return primaries.map((primary) => {
    if (primary !== undefined) return primary;
    const free = freeSlots.findIndex((count) => count > 0);
    addTo(freeSlots, free, -1);
    return free;
  });
}

function addTo(counts: number[], at: number, by: number): void {
  counts[at] = (counts[at] as number) + by;
}
