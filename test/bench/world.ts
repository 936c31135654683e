// The costs of a world of many ranks to its operator, by parts and without a cluster: bytes of what is stored and sent, and CPU of code
// that make and read it, for expert replicas spread as a balanced plan spreads them. CPU time hardly depends on what else the machine does.
import { parseArgs } from "node:util";
import { AppError } from "../../crds/common.ts";
import { type ExpertPlacementSpec, parseExpertPlacement } from "../../crds/expert-placement.ts";
import type { LayerPlan, PlacementPlan } from "../../crds/plan.ts";
import { decodeLoad, encodeLoad, loadSampleMs } from "../../crds/telemetry.ts";
import { fromSpec, nextPlan } from "../../operator/rebalance/rollout/plan-object.ts";
import { PlanRun } from "../../operator/rebalance/rollout/protocol.ts";
import { type Action, defaultLimits, type Event } from "../../operator/rebalance/rollout/protocol-types.ts";
import { Control, type Membership, type Plan, WatchPushSchema } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { openLoad, signLoad } from "../../runtime/net/load-signature.ts";
import { toMembership, toPlan } from "../../runtime/net/mapping.ts";
import { create, definition } from "../../runtime/net/service.ts";
import { telemetryKey } from "../kit/ranks/telemetry-keys.ts";

/** Of a load window of 15 s, the default. */
const loadEveryMs = loadSampleMs(15_000);
/** One expert in so many has three hosts, the others one. */
const copiedEvery = 4;

interface WorldShape {
  readonly ranks: number;
  readonly layers: number;
  readonly experts: number;
}

interface WorldCosts {
  readonly ranks: number;
  /** Of the ExpertPlacement's spec as JSON; what etcd takes is bounded (planObjectBytesMax). */
  readonly planObjectBytes: number;
  /** Of one push to one rank, and MiB of all pushes of a plan or a membership. */
  readonly planPushBytes: number;
  readonly membershipPushBytes: number;
  readonly planPushMiB: number;
  readonly membershipPushMiB: number;
  readonly loadMessageBytes: number;
  readonly loadMessagesPerSecond: number;
  readonly loadMiBPerSecond: number;
  /** Calls to ranks and answers from them in a change of half the layers. */
  readonly protocolEvents: number;
  /** CPU of the operator, in milliseconds: to make a plan's object, to read it, to carry a plan out by the protocol, to encode a
   *  membership for all ranks; and the part of a core that reading load takes. */
  readonly planMs: number;
  readonly readPlanMs: number;
  readonly protocolMs: number;
  readonly membershipMs: number;
  readonly loadCores: number;
}

export const worldBench = async (args: readonly string[]): Promise<readonly WorldCosts[]> => {
  const { values } = parseArgs({ args: [...args], options });
  const [layers, experts] = [wholeNumber(values.layers), wholeNumber(values.experts)];
  return values.ranks.split(",").map((ranks) => worldCosts({ ranks: wholeNumber(ranks), layers, experts }));
};

const options = {
  ranks: { type: "string", default: "16,64,256,1000" },
  layers: { type: "string", default: "58" },
  experts: { type: "string", default: "256" },
} as const;

function wholeNumber(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new AppError(`"${text}" is no whole number from 1 to 9999`, { code: "InvalidOption" });
}

export function worldCosts({ ranks, layers, experts }: WorldShape): WorldCosts {
  const { spec, plan } = planOf({ ranks, layers, experts }, 0);
  const object = { metadata: { name: "mix", namespace: "default" }, spec };
  const encode = definition(Control).watch?.requestSerialize as (message: object) => Uint8Array;
  const pushes = { plan: pushOf({ case: "plan", value: toPlan(plan) }), membership: pushOf({ case: "membership", value: members(ranks) }) };
  const [planPushBytes, membershipPushBytes] = [encode(pushes.plan).length, encode(pushes.membership).length];
  const message = loadMessage(layers, experts);
  const loadMessagesPerSecond = (2 * ranks * 1000) / loadEveryMs;
  const change = carryOut({ ranks, layers, experts });
  return {
    ...{ ranks, planObjectBytes: JSON.stringify(spec).length, planPushBytes, membershipPushBytes },
    ...{ planPushMiB: mebi(planPushBytes * ranks), membershipPushMiB: mebi(membershipPushBytes * ranks) },
    ...{ loadMessageBytes: message.length, loadMessagesPerSecond: round(loadMessagesPerSecond) },
    loadMiBPerSecond: mebi(message.length * loadMessagesPerSecond),
    protocolEvents: change.events,
    planMs: cpuMs(5, (turn) => planOf({ ranks, layers, experts }, turn)),
    readPlanMs: cpuMs(5, () => fromSpec(parseExpertPlacement(object).spec)),
    protocolMs: change.ms,
    membershipMs: cpuMs(5, () => encode(pushOf({ case: "membership", value: members(ranks) }))),
    loadCores: round((cpuMs(20, () => readLoad(message)) * loadMessagesPerSecond) / 1000, 3),
  };
}

