// The serving end of Dispatch. It refuses a frame before any work if the sender's identity, the format or the epoch is wrong.
import { AppError } from "../../../crds/common.ts";
import type { DispatchHandler, DispatchServed } from "../../net/dispatch-accept.ts";
import { frameBytesMax, streamBytesMax } from "../../net/frame-codec.ts";
import type { DispatchFrame, DispatchReply } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { DispatchReplySchema } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "../../net/grpc.ts";
import { create } from "../../net/service.ts";
import type { PeerIdentity } from "../../net/tls.ts";
import type { Log } from "../../observe/log.ts";
import type { Tracing } from "../../observe/trace.ts";
import { answerBytes, answerFault, frameFault } from "../../placement/frames/frames.ts";
import { missingExperts } from "../../placement/frames/not-hosted.ts";
import type { ExpertGrid } from "../../placement/grid.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import type { Peers } from "../peers.ts";
import type { FrameOutcome } from "./frame-run.ts";
import type { FrameRunner } from "./serve-frame.ts";

/** Until the answer has left; more get `Busy`. */
const framesPerStreamMax = 512;
/** Above the sender's bound, since the sender sees an answer earlier. */
const bytesPerStreamMax = 1.5 * streamBytesMax;
/** All streams share it; engine connections have the same bound (net/engine-host.ts). */
const bytesOfAllMax = 2 * streamBytesMax;
/** Unsent answers of one stream; beyond, the stream ends. */
const unsentPerStreamMax = 2 * framesPerStreamMax;
const busyRetryMs = 50;
const strangerRetryMs = 200;

export interface DispatchServerOptions {
  readonly peers: Peers;
  readonly runner: FrameRunner;
  readonly model: ExpertGrid & { readonly hidden: number };
  readonly plan: {
    readonly epoch: number;
    serves(layer: number, epoch: number): boolean;
    current(layer: number): { readonly epoch: number } | undefined;
  };
  /** Throws for callers that are not workers of the deployment. */
  readonly caller: (call: Caller) => Extract<PeerIdentity, { role: "worker" }>;
  readonly log: Log;
  readonly report: (result: FrameOutcome) => void;
  readonly tracing: Tracing;
  readonly enginePort: () => number;
}

type Result = DispatchReply["result"];

interface Shared {
  bytes: number;
  onEnded(error: AppError): void;
}

export function createDispatchServer(options: DispatchServerOptions): DispatchHandler {
  // A stopped engine never returns in this process, so all streams end and callers go elsewhere.
  let ended: AppError | undefined;
  const shared: Shared = {
    bytes: 0,
    onEnded: (error) => {
      ended = error;
    },
  };
  return (call) => {
    let caller: Extract<PeerIdentity, { role: "worker" }>;
    try {
      caller = options.caller(call);
      if (ended !== undefined) throw ended;
    } catch (caught) {
      const error = AppError.from(caught, "taking a dispatch stream");
      options.report("rejected");
      options.log.info({ reason: error.message }, "a dispatch stream was refused");
      call.fail(error);
      return;
    }
    serveStream(call, caller, options, shared);
  };
}

function serveStream(
  call: DispatchServed,
  caller: Extract<PeerIdentity, { role: "worker" }>,
  options: DispatchServerOptions,
  shared: Shared,
): void {
  const held = { frames: 0, bytes: 0 };
  let deaf = false;
  const broke = (error: Error) => options.log.info({ peer: caller.rank, reason: error.message }, "a dispatch stream broke");
  const fail = (error: AppError) => {
    broke(error);
    call.fail(error);
  };
  call.on("data", (frame: DispatchFrame) => {
    if (deaf) return;
    const weight = frame.rows.byteLength + answerBytes(frame.pairExperts.length, options.model.hidden);
    const heavy = held.bytes > 0 && (held.bytes + weight > bytesPerStreamMax || shared.bytes + weight > bytesOfAllMax);
    const full = held.frames >= framesPerStreamMax || heavy;
    deaf = held.frames >= unsentPerStreamMax;
    if (deaf) return fail(new AppError("the peer reads no answers", { code: "Busy", retry: "backoff" }));
    const bytes = full ? 0 : weight;
    held.frames += 1;
    held.bytes += bytes;
    shared.bytes += bytes;
    const release = () => {
      held.frames -= 1;
      held.bytes -= bytes;
      shared.bytes -= bytes;
    };
    const attributes = { "enodia.layer": frame.layer, "enodia.from_rank": caller.rank, "enodia.pairs": frame.pairExperts.length };
    const span = frame.traceparent
      ? options.tracing.start("experts.serve", { parent: frame.traceparent, role: "server", attributes })
      : undefined;
    answer(frame, caller, full, options)
      .then(
        (result) => {
          span?.set({ "enodia.result": result.case ?? "" });
          if (call.over) release();
          else
            call.write(
              create(DispatchReplySchema, { seq: frame.seq, result, enginePort: isPing(frame) ? options.enginePort() : 0 }),
              release,
            );
        },
        (err) => {
          release();
          options.log.error({ err, peer: caller.rank }, "an answer could not be sent");
          if (!isEnded(err)) return;
          shared.onEnded(err);
          fail(err);
        },
      )
      .finally(() => span?.end());
  });
  call.on("error", broke);
}

