// The worker's Control service: status (Describe, Watch), the operator's pushes and the steps of a plan. Only the operator may change
// anything; members may read a snapshot.
import { AppError } from "../../crds/common.ts";
import type { EngineInfo } from "../engine/engine.ts";
import type { Peers } from "../experts/peers.ts";
import { leftMs, slackMs } from "../net/call-deadline.ts";
import { HeartbeatSuppression } from "../net/failure-detector.ts";
import {
  ClockReadingSchema,
  type Control,
  type PrepareEvent,
  PrepareEventSchema,
  type PrepareRequest,
  type Sender,
  type WatchPush,
  type WatchStatus,
  WatchStatusSchema,
} from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, type ServerDuplex, type ServerWritable, toStatus } from "../net/grpc.ts";
import { fromLogLevel, fromMembership, fromPlan, fromSender, toFetched, toMembership, toNumber, toPlan, toSender } from "../net/mapping.ts";
import { create, type HandlersOf } from "../net/service.ts";
import type { PeerIdentity } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";
import type { SteadyClock } from "../observe/steady-clock.ts";
import { describedLayers, residentCells } from "./expert-bytes.ts";
import type { PlanKeeper, PrepareOutcome } from "./plan-keeper.ts";
import type { ServedTotals } from "./service-record.ts";

const statusEveryMs = 900;
/** Milliseconds without a push. */
const operatorSilentMs = 5_000;
const progressEveryMs = 500;

export interface WorkerVitals {
  readonly notReady: readonly string[];
  readonly hostedBytes: number;
  readonly budgetBytes: number;
  readonly fetchedBytes: number;
  readonly queuedTokens: number;
  readonly activeRequests: number;
  readonly draining: boolean;
  readonly leaving: boolean;
  readonly hosted: readonly (readonly number[])[];
  readonly served: ServedTotals;
  /** Undefined until the engine has reported. */
  readonly use: UseTotals | undefined;
}

interface UseTotals {
  readonly kvBlocks: number;
  readonly kvBlocksUsed: number;
  readonly tokens: number;
}

export interface WorkerControlOptions {
  readonly podName: string;
  readonly info: EngineInfo;
  readonly textDigest: string;
  readonly storedUnitBytes: readonly number[];
  readonly peers: Peers;
  readonly plan: PlanKeeper;
  readonly vitals: () => WorkerVitals;
  readonly drain: (on: boolean, finishMs: number) => Promise<void>;
  readonly clock: SteadyClock;
  readonly caller: (call: Caller) => PeerIdentity;
  readonly log: Log;
}

type WatchCall = ServerDuplex<WatchPush, WatchStatus>;

interface Watcher {
  /** Its last ping says so. */
  wantsLoad: boolean;
  /** False where the stream takes nothing now. */
  tell(load: Uint8Array[]): boolean;
}

export class WorkerControl {
  readonly #options: WorkerControlOptions;
  readonly #watchers = new Set<Watcher>();
  #operatorHeardAt = Number.NEGATIVE_INFINITY;

  constructor(options: WorkerControlOptions) {
    this.#options = options;
  }

