// The begin of a world on one rank, after loss, growth or shrinking too: ranks exchange their state, settle the common step, and hand
// each unit to its owner and shadow.
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { nothingHeld, type Settled, settle } from "../../placement/training/commit.ts";
import { handover, primariesNear } from "../../placement/training/handover.ts";
import { carry } from "./carry.ts";
import { keptBudgetFor, memoryThere } from "./fits.ts";
import { firstPrimaries, primariesOfUnits, type Shape, type StateUnit, shapeOf, stateUnits } from "./model-shape.ts";
import type { RankOptions } from "./rank-options.ts";
import { type PeerReport, peerReportFrame, peerReportIn, peerReportLength, RankState } from "./rank-state.ts";
import { RankStores } from "./rank-stores.ts";
import { planHash } from "./step-plan.ts";

export interface Begin {
  /** Connects the ranks of the new world, then those that leave. */
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly shape: Shape;
  readonly ranks: number;
  readonly stores: RankStores;
  readonly rankState: RankState;
  /** Fills the stores from the newest checkpoint or the initial weights; returns the step, equal on every rank. */
  restore(): Promise<number>;
}

export interface Begun {
  readonly step: number;
  readonly primaries: readonly (readonly number[])[];
  readonly receivedBytes: number;
  /** Units that nobody had. If there are any, all state comes from the checkpoint. */
  readonly missing: readonly StateUnit[];
}

/** A failure leaves the stored state whole for the next world. */
export async function beginWorld(begin: Begin): Promise<Begun> {
  const { transport, stamp, shape, stores, rankState } = begin;
  const units = stateUnits(shape);
  const lengthFrom = (): number => peerReportLength(units);
  const frames = await gatherAll(transport, stamp, { what: "commit state", layer: -1, lengthFrom }, peerReportFrame(rankState, units));
  const reports = frames.map(peerReportIn);
  rankState.settledAt(Math.max(...reports.map(({ settled }) => settled)));
  const settled = settle(reports, units.length);
  const begun = "missing" in settled ? await restored(begin, units, settled.missing) : await handedOver(begin, units, reports, settled);
  rankState.arrived(begun.step, stores.all, stamp.world);
  await gatherAll(transport, stamp, { what: "begun", layer: -1, lengthFrom: () => 0 }, new Int32Array());
  rankState.begun();
  return begun;
}

async function restored(begin: Begin, units: readonly StateUnit[], missing: readonly number[]): Promise<Begun> {
  const { transport, shape, stores, rankState } = begin;
  rankState.drop();
  const primaries = firstPrimaries(shape, begin.ranks);
  stores.place(primaries);
  const step = transport.rank < begin.ranks ? await begin.restore() : nothingHeld.applied;
  return { step, primaries, receivedBytes: 0, missing: missing.map((unit) => units[unit] as StateUnit) };
}

async function handedOver(
  begin: Begin,
  units: readonly StateUnit[],
  reports: readonly PeerReport[],
  { step, ranks, giver }: Settled,
): Promise<Begun> {
  const { transport, stamp, shape, stores, rankState } = begin;
  const { rank } = transport;
  await finish(begin, units, { step, ranks, giver });
  if (ranks[rank] === "drop") rankState.drop();
  const nothing: ReadonlySet<number> = new Set();
  const among = (field: "held" | "owned") => reports.map((each, holder) => (ranks[holder] === "drop" ? nothing : each[field]));
  const [held, owned] = [among("held"), among("owned")];
  const primaries = nearPrimaries(shape, begin.ranks, held, owned);
  stores.place(primaries);
  const primary = primariesOfUnits(shape, primaries);
  const floats = units.map(({ from, to }) => to - from);
  const transfers = handover({ held, wanted: primary.map((owner) => stores.holders(owner)), floats });
  await carry({
    transport,
    stamp,
    what: "handover",
    arrays: stores.memory.arrays,
    units,
    transfers,
    from: (unit) => rankState.storeOf(unit),
    to: (_, unit) => stores.of(primary[unit] as number),
  });
  const received = transfers.reduce((sum, { unit, from, to }) => (to === rank && from !== rank ? sum + (floats[unit] as number) : sum), 0);
  return { step, primaries, receivedBytes: stores.memory.arrays.length * Float32Array.BYTES_PER_ELEMENT * received, missing: [] };
}

async function finish({ transport, stamp, rankState }: Begin, units: readonly StateUnit[], { step, ranks, giver }: Settled): Promise<void> {
  const { rank } = transport;
  const name = { what: "norms", layer: -1, chunk: 0, piece: 0 };
  for (const [to, settling] of ranks.entries()) {
    if (settling !== "finish" || to === giver) continue;
    if (rank === giver) await transport.send(to, stamp, name, rankState.norms);
    if (rank === to) rankState.decided(step, (await transport.receive(giver, stamp, { ...name, length: units.length })) as Float64Array);
  }
  if (ranks[rank] === "finish") await rankState.commitPending(step);
}

function nearPrimaries(
  shape: Shape,
  ranks: number,
  held: readonly ReadonlySet<number>[],
  owned: readonly ReadonlySet<number>[],
): number[][] {
  let unit = shape.pieces.length;
  return shape.experts.map((experts) =>
    primariesNear(
      experts.map(() => {
        const among = (sets: readonly ReadonlySet<number>[]): number[] => [...sets.keys()].filter((rank) => sets[rank]?.has(unit));
        const holders = [...among(owned), ...among(held)];
        unit += 1;
        return holders;
      }),
      ranks,
    ),
  );
}

/** A hash of the run's settings and facts, which decide frames. */
export function runHash({ layout, context, frozen: _ofModel, optimizerMemory: _changesNoBits, ...settings }: RankOptions): string {
  return planHash({ settings, facts: context.facts, layout });
}

export function storesOf(options: RankOptions, shape: Shape): Promise<RankStores> {
  const { transport, facts } = options.context;
  return RankStores.open(options, shape, { rank: transport.rank, ranks: facts.node.length }, options.shadow ? facts.node : []);
}

export function keptBudgetOf(options: RankOptions): number {
  const { transport, facts, group } = options.context;
  return keptBudgetFor({ ...options, facts }, transport.rank, memoryThere(group?.here));
}

export function beginOf(options: RankOptions, given: Pick<Begin, "shape" | "stores" | "rankState">, restore: Begin["restore"]): Begin {
  const { transport, facts, world } = options.context;
  const stamp = { world, step: 0, plan: runHash(options) };
  return { transport, stamp, ranks: facts.node.length, restore, ...given };
}

/** Hands over the state of a leaving rank, which its transport has past the world's ranks. */
export async function leaveWorld(options: RankOptions): Promise<void> {
  const { facts, rankState = new RankState() } = options.context;
  const shape = shapeOf(options.layout, facts.node.length);
  await beginWorld(beginOf(options, { shape, stores: await storesOf(options, shape), rankState }, async () => 0));
}