async function answer(
  frame: DispatchFrame,
  caller: { rank: number; podName: string | undefined },
  full: boolean,
  options: DispatchServerOptions,
): Promise<Result> {
  const refused = refuseSender(frame, caller, options);
  if (refused !== undefined) return refused;
  if (isPing(frame)) return { case: "rows", value: new Uint8Array(0) };
  if (full) return busy(options, busyRetryMs);
  const { model, plan, runner, report } = options;
  const shape = { ...frame, rowBytes: frame.rows.byteLength };
  const fault = frameFault(shape, model) ?? answerFault(frame.pairExperts.length, model.hidden, frameBytesMax);
  if (fault !== undefined) return rejected(options, caller.rank, fault);
  // A restarted rank without a plan still serves a sender that has no other host.
  const helpsOut = frame.onDemand && plan.current(frame.layer) === undefined;
  if (!helpsOut && !plan.serves(frame.layer, Number(frame.layerEpoch))) return notHosted(options, frame, [...new Set(frame.pairExperts)]);
  const work = { rows: viewF32(frame.rows), pairRows: Uint32Array.from(frame.pairRows), pairExperts: Uint32Array.from(frame.pairExperts) };
  const of = { layer: frame.layer, phase: frame.decode ? "decode" : "prefill", origin: "remote" } as const;
  try {
    const rows = frame.onDemand ? await runner.runOnDemand(of, work) : await runner.run(of, work);
    report("ok");
    return { case: "rows", value: bytesOf(rows) };
  } catch (caught) {
    const missing = missingExperts(caught);
    if (missing.length > 0) return notHosted(options, frame, missing);
    const error = AppError.from(caught, "computing a frame");
    if (isEnded(error)) throw error;
    options.log.warn(
      { err: error, rank: caller.rank, layer: frame.layer },
      "a frame could not be computed; its sender is told to go elsewhere",
    );
    return busy(options, strangerRetryMs);
  }
}

const isPing = ({ pairExperts, pairRows }: DispatchFrame): boolean => pairExperts.length === 0 && pairRows.length === 0;
const isEnded = (error: unknown): error is AppError => error instanceof AppError && error.code === "EngineStopped";

function refuseSender(
  frame: DispatchFrame,
  caller: { rank: number; podName: string | undefined },
  options: DispatchServerOptions,
): Result | undefined {
  const { sender } = frame;
  const { peers } = options;
  if (sender === undefined) return rejected(options, caller.rank, "sender: missing");
  if (sender.deploymentUid !== peers.self.deploymentUid) return rejected(options, caller.rank, "sender.deployment_uid: another deployment");
  if (sender.rank !== caller.rank)
    return rejected(options, caller.rank, `sender.rank: ${sender.rank}, the certificate says ${caller.rank}`);
  if (peers.membership.version === 0) return undefined; // a restarted rank knows nobody yet: the certificate is enough
  const member = peers.member(sender.rank);
  if (member !== undefined && member.podUid === sender.podUid) return undefined;
  if (member !== undefined && member.podName === caller.podName) return rejected(options, caller.rank, "sender.pod_uid: not the pod's");
  // A replaced pod, or a new one that this rank has not heard of yet: it is not served, but it is no forgery.
  return busy(options, strangerRetryMs);
}

function rejected(options: DispatchServerOptions, rank: number, reason: string): Result {
  options.report("rejected");
  options.log.warn({ peer: rank, reason }, "a frame was refused");
  return { case: "rejected", value: { $typeName: "enodia.runtime.v1.Rejected", reason } };
}

function busy(options: DispatchServerOptions, retryAfterMs: number): Result {
  options.report("busy");
  return { case: "busy", value: { $typeName: "enodia.runtime.v1.Busy", retryAfterMs } };
}

function notHosted(options: DispatchServerOptions, frame: DispatchFrame, experts: readonly number[]): Result {
  options.report("not_hosted");
  const { plan } = options;
  return {
    case: "notHosted",
    value: {
      $typeName: "enodia.runtime.v1.NotHosted",
      layerEpoch: BigInt(plan.current(frame.layer)?.epoch ?? 0),
      experts: [...experts],
    },
  };
}