  /** True while an operator watches and has pushed lately. */
  get operatorPresent(): boolean {
    return performance.now() - this.#operatorHeardAt < operatorSilentMs;
  }
  get watched(): boolean {
    return this.#watchers.size > 0;
  }
  changed(): void {
    for (const watcher of this.#watchers) watcher.tell([]);
  }

  /** See TelemetryOptions. */
  report(messages: readonly string[], onAll: boolean): boolean {
    const watchers = [...this.#watchers].filter(({ wantsLoad }) => onAll || wantsLoad);
    if (watchers.length === 0) return false;
    const load = messages.map((message) => Buffer.from(message));
    return watchers.map((watcher) => watcher.tell(load)).includes(true);
  }

  handlers(): HandlersOf<typeof Control> {
    const { plan, info, peers, podName } = this.#options;
    return {
      describe: async (request, call) => {
        this.#from(call, request.sender, "operator");
        const { vitals, storedUnitBytes, textDigest } = this.#options;
        return {
          self: toSender(peers.self),
          podName,
          modelDigest: info.modelDigest,
          architecture: info.architecture,
          layers: info.layers,
          experts: info.experts,
          topK: info.topK,
          codec: info.codec,
          textDigest,
          device: info.device,
          numerics: info.numerics,
          storedBytes: storedUnitBytes.map(BigInt),
          residentBytes: residentCells(info).map(BigInt),
          layerExperts: describedLayers(info),
          budgetBytes: BigInt(vitals().budgetBytes),
          denseBytes: BigInt(info.denseBytes),
          kvBytes: BigInt(info.kvBytes),
          kvSlots: info.kvSlots,
          kvBlocks: info.kvBlocks,
          kvBlockTokens: info.kvBlockTokens,
          maxContext: info.maxContext,
          speed: info.speed,
          status: this.#status(true),
        };
      },
      snapshot: async (request, call) => {
        this.#from(call, request.sender, "operator", "worker", "gateway");
        const committed = plan.state.snapshot();
        const { membership } = peers;
        return {
          ...(committed === undefined ? {} : { plan: toPlan(committed) }),
          ...(membership.version === 0 ? {} : { membership: toMembership(membership) }),
          leaving: this.#options.vitals().leaving,
        };
      },
      watch: (call) => this.#watch(call),
      prepare: (call) => this.#prepare(call),
      commit: async (request, call) => {
        this.#from(call, request.sender, "operator");
        const known = () => BigInt(plan.state.epoch);
        try {
          return { ...(await plan.commit(fromPlan(request.plan))), epoch: known() };
        } catch (error) {
          if (error instanceof AppError && error.code === "StalePlan") return { committed: [], refused: error.message, epoch: known() };
          throw error;
        }
      },
      abort: async (request, call) => {
        this.#from(call, request.sender, "operator");
        await plan.abort(toNumber(request.epoch, "epoch"), this.#layers(request.layers));
        return {};
      },
      release: async (request, call) => {
        this.#from(call, request.sender, "operator");
        return plan.release(toNumber(request.epoch, "epoch"), this.#layers(request.layers), request.drainOnly);
      },
      drain: async (request, call) => {
        this.#from(call, request.sender, "operator");
        await this.#options.drain(!request.cancel, toNumber(request.finishMs, "finish_ms"));
        this.changed();
        return {};
      },
    };
  }

  #from(call: Caller, sender: Sender | undefined, ...roles: readonly PeerIdentity["role"][]): void {
    const { caller, peers } = this.#options;
    const identity = caller(call);
    if (!roles.includes(identity.role))
      throw new AppError(`a ${identity.role} may not call this`, { code: "Forbidden", operation: "Control" });
    if (fromSender(sender).deploymentUid !== peers.self.deploymentUid) {
      throw new AppError(`sender.deployment_uid: ${sender?.deploymentUid} is not this deployment`, {
        code: "Forbidden",
        operation: "Control",
      });
    }
  }

  #layers(layers: readonly number[]): readonly number[] {
    const bad = layers.find((layer) => layer >= this.#options.info.layers);
    if (bad === undefined) return layers;
    throw new AppError(`layers: layer ${bad} of ${this.#options.info.layers}`, { code: "InvalidRequest", operation: "Control" });
  }

  #prepare(call: ServerWritable<PrepareRequest, PrepareEvent>): void {
    const { plan, vitals } = this.#options;
    const write = (event: PrepareEvent) => void (call.cancelled || call.write(event));
    const before = vitals().fetchedBytes;
    const progress = setInterval(() => {
      if (call.writableNeedDrain) return; // a newer status follows
      const bytes = BigInt(vitals().fetchedBytes - before);
      write(create(PrepareEventSchema, { event: { case: "progress", value: { bytes } } }));
    }, progressEveryMs);
    const left = new AbortController();
    call.on("cancelled", () => left.abort());
    const run = async () => {
      const { request } = call;
      this.#from(call, request.sender, "operator");
      const bytesPerSecond = toNumber(request.maxBytesPerSecond, "max_bytes_per_second");
      const limits = { withinMs: leftMs(call, Number(request.deadlineUnixMs), slackMs.prepare), bytesPerSecond, left: left.signal };
      const report = (outcome: PrepareOutcome) => write(toPrepareEvent(outcome));
      await plan.prepare(fromPlan(request.plan), limits, report);
    };
    run()
      .then(
        () => call.end(),
        (error) => void call.emit("error", toStatus(error)),
      )
      .finally(() => clearInterval(progress));
  }

  #watch(call: WatchCall): void {
    let sentHosted = "";
    const suppression = new HeartbeatSuppression();
    const send = (ping?: WatchPush, canSkip = false, load: Uint8Array[] = []): boolean => {
      // DECISIONS.md 3
      if (call.cancelled || call.destroyed || call.writableNeedDrain) return false;
      const vitals = this.#options.vitals();
      const hosted = JSON.stringify(vitals.hosted);
      const [state, now] = [this.#stateOf(vitals, hosted), performance.now()];
      if (canSkip && suppression.canSkip(state, now, ping !== undefined)) return false;
      suppression.sent(state, now);
      const status = this.#status(hosted !== sentHosted);
      if (ping) status.clock = create(ClockReadingSchema, { pingUnixMs: ping.sentUnixMs, unixMs: BigInt(this.#options.clock()) });
      status.load = load;
      sentHosted = hosted;
      call.write(status);
      return true;
    };
    const watcher: Watcher = { wantsLoad: false, tell: (load) => send(undefined, false, load) };
    const timer = setInterval(() => send(undefined, true), statusEveryMs);
    const stop = () => {
      clearInterval(timer);
      this.#watchers.delete(watcher);
    };
    const refuse = (caught: unknown) => {
      stop();
      this.#options.log.warn({ err: caught }, "a push was refused");
      call.emit("error", toStatus(caught));
    };
    for (const event of ["close", "cancelled", "error"] as const) call.on(event, stop);
    call.on("end", () => {
      stop();
      call.end();
    });
    call.on("data", (push: WatchPush) => {
      const isPing = push.push.case === "ping";
      if (isPing) {
        suppression.allow(push.suppressMs);
        watcher.wantsLoad = push.wantsLoad;
      }
      this.#take(push, call).then(() => send(isPing ? push : undefined, isPing), refuse);
    });
    try {
      if (this.#options.caller(call).role !== "operator")
        throw new AppError("only the operator may watch", { code: "Forbidden", operation: "Control.Watch" });
      this.#watchers.add(watcher);
      send();
    } catch (caught) {
      refuse(caught);
    }
  }

  async #take(push: WatchPush, call: WatchCall): Promise<void> {
    this.#from(call, push.sender, "operator");
    this.#operatorHeardAt = performance.now();
    const { peers, plan, log } = this.#options;
    const level = fromLogLevel(push.logLevel);
    if (level !== undefined) log.setLevel(level);
    if (push.push.case === "membership") peers.apply(fromMembership(push.push.value));
    if (push.push.case !== "plan") return;
    try {
      await plan.adopt(fromPlan(push.push.value));
    } catch (caught) {
      // A stale or foreign plan is refused; the stream continues and the status shows what is served.
      const error = AppError.from(caught);
      if (error.code !== "StalePlan" && error.code !== "InvalidPlan") throw error;
      log.warn({ err: error }, "a pushed plan was refused");
    }
  }

  #stateOf({ notReady, hostedBytes, queuedTokens, activeRequests, draining, leaving, served, use }: WorkerVitals, hosted: string): string {
    const { peers, plan } = this.#options;
    const known = [plan.state.epoch, plan.state.planHash, peers.membership.version, hosted];
    return JSON.stringify([known, notReady, hostedBytes, queuedTokens, activeRequests, draining, leaving, served, use]);
  }

  #status(withHosted: boolean): WatchStatus {
    const { peers, plan } = this.#options;
    const vitals = this.#options.vitals();
    const hosted = vitals.hosted.map((experts, layer) => ({
      layer,
      epoch: BigInt(plan.state.current(layer)?.epoch ?? 0),
      experts: [...experts],
    }));
    return create(WatchStatusSchema, {
      self: toSender(peers.self),
      epoch: BigInt(plan.state.epoch),
      planHash: plan.state.planHash,
      ready: vitals.notReady.length === 0,
      notReadyReason: vitals.notReady.join("; "),
      hostedBytes: BigInt(vitals.hostedBytes),
      queuedTokens: vitals.queuedTokens,
      activeRequests: vitals.activeRequests,
      draining: vitals.draining,
      leaving: vitals.leaving,
      membershipVersion: BigInt(peers.membership.version),
      hosted: withHosted ? hosted : [],
      served: toServed(vitals.served),
      ...(vitals.use ? { use: toUse(vitals.use) } : {}),
    });
  }
}

const toServed = (totals: ServedTotals) => ({
  requests: BigInt(totals.requests),
  failed: BigInt(totals.failed),
  gaps: BigInt(totals.gaps),
  gapMicros: BigInt(totals.gapMicros),
  firstTokens: BigInt(totals.firstTokens),
  firstTokenMicros: BigInt(totals.firstTokenMicros),
});

const toUse = ({ kvBlocks, kvBlocksUsed, tokens }: UseTotals) => ({ kvBlocks, kvBlocksUsed, tokens: BigInt(tokens) });

function toPrepareEvent(outcome: PrepareOutcome): PrepareEvent {
  if (outcome.type === "ready") {
    const { layer, bytes } = outcome;
    const fetched = outcome.fetched.map(toFetched);
    return create(PrepareEventSchema, { event: { case: "ready", value: { layer, bytes: BigInt(bytes), fetched } } });
  }
  const { code, message } = outcome.error;
  return create(PrepareEventSchema, { event: { case: "failed", value: { layer: outcome.layer, code, message } } });
}
