// Routing tables with weights that keep tokens in the rank's zone as far as the plan allows. When all sources do the same, each host
// still gets its planned weight.
import type { Peers } from "../experts/peers.ts";
import type { RoutingLayer } from "../placement/dispatch.ts";
import { quotas } from "../placement/split.ts";

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

export interface Zones {
  readonly own: string;
  readonly of: ReadonlyMap<number, string>;
  /** The part of all tokens from each zone; their sum is 1. */
  readonly parts: ReadonlyMap<string, number>;
}

interface ZoneMember {
  readonly rank: number;
  readonly state: string;
  readonly zone?: string;
}

/** The zones, if there are two or more and all are known. Serving ranks count alike. */
export function zonesOf(self: number, members: readonly ZoneMember[]): Zones | undefined {
  const own = members.find(({ rank }) => rank === self)?.zone;
  const sources = members.filter(({ state }) => state === "active");
  if (own === undefined || sources.some(({ zone }) => zone === undefined)) return undefined;
  const parts = new Map<string, number>();
  for (const { zone = "" } of sources) parts.set(zone, (parts.get(zone) ?? 0) + 1 / sources.length);
  if (parts.size < 2 || !parts.has(own)) return undefined;
  return { own, parts, of: new Map(members.flatMap(({ rank, zone }) => (zone === undefined ? [] : [[rank, zone] as const]))) };
}

/**
 * Weights per mille of one expert for a source in `zones.own`. A zone whose hosts have more weight than it has tokens takes the rest
 * from zones with less, in proportion to their surplus.
 */
export function nearWeights(hosts: readonly number[], weights: readonly number[], zones: Zones): readonly number[] {
  if (hosts.length < 2) return weights;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const places = hosts.map((host) => zones.of.get(host));
  if (total <= 0 || places.includes(undefined)) return weights;
  const held = new Map<string, number>();
  for (const [i, zone = ""] of places.entries()) held.set(zone, (held.get(zone) ?? 0) + (weights[i] ?? 0) / total);
  const spare = (zone: string): number => Math.max(0, (held.get(zone) ?? 0) - (zones.parts.get(zone) ?? 0));
  const tokens = zones.parts.get(zones.own) ?? 0;
  const here = Math.min(held.get(zones.own) ?? 0, tokens);
  const away = tokens - here;
  const spared = [...held.keys()].reduce((sum, zone) => sum + (zone === zones.own ? 0 : spare(zone)), 0);
  // The part of a zone's host weight that this zone's tokens use.
  const taken = (zone: string): number => {
    const all = held.get(zone) ?? 0;
    if (all <= 0) return 0;
    return (zone === zones.own ? here : spared > 0 ? (away * spare(zone)) / spared : 0) / all;
  };
  return quotas(places.map((zone = "", i) => (weights[i] ?? 0) * taken(zone)));
}
