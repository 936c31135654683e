// Routing tables with weights that keep tokens near, rebuilt when the members that they rest on change.
import type { Peers } from "../experts/peers.ts";
import type { RoutingLayer } from "../placement/dispatch.ts";
import { nearWeights, type Sources, sourcesOf } from "../placement/near-weights.ts";

export class NearRouting {
  readonly #peers: Pick<Peers, "self" | "membership">;
  #sources: Sources;
  #key: string;

  constructor(peers: Pick<Peers, "self" | "membership">) {
    this.#peers = peers;
    this.#sources = this.#seen();
    this.#key = keyOf(this.#sources);
  }

  /** True when every table must be rebuilt. */
  changed(): boolean {
    this.#sources = this.#seen();
    const key = keyOf(this.#sources);
    if (key === this.#key) return false;
    this.#key = key;
    return true;
  }

  tables(layers: readonly RoutingLayer[]): readonly RoutingLayer[] {
    return layers.map(({ layer, epoch, hosts, weights }) => {
      const near = hosts.map((row, expert) => nearWeights(row, weights[expert] ?? [], this.#sources));
      return { layer, epoch, hosts, weights: near };
    });
  }

  #seen(): Sources {
    return sourcesOf(this.#peers.self.rank, this.#peers.membership.members);
  }
}

const keyOf = ({ own, zones, tokens }: Sources): string => JSON.stringify([own, [...zones], [...tokens]]);
