// The experts with several hosts, the coldest first. It makes repeated searches during a repair cheap.
import type { Hosts } from "./problem.ts";

interface Copied {
  readonly layer: number;
  readonly expert: number;
  readonly rows: number;
}

export class RedundantExpertReplicas {
  readonly #hosts: Hosts;
  readonly #demand: (layer: number) => ArrayLike<number>;
  readonly #coldestFirst: Copied[];

  constructor(hosts: Hosts, demand: (layer: number) => ArrayLike<number>) {
    this.#hosts = hosts;
    this.#demand = demand;
    this.#coldestFirst = hosts.flatMap((layer, l) => layer.flatMap((row, expert) => (row.length > 1 ? [this.#copied(l, expert)] : [])));
    this.#coldestFirst.sort(byRows);
  }

  /** The coldest expert for which `rankOf` names a host that may drop its replica. */
  find(rankOf: (copied: Copied, hosts: readonly number[]) => number | undefined): (Copied & { readonly rank: number }) | undefined {
    for (const copied of this.#coldestFirst) {
      const rank = rankOf(copied, this.#hosts[copied.layer]?.[copied.expert] ?? []);
      if (rank !== undefined) return Object.assign({ rank }, copied);
    }
    return undefined;
  }

  /** Call it when a host has dropped its replica. */
  dropped(layer: number, expert: number): void {
    const list = this.#coldestFirst;
    const at = list.findIndex((copied) => copied.layer === layer && copied.expert === expert);
    if (at >= 0) list.splice(at, 1);
    if ((this.#hosts[layer]?.[expert]?.length ?? 0) < 2) return;
    const copied = this.#copied(layer, expert);
    const next = list.findIndex((other) => byRows(other, copied) > 0);
    list.splice(next < 0 ? list.length : next, 0, copied);
  }

  #copied(layer: number, expert: number): Copied {
    return { layer, expert, rows: (this.#demand(layer)[expert] as number) / (this.#hosts[layer]?.[expert]?.length ?? 1) };
  }
}

const byRows = (a: Copied, b: Copied): number => a.rows - b.rows || a.layer - b.layer || a.expert - b.expert;
