// The gateway's Control service: the operator pushes membership and plan. It refuses calls about experts, since a gateway hosts none.

import { create } from "@bufbuild/protobuf";
import { AppError, gatewayRank } from "../../../crds/common.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { HeartbeatSuppression } from "../../net/failure-detector.ts";
import { type Control, type WatchPush, type WatchStatus, WatchStatusSchema } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { callerOf, toStatus } from "../../net/grpc.ts";
import {
  fromLogLevel,
  fromMembership,
  fromPlan,
  fromSender,
  type Identity,
  type Membership,
  toMembership,
  toPlan,
  toSender,
} from "../../net/mapping.ts";
import type { Handlers } from "../../net/service.ts";
import type { Log } from "../../observe/log.ts";

/** The contract asks for a status at least once a second. */
const statusEveryMs = 900;

export interface ControlOptions {
  readonly identity: Identity;
  readonly podName: string;
  readonly namespace: string;
  readonly deployment: string;
  readonly log: Log;
  readonly membership: () => Membership | undefined;
  readonly onMembership: (membership: Membership) => void;
  readonly onPlan?: (plan: PlacementPlan) => void;
  readonly notReady: () => readonly string[];
  readonly activeRequests: () => number;
  readonly draining: () => boolean;
  readonly idleMs: () => number;
  readonly wantsRanks: () => boolean;
  /** It had no request since it started. */
  readonly unasked?: () => boolean;
  /** Returns the removal of the listener. */
  readonly onEnter: (listener: () => void) => () => void;
}

type ControlHandlers = Handlers<(typeof Control)["method"]>;

export function controlHandlers(options: ControlOptions): ControlHandlers {
  let plan: PlacementPlan | undefined;
  const require = (call: Parameters<typeof callerOf>[0], ...roles: string[]) => {
    const caller = callerOf(call, options.namespace, options.deployment);
    if (!roles.includes(caller.role)) throw new AppError(`${caller.role} may not call this`, { code: "Forbidden", operation: "Control" });
  };
  const hostsNothing = () => Promise.reject(new AppError("a gateway hosts no experts", { code: "InvalidRequest", operation: "Control" }));
  const take = (push: WatchPush) => {
    const sender = fromSender(push.sender);
    if (sender.deploymentUid !== options.identity.deploymentUid)
      throw new AppError(`deployment ${sender.deploymentUid} is not this one`, { code: "Forbidden", operation: "Control.Watch" });
    const level = fromLogLevel(push.logLevel);
    if (level !== undefined) options.log.setLevel(level);
    if (push.push.case === "membership") options.onMembership(fromMembership(push.push.value));
    if (push.push.case !== "plan") return;
    plan = newer(plan, fromPlan(push.push.value));
    options.onPlan?.(plan);
  };
  return {
    describe: async (_request, call) => {
      require(call, "operator");
      return { self: toSender(options.identity), podName: options.podName, status: statusOf(options, plan) };
    },
    snapshot: async (_request, call) => {
      require(call, "operator", "worker", "gateway");
      const membership = options.membership();
      return { ...(plan ? { plan: toPlan(plan) } : {}), ...(membership ? { membership: toMembership(membership) } : {}) };
    },
    watch: (call) => {
      const suppression = new HeartbeatSuppression();
      const told = { requests: 0, wantsRanks: false };
      const send = (canSkip = false) => sendStatus({ call, suppression, told, canSkip }, statusOf(options, plan));
      const timer = setInterval(() => send(true), statusEveryMs);
      const stopListening = options.onEnter(() => {
        told.requests += 1;
        if (!told.wantsRanks && options.wantsRanks()) send(); // the first request of a deployment that was scaled to zero waits for it
      });
      const stop = () => {
        clearInterval(timer);
        stopListening();
      };
      const refuse = (caught: unknown) => {
        stop();
        options.log.warn({ err: caught }, "watch refused");
        call.emit("error", toStatus(caught));
      };
      call.on("close", stop);
      call.on("cancelled", stop);
      call.on("error", stop);
      call.on("end", () => {
        stop();
        call.end();
      });
      try {
        require(call, "operator");
      } catch (caught) {
        return refuse(caught);
      }
      call.on("data", (push: WatchPush) => {
        const isPing = push.push.case === "ping";
        if (isPing) suppression.allow(push.suppressMs);
        try {
          take(push);
          send(isPing);
        } catch (caught) {
          refuse(caught);
        }
      });
      send();
    },
    prepare: (call) => void call.emit("error", toStatus(new AppError("a gateway hosts no experts", { code: "InvalidRequest" }))),
    commit: hostsNothing,
    abort: hostsNothing,
    release: hostsNothing,
    drain: hostsNothing,
  };
}

function statusOf(options: ControlOptions, plan: PlacementPlan | undefined): WatchStatus {
  const reasons = options.notReady();
  return create(WatchStatusSchema, {
    self: toSender({ ...options.identity, rank: gatewayRank }),
    epoch: BigInt(plan?.epoch ?? 0),
    planHash: plan?.planHash ?? "",
    ready: reasons.length === 0,
    notReadyReason: reasons.join("; "),
    activeRequests: options.activeRequests(),
    draining: options.draining(),
    membershipVersion: BigInt(options.membership()?.version ?? 0),
    front: {
      idleMs: BigInt(Math.floor(options.idleMs())),
      wantsRanks: options.wantsRanks(),
      unasked: options.unasked?.() ?? false,
    },
  });
}

interface Sending {
  readonly call: { readonly writableNeedDrain: boolean; write(status: WatchStatus): unknown };
  readonly suppression: HeartbeatSuppression;
  /** Requests so far, and what the last status said. */
  readonly told: { readonly requests: number; wantsRanks: boolean };
  readonly canSkip: boolean;
}

function sendStatus({ call, suppression, told, canSkip }: Sending, status: WatchStatus): void {
  // A slow watcher gets only the newest status.
  if (call.writableNeedDrain) return;
  const [state, now] = [stateOf(status, told.requests), performance.now()];
  if (canSkip && suppression.canSkip(state, now)) return;
  suppression.sent(state, now);
  told.wantsRanks = status.front?.wantsRanks ?? false;
  call.write(status);
}

/** Detects changes; `requests` shows one that came and went between two statuses. */
const stateOf = ({ epoch, planHash, notReadyReason, activeRequests, draining, membershipVersion, front }: WatchStatus, requests: number) =>
  [epoch, planHash, notReadyReason, activeRequests, draining, membershipVersion, front?.wantsRanks, requests].join();

function newer(known: PlacementPlan | undefined, pushed: PlacementPlan): PlacementPlan {
  return known !== undefined && known.epoch > pushed.epoch ? known : pushed;
}
