// The worth of a finished plan: what it saves while its forecast holds, against the cost of its transfers.
import type { Move } from "../../crds/plan.ts";
import { formatBytes } from "../../crds/quantity.ts";
import { type ByPath, byPath, payback, placeOf, receivedBytes, transferPaths, type Verdict } from "../../runtime/placement/cost.ts";
import type { PlanInput } from "./policy.ts";

/**
 * What a row on the wire costs: a layer whose rows all leave takes longer than one whose rows all stay by this part of a rank's even
 * load. Measured on loopback, and taken lower: DECISIONS.md 11.
 */
const wirePrice = 0.5;

export interface WorthOptions {
  readonly rates: ByPath;
  /** Bytes per second of a receiver over all paths; Infinity without a limit. */
  readonly limit: number;
  readonly lifetimeSeconds: number;
}

export interface Worth extends Verdict {
  readonly moves: number;
  readonly bytes: ByPath;
  readonly lifetimeSeconds: number;
  readonly kept: number;
}

/** `before`, `after`: max/mean, mean of layers, since layer times add up. `kept`: the part of all rows that stay at their rank. */
export function worthOf(
  input: PlanInput,
  moves: readonly Move[],
  { before, after, kept = 0 }: { readonly before: number; readonly after: number; readonly kept?: number | undefined },
  options: WorthOptions,
): Worth {
  const places = new Map(input.ranks.flatMap((rank) => (rank.state === "dead" ? [] : [[rank.rank, placeOf(rank)] as const])));
  const received = [...receivedBytes(moves, places).values()];
  const pay = payback({ before, after: after - wirePrice * kept, received, moves: moves.length, ...options });
  const bytes = byPath((path) => received.reduce((sum, of) => sum + of[path], 0));
  return { ...pay, moves: moves.length, bytes, lifetimeSeconds: options.lifetimeSeconds, kept };
}

const pathNames: Readonly<Record<keyof ByPath, string>> = {
  node: "within nodes",
  zone: "within zones",
  rack: "between racks",
  remote: "between zones",
  store: "from the store",
};

/** "saves 0.27 s of layer time in 300 s, its 12 moves (80Mi within zones) take 2.4 s and cost 0.26 s" */
export function worthText(worth: Worth): string {
  const stay = worth.kept > 0 ? `${(100 * worth.kept).toFixed(0)}% of all rows stay at their rank that left it, ` : "";
  const saves = `${stay}saves ${worth.gainSeconds.toFixed(2)} s of layer time in ${Math.round(worth.lifetimeSeconds)} s`;
  if (worth.moves === 0) return saves;
  const parts = transferPaths.flatMap((path) => (worth.bytes[path] > 0 ? [`${formatBytes(worth.bytes[path])} ${pathNames[path]}`] : []));
  const bytes = parts.length > 0 ? ` (${parts.join(", ")})` : "";
  return `${saves}, its ${worth.moves} moves${bytes} take ${worth.transferSeconds.toFixed(1)} s and cost ${worth.costSeconds.toFixed(2)} s`;
}

export function worthNumbers(worth: Worth): Readonly<Record<string, number>> {
  const rounded = (seconds: number): number => Math.round(seconds * 100) / 100;
  return {
    ...(worth.kept > 0 ? { keptPercent: Math.round(100 * worth.kept) } : {}),
    gainSeconds: rounded(worth.gainSeconds),
    lifetimeSeconds: rounded(worth.lifetimeSeconds),
    transferSeconds: rounded(worth.transferSeconds),
    costSeconds: rounded(worth.costSeconds),
    nodeBytes: worth.bytes.node,
    zoneBytes: worth.bytes.zone,
    rackBytes: worth.bytes.rack,
    remoteBytes: worth.bytes.remote,
    storeBytes: worth.bytes.store,
  };
}
