// The session with one pod: Describe, a Control.Watch stream that reopens whenever it ends, and the protocol's calls with deadlines.
import { create } from "@bufbuild/protobuf";
import { AppError, operatorRank } from "../../../crds/common.ts";
import type { LogLevel } from "../../../crds/names.ts";
import { type PlacementPlan, planBounds } from "../../../crds/plan.ts";
import { phases } from "../../../crds/telemetry.ts";
import { slackMs } from "../../../runtime/net/call-deadline.ts";
import { FailureDetector, type MassFailureGuard, podHeartbeatMs, podLimits } from "../../../runtime/net/failure-detector.ts";
import {
  Control,
  type DescribeReply,
  type WatchPush,
  WatchPushSchema,
  type WatchStatus,
} from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Connected, fromStatus, type Network } from "../../../runtime/net/grpc.ts";
import { fromFetched, fromPlan, toMembership, toNumber, toPlan, toSender } from "../../../runtime/net/mapping.ts";
import { valuesPerBigInt } from "../../../runtime/net/message-bounds.ts";
import { forMany } from "../../../runtime/net/service.ts";
import { fixedTls, type TlsMaterial } from "../../../runtime/net/tls.ts";
import type { Identity } from "../../kube/ask-pod.ts";
import type { Clock, Description, HostedLayer, Link, LinkTarget, Membership, PodStatus, PrepareEvent, Share } from "../ports.ts";
import { ClockOffset, frontOf, hostedOf, servedOf, toDescription, useOf } from "./described.ts";
import type { Semaphore } from "./links.ts";
import { sharedBytes } from "./load-messages.ts";

const describeTimeoutMs = 5_000;
const callTimeoutMs = 10_000;
const looksPerPing = 2;
/** How long an idle pod may leave out statuses. It counts us as away after 5 s: DECISIONS.md 4. */
const suppressMs = 12_000;
const looksPerIdlePing = 8;
const pingsBeforeIdle = 8;
const reconnectMs = 500;
/** The pause after an answer that was refused, since reading it costs all deployments time. */
const refusedMs = 5_000;
const refusals: ReadonlySet<string> = new Set(["InvalidRequest", "InvalidPlan", "WrongPod", "MessageTooLarge"]);
const textMax = 1_000;
const answerBounds = { bytesMax: 4 * 2 ** 20, valuesMax: (2 * valuesPerBigInt + 4) * planBounds.cells };

/** One encoded message per membership or plan, since they grow with the ranks and go to each of them. */
const pushes = new WeakMap<object, WatchPush>();

type Client = Connected<(typeof Control)["method"]>;
type WatchStream = ReturnType<Client["watch"]>;

interface SessionPorts {
  readonly clock: Clock;
  readonly network: Pick<Network, "connect">;
  readonly connecting: Semaphore;
  readonly guard?: MassFailureGuard;
  /** The log level for the pod; its own if unset. */
  readonly logLevel?: LogLevel | "";
}

export class Session implements Link {
  description: Description | undefined;
  status: PodStatus | undefined;
  /** The map is replaced, never changed, so that observations keep their map. */
  hosted: ReadonlyMap<number, HostedLayer> = new Map();
  triedAt = Number.POSITIVE_INFINITY;
  downSince: number | undefined;
  lastError = "";
  readonly #target: LinkTarget;
  readonly #clock: Clock;
  readonly #connecting: Semaphore;
  readonly #client: Client;
  readonly #share: Share;
  readonly #logLevel: LogLevel | "";
  readonly #tls: ReturnType<typeof fixedTls>;
  #stream: WatchStream | undefined;
  #closed = false;
  #connects = false;
  #wantsLoad = false;
  readonly #detector: FailureDetector;
  #pings = 0;
  #waits = false;
  readonly #offset = new ClockOffset();
  #membership: Membership | undefined;
  #plan: PlacementPlan | undefined;
  #stopTimer: () => void = () => {};

