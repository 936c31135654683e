// Proto <-> domain: plans, membership, senders. Everything that a peer could get wrong is checked and named here. Pure.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { type LogLevel, logLevels, type MemberState, memberStates } from "../../crds/names.ts";
import { decodeLayer, encodeLayer, type LayerPlacement, type PlacementPlan, planBounds } from "../../crds/plan.ts";
import { type RankRole, rankRoles } from "../../crds/roles.ts";
import type { Fetched } from "../placement/cost.ts";
import {
  type Fetched as FetchedMessage,
  FetchedSchema,
  MemberState as MemberStateMessage,
  type Membership as MembershipMessage,
  MembershipSchema,
  type Plan,
  PlanSchema,
  type Sender,
  SenderSchema,
} from "./gen/enodia/runtime/v1/runtime_pb.js";

/** A restarted process is a new boot with empty memory. */
export interface Identity {
  readonly deploymentUid: string;
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
}

export interface Member {
  readonly rank: number;
  readonly podName: string;
  readonly podUid: string;
  readonly bootId: string;
  /** Its gRPC server, ip:port. */
  readonly address: string;
  readonly state: MemberState;
  /** Unset if unknown. */
  readonly numerics?: string;
  /** The digest of its text files (file-lists.ts); unset = unknown. */
  readonly textDigest?: string;
  /** Unset if unknown. */
  readonly zone?: string;
  /** Unset: both. */
  readonly role?: RankRole;
}

export interface Membership {
  readonly version: number;
  readonly members: readonly Member[];
  /** Milliseconds that requests wait while no rank serves. */
  readonly holdMs?: number;
}

/** Throws above 2^53. */
export function toNumber(value: bigint, field: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < 0n) throw invalid(field, `${value} is no safe integer`);
  return Number(value);
}

export function toSender(identity: Identity): Sender {
  return create(SenderSchema, identity);
}

export function fromSender(sender: Sender | undefined): Identity {
  if (sender === undefined) throw new AppError("sender: missing", { code: "InvalidRequest", operation: "parsing a message" });
  return { deploymentUid: sender.deploymentUid, rank: sender.rank, podUid: sender.podUid, bootId: sender.bootId };
}

/** Also undefined for an unknown name. */
export function fromLogLevel(name: string): LogLevel | undefined {
  return logLevels.find((level) => level === name);
}

export function toPlan(plan: PlacementPlan): Plan {
  return create(PlanSchema, {
    deploymentUid: plan.deploymentUid,
    epoch: BigInt(plan.epoch),
    parentEpoch: BigInt(plan.parentEpoch),
    planHash: plan.planHash,
    modelDigest: plan.modelDigest,
    layers: plan.layers.map((layer) => ({ layer: layer.layer, epoch: BigInt(layer.epoch), ...encodeLayer(layer) })),
  });
}

export function fromPlan(plan: Plan | undefined): PlacementPlan {
  if (plan === undefined) throw invalid("plan", "missing");
  if (plan.layers.length > planBounds.layers) throw invalid("plan.layers", `more than ${planBounds.layers}`);
  const seen = new Set<number>();
  const layers = plan.layers.map((layer, i): LayerPlacement => {
    const field = `plan.layers[${i}]`;
    if (layer.layer >= planBounds.layers || seen.has(layer.layer))
      throw invalid(field, `layer ${layer.layer} is out of range or named twice`);
    seen.add(layer.layer);
    return { layer: layer.layer, epoch: toNumber(layer.epoch, `${field}.epoch`), ...decodeLayer(layer.hosts, layer.weights, field) };
  });
  return {
    deploymentUid: plan.deploymentUid,
    epoch: toNumber(plan.epoch, "plan.epoch"),
    parentEpoch: toNumber(plan.parentEpoch, "plan.parentEpoch"),
    planHash: plan.planHash,
    modelDigest: plan.modelDigest,
    layers,
  };
}

const stateToWire: Readonly<Record<MemberState, MemberStateMessage>> = {
  joining: MemberStateMessage.JOINING,
  active: MemberStateMessage.ACTIVE,
  draining: MemberStateMessage.DRAINING,
  lost: MemberStateMessage.LOST,
};

const storeSource = -1;

export function toFetched({ source, bytes, seconds }: Fetched): FetchedMessage {
  return create(FetchedSchema, { source: source === "store" ? storeSource : source, bytes: BigInt(bytes), seconds });
}

export function fromFetched({ source, bytes, seconds }: FetchedMessage): Fetched {
  return { source: source < 0 ? "store" : source, bytes: Number(bytes), seconds };
}

export function toMembership(membership: Membership): MembershipMessage {
  const members: MessageInitShape<typeof MembershipSchema>["members"] = membership.members.map((member) => ({
    ...member,
    state: stateToWire[member.state],
  }));
  const { version, holdMs = 0 } = membership;
  return create(MembershipSchema, { version: BigInt(version), members: members ?? [], holdMs: BigInt(holdMs) });
}

const numericsMax = 200;
const digestMax = 64;

const zoneMax = 63;

/** Milliseconds; a request ends by then anyway. */
const holdMsMax = 600_000;

export function fromMembership(message: MembershipMessage): Membership {
  if (message.members.length > planBounds.ranks) throw invalid("membership.members", `more than ${planBounds.ranks}`);
  const members = message.members.map((member, i): Member => {
    const state = memberStates.find((name) => stateToWire[name] === member.state);
    if (state === undefined) throw invalid(`membership.members[${i}].state`, `${member.state} is unknown`);
    if (member.rank >= planBounds.ranks) throw invalid(`membership.members[${i}].rank`, `${member.rank} is out of range`);
    const role = rankRoles.find((name) => name === member.role);
    return {
      rank: member.rank,
      podName: member.podName,
      podUid: member.podUid,
      bootId: member.bootId,
      address: member.address,
      state,
      ...(member.numerics === "" ? {} : { numerics: member.numerics.slice(0, numericsMax) }),
      ...(member.textDigest === "" ? {} : { textDigest: member.textDigest.slice(0, digestMax) }),
      ...(member.zone === "" ? {} : { zone: member.zone.slice(0, zoneMax) }),
      ...(role === undefined ? {} : { role }),
    };
  });
  if (new Set(members.map((member) => member.rank)).size !== members.length) throw invalid("membership.members", "a rank is named twice");
  const holdMs = Math.min(toNumber(message.holdMs, "membership.holdMs"), holdMsMax);
  return {
    version: toNumber(message.version, "membership.version"),
    members,
    ...(holdMs > 0 ? { holdMs } : {}),
  };
}

function invalid(field: string, what: string): AppError {
  return new AppError(`${field}: ${what}`, { code: "InvalidPlan", operation: "parsing a message" });
}
