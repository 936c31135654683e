// Decodes a pod's description, with checked bounds.
import type { MessageShape } from "@bufbuild/protobuf";
import { AppError } from "../../../crds/common.ts";
import { planBounds } from "../../../crds/plan.ts";
import type { Control, Front, Served, Use, WatchStatus } from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { toNumber } from "../../../runtime/net/mapping.ts";
import { cellValues, type ExpertGrid, expertsIn } from "../../../runtime/placement/grid.ts";
import type { Description, HostedLayer, PodStatus, RankTotals, UseTotals } from "../ports.ts";

export function servedOf(served: Served): RankTotals {
  const field = (name: keyof RankTotals) => toNumber(served[name], `status.served.${name}`);
  return {
    requests: field("requests"),
    failed: field("failed"),
    gaps: field("gaps"),
    gapMicros: field("gapMicros"),
    firstTokens: field("firstTokens"),
    firstTokenMicros: field("firstTokenMicros"),
  };
}

/** `now` is when the status came: the idle time goes on until the next. */
export function frontOf({ idleMs, wantsRanks, unasked }: Front, now: number): PodStatus["front"] {
  return { idleSince: idleMs === 0n ? undefined : now - toNumber(idleMs, "status.front.idleMs"), wantsRanks, unasked };
}

export function useOf({ kvBlocks, kvBlocksUsed, tokens }: Use): UseTotals {
  return { kvBlocks, kvBlocksUsed: Math.min(kvBlocksUsed, kvBlocks), tokens: toNumber(tokens, "status.use.tokens") };
}

/** A bound, since the class appears in a condition's message. */
const numericsMax = 200;
const digestMax = 64;
const nameMax = 253;

/** Throws `WrongPod` before it looks at anything else, and `InvalidRequest` for what is out of bounds. */
export function toDescription(reply: MessageShape<(typeof Control)["method"]["describe"]["output"]>, podUid: string): Description {
  const { self, layers, experts, layerExperts: described } = reply;
  if (self?.podUid !== podUid) {
    throw new AppError(`pod ${reply.podName.slice(0, nameMax)} answers with uid ${self?.podUid.slice(0, nameMax)}, expected ${podUid}`, {
      code: "WrongPod",
      retry: "backoff",
    });
  }
  if (layers < 1 || layers > planBounds.layers || experts > planBounds.experts || layers * experts > planBounds.cells) {
    throw new AppError(`describe: ${layers} layers of ${experts} experts is out of bounds`, {
      code: "InvalidRequest",
      operation: "Describe",
    });
  }
  if (described.length > 0 && (described.length !== layers || described.some((count) => count > experts))) {
    throw new AppError(`describe.layerExperts: not up to ${experts} experts for each of ${layers} layers`, {
      code: "InvalidRequest",
      operation: "Describe",
    });
  }
  const { podName, modelDigest, architecture, codec, device } = reply;
  for (const [field, text] of Object.entries({ podName, modelDigest, architecture, codec, device, bootId: self.bootId })) {
    if (text.length <= nameMax) continue;
    throw new AppError(`describe.${field}: ${text.length} characters, at most ${nameMax}`, {
      code: "InvalidRequest",
      operation: "Describe",
    });
  }
  const grid = described.length === 0 ? { layers, experts } : { layers, experts, layerExperts: described };
  return {
    rank: self.rank,
    podUid: self.podUid,
    bootId: self.bootId,
    podName,
    modelDigest,
    architecture,
    ...grid,
    topK: reply.topK,
    codec,
    storedBytes: bytesOf(reply.storedBytes, grid, "storedBytes"),
    residentBytes: bytesOf(reply.residentBytes, grid, "residentBytes"),
    budgetBytes: toNumber(reply.budgetBytes, "budgetBytes"),
    denseBytes: toNumber(reply.denseBytes, "denseBytes"),
    kvBytes: toNumber(reply.kvBytes, "kvBytes"),
    kvSlots: reply.kvSlots,
    kvTokens: reply.kvBlocks * reply.kvBlockTokens,
    maxContext: reply.maxContext,
    device,
    numerics: reply.numerics.slice(0, numericsMax),
    textDigest: reply.textDigest.slice(0, digestMax),
    speed: reply.speed > 0 ? reply.speed : 1,
  };
}

/** Throws `InvalidRequest` for what the described model does not have, so that a status never holds more than its experts. */
export function hostedOf(hosted: WatchStatus["hosted"], described: ExpertGrid | undefined): HostedLayer[] {
  const has = (layer: number): number => (described ? expertsIn(described, layer) : 0);
  return hosted.map(({ layer, epoch, experts }) => {
    const count = has(layer);
    if (hosted.length <= (described?.layers ?? 0) && experts.length <= count && experts.every((expert) => expert < count))
      return { layer, epoch: toNumber(epoch, "hosted.epoch"), experts };
    const message = `status.hosted: ${hosted.length} layers, and ${experts.length} experts of layer ${layer}, which has ${count}`;
    throw new AppError(message, { code: "InvalidRequest", operation: "Watch" });
  });
}

/** Bytes of each expert, from one value for all or one for each. */
function bytesOf(values: readonly bigint[], grid: ExpertGrid, field: string): Float64Array {
  const cells = grid.layers * grid.experts;
  if (values.length !== 1 && values.length !== cells) {
    throw new AppError(`describe.${field}: ${values.length} values, expected 1 or ${cells}`, {
      code: "InvalidRequest",
      operation: "Describe",
    });
  }
  const numbers = values.map((value) => toNumber(value, `describe.${field}`));
  return Float64Array.from(cellValues(grid, (layer, expert) => numbers[values.length === 1 ? 0 : layer * grid.experts + expert] ?? 0));
}

const answersMax = 8;
/** The most drift of two unadjusted clocks between stored answers. */
const driftMs = 100;
const roundTripMsMax = 4_000;

interface Answer {
  readonly offsetMs: number;
  readonly roundTripMs: number;
}

/** The offset of a pod's clock from pings on the Control stream. The quickest answer is the most precise. */
export class ClockOffset {
  #answers: readonly Answer[] = [];

  /** A ping sent at `sentMs` that the pod answered at `theirMs` on its clock, received at `nowMs`. */
  answered(sentMs: number, theirMs: number, nowMs: number): void {
    const roundTripMs = nowMs - sentMs;
    if (roundTripMs < 0 || roundTripMs > roundTripMsMax) return;
    const answer = { offsetMs: theirMs - (sentMs + nowMs) / 2, roundTripMs };
    // An answer is wrong by at most half its round trip; answers further apart predate an adjusted clock.
    const near = this.#answers.filter((one) => Math.abs(one.offsetMs - answer.offsetMs) <= (one.roundTripMs + roundTripMs) / 2 + driftMs);
    this.#answers = [...near, answer].slice(-answersMax);
  }

  get ms(): number | undefined {
    return this.#answers.toSorted((a, b) => a.roundTripMs - b.roundTripMs)[0]?.offsetMs;
  }

  forget(): void {
    this.#answers = [];
  }
}
