// Routing tables with weights that keep tokens in the rank's zone as far as the plan allows (placement/near.ts).
import type { Peers } from "../experts/peers.ts";
import type { RoutingLayer } from "../placement/dispatch.ts";
import { nearWeights, type Zones, zonesOf } from "../placement/near.ts";

export class NearRouting {
  readonly #peers: Pick<Peers, "self" | "membership">;
  #zones: Zones | undefined;
  #key = keyOf(undefined);

  constructor(peers: Pick<Peers, "self" | "membership">) {
    this.#peers = peers;
  }

  /** True when every table must be rebuilt. */
  changed(): boolean {
    this.#zones = zonesOf(this.#peers.self.rank, this.#peers.membership.members);
    const key = keyOf(this.#zones);
    if (key === this.#key) return false;
    this.#key = key;
    return true;
  }

  tables(layers: readonly RoutingLayer[]): readonly RoutingLayer[] {
    const zones = this.#zones;
    if (!zones) return layers;
    return layers.map((layer) => ({
      layer: layer.layer,
      epoch: layer.epoch,
      hosts: layer.hosts,
      weights: layer.hosts.map((hosts, expert) => nearWeights(hosts, layer.weights[expert] ?? [], zones)),
    }));
  }
}

function keyOf(zones: Zones | undefined): string {
  return zones ? JSON.stringify([zones.own, [...zones.of], [...zones.parts]]) : "";
}