  constructor(target: LinkTarget, { clock, network, connecting, guard, logLevel = "" }: SessionPorts) {
    this.#target = target;
    this.#logLevel = logLevel;
    this.#clock = clock;
    this.#connecting = connecting;
    this.#detector = new FailureDetector(podLimits, clock.now(), guard);
    this.downSince = clock.now();
    this.#tls = fixedTls(material(target.identity));
    const { address, serverName, kind } = target;
    this.#share = target.quota.share(kind);
    const bounds = { pingEveryMs: podHeartbeatMs, answer: { ...answerBounds, admit: this.#share.admit } };
    this.#client = network.connect(Control, { address, serverName, tls: this.#tls, ...bounds });
    this.#open();
  }

  get address(): string {
    return this.#target.address;
  }
  get clockAheadMs(): number | undefined {
    return this.#offset.ms;
  }

  renew(identity: Identity): void {
    this.#tls.update(material(identity));
  }

  wantLoad(wanted: boolean): void {
    if (wanted === this.#wantsLoad) return;
    this.#wantsLoad = wanted;
    this.#stream?.write(this.#ping());
  }

  #sender() {
    return toSender({ deploymentUid: this.#target.deploymentUid, rank: operatorRank, podUid: "operator", bootId: "operator" });
  }

  #open(): void {
    this.#connecting.enter(() => {
      this.#connects = true;
      if (this.#closed) return this.#leave();
      if (this.triedAt === Number.POSITIVE_INFINITY) this.triedAt = this.#clock.now();
      void this.#connect();
    });
  }

  #leave(): void {
    if (!this.#connects) return;
    this.#connects = false;
    this.#connecting.leave();
  }

  async #connect(): Promise<void> {
    try {
      if (this.#target.kind === "worker") {
        const reply = await this.#client.describe({ sender: this.#sender() }, { deadline: this.#deadlineIn(describeTimeoutMs) });
        if (this.#closed) return;
        this.#takeDescription(reply);
      }
      this.#watch();
    } catch (caught) {
      this.#down(fromStatus(caught, "Describe"));
    }
  }

  #takeDescription(reply: DescribeReply): void {
    const described = toDescription(reply, this.#target.podUid);
    const { storedBytes, residentBytes } = described;
    const shared = (bytes: Float64Array) => sharedBytes(this.#target.identity, bytes);
    const description = { ...described, storedBytes: shared(storedBytes), residentBytes: shared(residentBytes) };
    if (this.description?.bootId !== description.bootId) this.hosted = new Map();
    this.description = description;
    if (reply.status) this.#takeStatus(reply.status);
  }

  #watch(): void {
    const stream = this.#client.watch();
    this.#stream = stream;
    this.#detector.connect(this.#clock.now());
    [this.#pings, this.#waits] = [0, false];
    this.#offset.forget();
    stream.on("data", (status: WatchStatus) => {
      if (this.#stream !== stream) return;
      try {
        this.#takeFrom(stream, status);
      } catch (caught) {
        stream.cancel();
        this.#lost(stream, AppError.from(caught));
      }
    });
    stream.on("error", (error: Error) => this.#lost(stream, fromStatus(error, "Watch")));
    stream.on("end", () => this.#lost(stream, unavailable("the stream ended")));
    stream.write(this.#ping());
    if (this.#membership) this.push(this.#membership);
    if (this.#plan) this.pushPlan(this.#plan);
    this.#look(stream, 1);
  }

  #takeFrom(stream: WatchStream, status: WatchStatus): void {
    this.#waits = !this.#share.mayRead();
    if (this.#waits) stream.pause();
    const boot = status.self?.bootId;
    if (this.description && boot !== undefined && boot !== this.description.bootId) throw unavailable("the process restarted");
    const before = this.status;
    this.#takeClock(status);
    this.#takeStatus(status);
    for (const message of status.load.slice(0, phases.length)) this.#target.onLoad(message);
    this.#leave();
    const first = this.downSince !== undefined;
    this.downSince = undefined;
    this.#detector.heard();
    if (first) this.lastError = "";
    if (first || status.hosted.length > 0 || isNews(before, this.status)) this.#target.onChange();
  }

  #look(stream: WatchStream, look: number): void {
    this.#stopTimer = this.#clock.after(podLimits.lookMs, () => {
      if (this.#closed || this.#stream !== stream) return;
      const hasSigns = this.#detector.received(this.#client.receivedBytes());
      if (this.#waits && this.#mayRead()) stream.resume();
      // A pod that has to wait is not silent while its connection shows signs.
      else if (this.#waits && hasSigns) this.#detector.heard();
      const silentMs = this.#detector.look(this.#clock.now());
      if (this.#detector.hasFailed) {
        stream.cancel();
        // A stream that gets data in this moment is not lost, however late the timer is.
        return this.#lost(
          stream,
          unavailable(`no status for ${silentMs} ms`),
          Math.min(silentMs, podLimits.timeoutMs + 2 * podLimits.lookMs),
        );
      }
      if (look % (this.#isIdle ? looksPerIdlePing : looksPerPing) === 0) stream.write(this.#ping());
      this.#look(stream, look + 1);
    });
  }

  #deadlineIn(ms: number): number {
    return this.#clock.deadlineIn?.(ms) ?? this.#clock.now() + ms;
  }

  /** True when only the pod's liveness matters. */
  get #isIdle(): boolean {
    return this.#pings >= pingsBeforeIdle && this.status?.ready === true && !this.status.draining && !this.status.leaving;
  }

  #ping() {
    this.#pings += 1;
    const allowed = this.#isIdle ? suppressMs : 0;
    this.#detector.suppress(allowed);
    const sentUnixMs = BigInt(this.#clock.now());
    const beside = { sender: this.#sender(), sentUnixMs, logLevel: this.#logLevel, suppressMs: allowed, wantsLoad: this.#wantsLoad };
    return create(WatchPushSchema, Object.assign(beside, { push: { case: "ping" as const, value: true } }));
  }

  #takeClock({ clock }: WatchStatus): void {
    if (clock) this.#offset.answered(Number(clock.pingUnixMs), toNumber(clock.unixMs, "status.clock.unixMs"), this.#clock.now());
  }

  #lost(stream: WatchStream, error: AppError, silentMs = 0): void {
    if (this.#stream === stream) this.#down(error, silentMs);
  }

  #down(error: AppError, silentMs = 0): void {
    if (this.#closed) return;
    this.#leave();
    this.#detector.disconnect();
    this.#stream = undefined;
    this.lastError = error.message.slice(0, textMax);
    this.downSince ??= this.#clock.now() - silentMs;
    this.#target.onChange();
    this.#stopTimer();
    this.#reopenIn(refusals.has(error.code) ? refusedMs : reconnectMs);
  }

  #reopenIn(ms: number): void {
    this.#stopTimer = this.#clock.after(ms, () => {
      if (this.#closed) return;
      if (this.#mayRead()) this.#open();
      else this.#reopenIn(reconnectMs);
    });
  }

  #mayRead(): boolean {
    const may = this.#share.mayRead();
    if (!may) this.#share.delayed();
    return may;
  }

  #takeStatus(status: WatchStatus): void {
    const hosted = hostedOf(status.hosted, this.description);
    this.status = {
      epoch: toNumber(status.epoch, "status.epoch"),
      planHash: status.planHash,
      ready: status.ready,
      notReadyReason: status.notReadyReason.slice(0, textMax),
      hostedBytes: toNumber(status.hostedBytes, "status.hostedBytes"),
      queuedTokens: status.queuedTokens,
      activeRequests: status.activeRequests,
      draining: status.draining,
      leaving: status.leaving,
      membershipVersion: toNumber(status.membershipVersion, "status.membershipVersion"),
      served: status.served && servedOf(status.served),
      use: status.use && useOf(status.use),
      front: status.front && frontOf(status.front, this.#clock.now()),
    };
    if (hosted.length > 0) this.hosted = new Map([...this.hosted, ...hosted.map((layer) => [layer.layer, layer] as const)]);
  }

  push(membership: Membership): void {
    this.#membership = membership;
    this.#stream?.write(this.#pushed(membership, () => ({ case: "membership", value: toMembership(membership) })));
  }

  pushPlan(plan: PlacementPlan): void {
    this.#plan = plan;
    this.#stream?.write(this.#pushed(plan, () => ({ case: "plan", value: toPlan(plan) })));
  }

  #pushed(value: object, push: () => WatchPush["push"]): WatchPush {
    const known = pushes.get(value);
    if (known) return known;
    const message = forMany(create(WatchPushSchema, { sender: this.#sender(), push: push() }));
    pushes.set(value, message);
    return message;
  }

  async snapshot(): Promise<PlacementPlan | undefined> {
    const reply = await this.#call("Snapshot", (options) => this.#client.snapshot({ sender: this.#sender() }, options));
    return reply.plan ? fromPlan(reply.plan) : undefined;
  }

  prepare(plan: PlacementPlan, deadline: number, maxBytesPerSecond: number, onEvent: (event: PrepareEvent) => void): Promise<void> {
    const wall = this.#deadlineIn(deadline - this.#clock.now());
    const request = {
      sender: this.#sender(),
      plan: toPlan(plan),
      deadlineUnixMs: BigInt(wall),
      maxBytesPerSecond: BigInt(Math.floor(maxBytesPerSecond)),
    };
    return new Promise((resolve, reject) => {
      const stream = this.#client.prepare(request, { deadline: wall + slackMs.prepare });
      stream.on("data", (message) => {
        const { event } = message;
        if (event.case === "ready") {
          const { layer, bytes, fetched } = event.value;
          onEvent({ type: "ready", layer, bytes: Number(bytes), fetched: fetched.map(fromFetched) });
        } else if (event.case === "failed")
          onEvent({ type: "failed", layer: event.value.layer, message: `${event.value.code}: ${event.value.message}`.slice(0, textMax) });
        else if (event.case === "progress") onEvent({ type: "progress", bytes: Number(event.value.bytes) });
      });
      stream.on("error", (error) => reject(fromStatus(error, "Prepare")));
      stream.on("end", resolve);
    });
  }

  async commit(plan: PlacementPlan) {
    const reply = await this.#call("Commit", (options) => this.#client.commit({ sender: this.#sender(), plan: toPlan(plan) }, options));
    return { committed: reply.committed, refused: reply.refused, epoch: toNumber(reply.epoch, "commit.epoch") };
  }

  async abort(epoch: number, layers: readonly number[]): Promise<void> {
    await this.#call("Abort", (options) =>
      this.#client.abort({ sender: this.#sender(), epoch: BigInt(epoch), layers: [...layers] }, options),
    );
  }

  async release(epoch: number, layers: readonly number[], drainOnly: boolean) {
    const reply = await this.#call("Release", (options) =>
      this.#client.release({ sender: this.#sender(), epoch: BigInt(epoch), layers: [...layers], drainOnly }, options),
    );
    return { released: reply.released, pending: reply.pending };
  }

  async drain(finishMs: number | "cancel"): Promise<void> {
    const cancel = finishMs === "cancel";
    const request = { sender: this.#sender(), cancel, finishMs: BigInt(cancel ? 0 : Math.round(finishMs)) };
    await this.#call("Drain", (options) => this.#client.drain(request, options));
  }

  async #call<T>(operation: string, run: (options: { deadline: number }) => Promise<T>): Promise<T> {
    try {
      return await run({ deadline: this.#deadlineIn(callTimeoutMs) });
    } catch (caught) {
      throw fromStatus(caught, operation);
    }
  }

  close(): void {
    this.#closed = true;
    this.#leave();
    this.#detector.disconnect();
    this.#stopTimer();
    this.#stream?.cancel();
    this.#client.close();
    this.#tls.close();
  }
}

const unavailable = (message: string): AppError => new AppError(message, { code: "Unavailable", retry: "backoff" });

const materials = new WeakMap<Identity, TlsMaterial>();

function material(identity: Identity): TlsMaterial {
  const { cert, key, ca } = identity;
  const made = materials.get(identity) ?? { cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) };
  materials.set(identity, made);
  return made;
}

/** True where somebody may wait for the status; load and byte counts are left to the next tick. */
function isNews(before: PodStatus | undefined, after: PodStatus | undefined): boolean {
  const awaited = ({ epoch, planHash, ready, notReadyReason, draining, leaving, membershipVersion, activeRequests, front }: PodStatus) => {
    const busy = draining && activeRequests;
    return JSON.stringify([epoch, planHash, ready, notReadyReason, draining, leaving, membershipVersion, busy, front?.wantsRanks]);
  };
  return (before && awaited(before)) !== (after && awaited(after));
}
