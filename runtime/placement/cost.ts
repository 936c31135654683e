// The cost of expert replicas by the path that their bytes take, and whether a plan pays for itself before the load changes again. Pure;
// shared by the planner, the rebalance plane and workers.
import type { Move } from "../../crds/plan.ts";
import { receiveSchedule } from "./receive.ts";

/** `pod`: the receiver itself, where nothing is sent. */
export type Path = "pod" | TransferPath;
export type TransferPath = (typeof transferPaths)[number];
export const transferPaths = ["node", "zone", "rack", "remote", "store"] as const;

/** Cost of a byte by path, relative to one within a node. `zone` is within a rack where racks are known, `rack` between two of a zone. */
export const pathFactor: Readonly<Record<Path, number>> = { pod: 0, node: 1, zone: 2, rack: 3, remote: 6, store: 4 };

/** Bytes per second that one receiver gets by each path; or bytes, where something has been added up. */
export type ByPath = Readonly<Record<TransferPath, number>>;

/** The assumed rate of a receiver within its node, while nothing has been measured; other paths in proportion. */
const assumedNodeBytesPerSecond = 400e6;
export const assumedRates: ByPath = byPath((path) => assumedNodeBytesPerSecond / pathFactor[path]);

export function byPath(value: (path: TransferPath) => number): ByPath {
  return { node: value("node"), zone: value("zone"), rack: value("rack"), remote: value("remote"), store: value("store") };
}

export interface Place {
  readonly rank: number;
  /** Unique within all zones. */
  readonly node: string;
  readonly zone: string;
  /** The part of the zone that the node is in; undefined where it is not known. */
  readonly rack: string | undefined;
}

/** The place of a rank by what its node says; names of nodes are told apart by zone. */
export function placeOf({ rank, node, zone, rack }: Omit<Place, "rack"> & Partial<Place>): Place {
  return { rank, node: `${zone}/${node}`, zone, rack };
}

/** The bytes that a receiver took from a rank, or from the model store, and the time that it spent on them. */
export interface Fetched {
  readonly source: number | "store";
  readonly bytes: number;
  readonly seconds: number;
}

/** One sum per source. */
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

/** Cheapest path from any source to the receiver; no source = the model store. */
export function cheapestPath(receiver: Place, sources: readonly Place[]): Path {
  let best: Path = "store";
  for (const source of sources) {
    const path = pathBetween(receiver, source);
    if (best === "store" || pathFactor[path] < pathFactor[best]) best = path;
  }
  return best;
}

/**
 * Bytes that each receiving rank takes, by path, when it asks whom the receive schedule tells it to. Ranks without a place are
 * not there to be asked.
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
  /** Stored bytes that each receiver gets. */
  readonly received: Iterable<ByPath>;
  readonly moves: number;
  readonly rates: ByPath;
  /** Bytes per second that a receiver may take, whatever the path. */
  readonly limit: number;
  /** Seconds that the forecast is expected to hold. */
  readonly lifetimeSeconds: number;
}

/** A transfer slows serving by this part while it runs. */
const interference = 0.1;
/** Session set-up, verification and commit of one expert replica. */
const fixedSecondsPerMove = 0.002;

export interface Verdict {
  readonly gainSeconds: number;
  /** Seconds until the receiver that takes longest has its bytes. */
  readonly transferSeconds: number;
  readonly costSeconds: number;
}

/**
 * The gain of a plan while its forecast holds, and the cost of its transfers: seconds of layer time, against seconds of
 * interference while bytes move and a fixed cost per move. Receivers take their bytes side by side, each one path after the
 * other; a layer is as slow as its slowest rank, so what counts is the receiver that is at it longest. No move costs nothing.
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
