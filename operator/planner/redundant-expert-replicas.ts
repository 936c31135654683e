// The experts of a placement that have more hosts than one, the coldest first: a repair that needs room asks for them thousands of times
// in a large world, most of whose experts have one host. It is told of each expert replica that goes, and finds no reason of its own.
import type { Hosts } from "./problem.ts";

interface Copied {
  readonly layer: number;
  readonly expert: number;
  /** Rows that each of its hosts computes. */
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

  /** The coldest expert of which `rankOf` names a host that may give its expert replica up. */
  find(rankOf: (copied: Copied, hosts: readonly number[]) => number | undefined): (Copied & { readonly rank: number }) | undefined {
    for (const copied of this.#coldestFirst) {
      const rank = rankOf(copied, this.#hosts[copied.layer]?.[copied.expert] ?? []);
      if (rank !== undefined) return Object.assign({ rank }, copied);
    }
    return undefined;
  }

  /** A host of this expert has given its expert replica up: the others have more to do. */
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
