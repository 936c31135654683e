// The cost of expert replicas by network path, and whether a plan pays for itself before the load changes again. The
// planner, the rebalance plane and workers share it.
import type { Move } from "../../crds/plan.ts";
import { receiveSchedule } from "./receive.ts";

/** `pod` is the receiver itself: nothing is sent. */
export type Path = "pod" | TransferPath;
export type TransferPath = (typeof transferPaths)[number];
export const transferPaths = ["node", "zone", "rack", "remote", "store"] as const;

/**
 * The cost of a byte by path, relative to one within a node. `zone` is within a rack where racks are known; `rack` is
 * between two racks of a zone.
 */
export const pathFactor: Readonly<Record<Path, number>> = { pod: 0, node: 1, zone: 2, rack: 3, remote: 6, store: 4 };

/** Bytes per second of one receiver by path, or summed bytes. */
export type ByPath = Readonly<Record<TransferPath, number>>;

const assumedNodeBytesPerSecond = 400e6;
export const assumedRates: ByPath = byPath((path) => assumedNodeBytesPerSecond / pathFactor[path]);

export function byPath(value: (path: TransferPath) => number): ByPath {
  return { node: value("node"), zone: value("zone"), rack: value("rack"), remote: value("remote"), store: value("store") };
}

export interface Place {
  readonly rank: number;
  readonly node: string;
  readonly zone: string;
  /** The rack of the node; undefined where it is not known. */
  readonly rack: string | undefined;
}

/** The place of a rank by its node's labels; node names are qualified by zone. */
export function placeOf({ rank, node, zone, rack }: Omit<Place, "rack"> & Partial<Place>): Place {
  return { rank, node: `${zone}/${node}`, zone, rack };
}

export interface Fetched {
  readonly source: number | "store";
  readonly bytes: number;
  readonly seconds: number;
}

export function addFetched(sums: Map<Fetched["source"], Fetched>, { source, bytes, seconds }: Fetched): void {
  const known = sums.get(source);
  sums.set(source, { source, bytes: (known?.bytes ?? 0) + bytes, seconds: (known?.seconds ?? 0) + seconds });
}

export function pathBetween(receiver: Place, source: Place): Path {
  if (source.rank === receiver.rank) return "pod";
  if (source.node === receiver.node) return "node";
  if (source.zone !== receiver.zone) return "remote";
  return source.rack === undefined || receiver.rack === undefined || source.rack === receiver.rack ? "zone" : "rack";
}

/** The cheapest path from any source to the receiver; without sources, the model store. */
export function cheapestPath(receiver: Place, sources: readonly Place[]): Path {
  let best: Path = "store";
  for (const source of sources) {
    const path = pathBetween(receiver, source);
    if (best === "store" || pathFactor[path] < pathFactor[best]) best = path;
  }
  return best;
}

/**
 * Bytes that each receiving rank takes, by path, from the sources of the receive schedule. Ranks without a place are no
 * sources.
 */
export function receivedBytes(moves: readonly Move[], places: ReadonlyMap<number, Place>): Map<number, ByPath> {
  const live = moves.map((move) => ({ ...move, sources: move.sources.filter((rank) => places.has(rank)) }));
  const bytesOf = new Map(moves.map((move) => [moveKey(move), move.bytes]));
  const received = new Map<number, Record<TransferPath, number>>();
  for (const fetch of receiveSchedule(live)) {
    const [from, to] = [places.get(fetch.source ?? -1), places.get(fetch.rank)];
    const path = from && to ? pathBetween(to, from) : "store";
    if (path === "pod") continue;
    const sums = received.get(fetch.rank) ?? { ...nothing };
    sums[path] += bytesOf.get(moveKey(fetch)) ?? 0;
    received.set(fetch.rank, sums);
  }
  return received;
}

const nothing = byPath(() => 0);
const moveKey = (move: Pick<Move, "layer" | "expert" | "rank">): string => `${move.layer}.${move.expert}.${move.rank}`;

export interface Payback {
  /** Predicted max/mean before and after; layer time is proportional to it. */
  readonly before: number;
  readonly after: number;
  readonly received: Iterable<ByPath>;
  readonly moves: number;
  readonly rates: ByPath;
  /** Bytes per second that a receiver may take on any path. */
  readonly limit: number;
  readonly lifetimeSeconds: number;
}

const interference = 0.1;
const fixedSecondsPerMove = 0.002;

export interface Verdict {
  readonly gainSeconds: number;
  readonly transferSeconds: number;
  readonly costSeconds: number;
}

/**
 * The gain of a plan while its forecast holds, and the cost of its transfers, in seconds of layer time. Receivers work in parallel, so
 * the slowest counts. A plan without moves costs nothing.
 */
export function payback(p: Payback): Verdict {
  const saved = p.before > 0 ? Math.max(0, (p.before - p.after) / p.before) : 0;
  const gainSeconds = saved * p.lifetimeSeconds;
  let transferSeconds = 0;
  for (const bytes of p.received) transferSeconds = Math.max(transferSeconds, secondsOf(bytes, p.rates, p.limit));
  const costSeconds = transferSeconds * interference + p.moves * fixedSecondsPerMove;
  return { gainSeconds, transferSeconds, costSeconds };
}

function secondsOf(bytes: ByPath, rates: ByPath, limit: number): number {
  return transferPaths.reduce((sum, path) => sum + bytes[path] / Math.max(1, Math.min(rates[path], limit)), 0);
}