function planOf(
  { ranks, layers, experts }: WorldShape,
  turn: number,
): { readonly spec: ExpertPlacementSpec; readonly plan: PlacementPlan } {
  const placed = Array.from({ length: layers }, (_, layer): LayerPlan => {
    const hosts = Array.from({ length: experts }, (_, expert) => {
      const primary = (expert * 7 + layer * 13 + turn) % ranks;
      return expert % copiedEvery === 0 ? [...new Set([primary, (primary + 5) % ranks, (primary + 9) % ranks])] : [primary];
    });
    return { hosts, weights: hosts.map((row) => row.map((_, i) => Math.floor(1000 / row.length) + (i === 0 ? 1000 % row.length : 0))) };
  });
  const digest = "0123456789abcdef".repeat(4);
  const { plan, spec } = nextPlan(undefined, placed, new Set(), { deploymentUid: uid(0), modelDigest: digest, epoch: 7 });
  const named = Array.from({ length: ranks }, (_, rank) => ({ rank, podName: `deepseek-v3-${rank}-x7k2p`, podUID: uid(rank) }));
  return { plan, spec: { ...spec, ranks: named, reason: "imbalance 140% of 110%, 104% after 64 moves of 2816000000 bytes" } };
}

const uid = (n: number): string => `8d7f3a50-0000-4000-8000-${String(n).padStart(12, "0")}`;

function members(ranks: number): Membership {
  const known = { state: "active", address: "10.0.100.100:9440", numerics: "tolerance: cuda NVIDIA H100 80GB HBM3" } as const;
  const all = Array.from({ length: ranks }, (_, rank) => {
    return { rank, podName: `deepseek-v3-${rank}-x7k2p`, podUid: uid(rank), bootId: uid(rank), ...known };
  });
  return toMembership({ version: 1_800_000_000_000, members: all });
}

const pushOf = (push: { case: "plan"; value: Plan } | { case: "membership"; value: Membership }): object =>
  create(WatchPushSchema, { push });

function loadMessage(layers: number, experts: number): Uint8Array {
  const counts = new Uint32Array(layers * experts).map((_, cell) => cell % 4_000);
  const of = { v: 1, deploymentUID: uid(0), rank: 3, bootId: uid(3), seq: 1, windowStart: 1, windowEnd: 2, phase: "decode" } as const;
  return Buffer.from(signLoad(encodeLoad({ ...of, layers, experts, routed: counts, served: counts }), telemetryKey(1)));
}

function readLoad(message: Uint8Array): void {
  const opened = openLoad(message, [telemetryKey(1)]);
  if (opened.ok) decodeLoad(opened.body);
}

/** A change of half the layers, each with 16 receivers and 16 givers, whose every call is answered. */
function carryOut({ ranks, layers }: WorldShape): { readonly events: number; readonly ms: number } {
  const some = (layer: number, by: number) => new Map(Array.from({ length: 16 }, (_, i) => [(by * i + layer) % ranks, 1]));
  const tasks = Array.from({ length: Math.ceil(layers / 2) }, (_, layer) => {
    const placement = { layer, epoch: 2, hosts: [], weights: [] };
    return { placement, incoming: some(layer, 1), outgoing: some(layer, 3), committedBefore: false };
  });
  const known = new Map(Array.from({ length: ranks }, (_, rank) => [rank, `${rank}`]));
  const run = new PlanRun({ epoch: 2, tasks, members: known, budget: new Map(), used: new Map(), now: 0, limits: defaultLimits });
  const queue: Event[] = [{ type: "start" }];
  let events = 0;
  const ms = cpuMs(1, () => {
    for (; events < queue.length && !run.outcome; events++)
      for (const action of run.on(queue[events] as Event)) queue.push(...answers(action));
  });
  if (run.outcome?.result !== "committed") throw new Error(`the plan ended as ${run.outcome?.result}`);
  return { events, ms };
}

function answers(action: Action): Event[] {
  const { type, rank, layers } = action;
  const bootId = `${rank}`;
  if (type === "prepare") return layers.map((layer) => ({ type: "ready", rank, bootId, layer, bytes: 1 }));
  if (type === "commit") return [{ type: "committed", rank, bootId, layers, asked: layers }];
  return type === "release" ? [{ type: "released", rank, bootId, layers, asked: layers, drainOnly: action.drainOnly }] : [];
}

/** Milliseconds of CPU of one call, of so many after the first. */
function cpuMs(times: number, work: (turn: number) => unknown): number {
  if (times > 1) work(0);
  const before = process.cpuUsage();
  for (let turn = 1; turn <= times; turn++) work(turn);
  const { user, system } = process.cpuUsage(before);
  return round((user + system) / 1000 / times, 2);
}

const mebi = (bytes: number): number => round(bytes / 2 ** 20, 1);
const round = (value: number, digits = 1): number => Number(value.toFixed(digits));
