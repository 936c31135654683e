// State that passes between ranks when a world begins, or when primaries move within one: who is to hold each unit, and who sends it there.
// One rule for loss, growth, shrinking, drain and moves of primaries. Pure.

/** One unit's state from a rank that has it to one that is to; to itself where it has it already. */
export interface Transfer {
  readonly unit: number;
  readonly from: number;
  readonly to: number;
}

export interface HandoverProblem {
  /** Units whose state each rank has. */
  readonly held: readonly ReadonlySet<number>[];
  /** Ranks that are to hold each unit. */
  readonly wanted: readonly (readonly number[])[];
  /** Numbers of each unit. */
  readonly floats: readonly number[];
}

/** In the order of units, so that ranks that go through it one after another never wait in a circle. Every unit has to be held. */
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
 * Primaries of one layer's experts in a new world: as many for each rank as when experts are dealt in order, with a rank that has the
 * expert's state while it has room. `holders[expert]` are ranks, those that are preferred first.
 */
export function primariesNear(holders: readonly (readonly number[])[], ranks: number): number[] {
  const experts = holders.length;
  const room = new Array<number>(ranks).fill(0);
  for (let expert = 0; expert < experts; expert++) addTo(room, Math.floor((expert * ranks) / experts), 1);
  const primaries = holders.map((row): number | undefined => {
    const primary = row.find((rank) => (room[rank] ?? 0) > 0);
    if (primary !== undefined) addTo(room, primary, -1);
    return primary;
  });
  return primaries.map((primary) => {
    if (primary !== undefined) return primary;
    const free = room.findIndex((count) => count > 0);
    addTo(room, free, -1);
    return free;
  });
}

function addTo(counts: number[], at: number, by: number): void {
  counts[at] = (counts[at] as number) + by;
}
