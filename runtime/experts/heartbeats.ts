// Heartbeats to the other ranks: who is suspect and who is trusted again, and where the engines of the others take connections.
import { AppError } from "../../crds/common.ts";
import { type FailureDetector, heartbeatPauses, pauseAfter, peerHeartbeatMs, peerLimits } from "../net/failure-detector.ts";
import type { HeartbeatCall, HeartbeatEvents } from "../net/heartbeat.ts";
import type { Member } from "../net/mapping.ts";
import type { Peers } from "./peers.ts";

/** Idle milliseconds before a connection closes; longer than a frame may take. */
const idleMsDefault = 60_000;
/** DECISIONS.md 4 */
const watchedMost = 32;

/** `idle`: closed because it was unused. */
type StreamEvent = "opened" | "idle" | "ended";

export interface HeartbeatsOptions {
  readonly peers: Peers;
  /** Undefined: the rank's engine port is unknown. */
  readonly onEnginePort: (rank: number, port: number | undefined) => void;
  readonly onStream: (event: StreamEvent) => void;
  /** Tests set it, and their worlds then count as large; unset = a minute. */
  readonly idleMs?: number | undefined;
}

interface Heartbeat {
  readonly member: Member;
  readonly call: HeartbeatCall;
  readonly detector: FailureDetector;
  usedAt: number;
}

export class Heartbeats {
  readonly #options: HeartbeatsOptions;
  readonly #open = new Map<number, Heartbeat>();
  /** Kept for a member as the membership names it, so that a change ends the pause. */
  readonly #failed = new WeakMap<Member, { readonly failures: number; readonly againAt: number }>();
  readonly #idleMs: number;
  readonly #watchedMost: number;
  readonly #timer: NodeJS.Timeout;
  #closed = false;

  constructor(options: HeartbeatsOptions) {
    this.#options = options;
    this.#idleMs = options.idleMs ?? idleMsDefault;
    this.#watchedMost = options.idleMs === undefined ? watchedMost : 0;
    this.#timer = setInterval(() => this.#look(performance.now()), Math.min(peerLimits.lookMs, this.#idleMs));
    this.#timer.unref();
  }

  get open(): number {
    return this.#open.size;
  }

  /** The engine sends frames to these ranks, or waits for a connection. */
  used(ranks: readonly number[]): void {
    for (const rank of ranks) {
      const heartbeat = this.#open.get(rank) ?? this.#begin(rank);
      if (heartbeat) heartbeat.usedAt = performance.now();
    }
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const { call } of this.#open.values()) call.close();
    this.#open.clear();
  }

  #look(now: number): void {
    const { peers } = this.#options;
    for (const heartbeat of this.#open.values()) this.#watch(heartbeat, now);
    const { members } = peers.membership;
    const all = members.length <= this.#watchedMost;
    // Suspects too, so that a rank is known to be back before it is needed.
    for (const { rank } of members) if ((all || peers.isSuspect(rank)) && !this.#open.has(rank)) this.#begin(rank);
    if (all) return;
    for (const heartbeat of this.#open.values()) if (heartbeat.usedAt <= now - this.#idleMs) this.#forget(heartbeat, "idle");
  }

  #begin(rank: number): Heartbeat | undefined {
    const { peers, onEnginePort, onStream } = this.#options;
    const member = peers.member(rank);
    if (this.#closed || rank === peers.self.rank || member === undefined || member.state === "lost") return undefined;
    if (performance.now() < (this.#failed.get(member)?.againAt ?? 0)) return undefined;
    const detector = peers.detector(rank);
    detector.connect(performance.now());
    const answered = (port: number): void => {
      detector.heard();
      this.#failed.delete(member);
      onEnginePort(rank, port);
      peers.clear(rank);
    };
    const call = this.#call(member, { answered, closed: (reason) => this.#ended(heartbeat, reason) });
    if (call === undefined) return undefined;
    const heartbeat: Heartbeat = { member, call, detector, usedAt: performance.now() };
    this.#open.set(rank, heartbeat);
    onStream("opened");
    return heartbeat;
  }

  /** A malformed address must not throw out of a timer. */
  #call(member: Member, events: HeartbeatEvents): HeartbeatCall | undefined {
    const { peers } = this.#options;
    try {
      return peers.heartbeat(member, events);
    } catch (caught) {
      peers.suspect(member.rank, AppError.from(caught, "beginning a heartbeat"));
      this.#pause(member);
      return undefined;
    }
  }

  #watch(heartbeat: Heartbeat, now: number): void {
    const { member, call, detector } = heartbeat;
    const current = this.#options.peers.member(member.rank);
    const silentMs = detector.look(now);
    if (current?.address !== member.address || current.podUid !== member.podUid) this.#forget(heartbeat, "ended");
    else if (detector.hasFailed) this.#silent(heartbeat, silentMs);
    else if (silentMs >= peerHeartbeatMs) call.ping();
  }

  #silent(heartbeat: Heartbeat, silentMs: number): void {
    const { member, detector } = heartbeat;
    const reason = new AppError(`rank ${member.rank} said nothing for ${Math.round(silentMs)} ms`, { code: "Silent", retry: "backoff" });
    // A connection that is slow to be made is given to the next attempt (../net/DECISIONS.md 2).
    if (detector.wasHeard) this.#ended(heartbeat, reason);
    else {
      this.#options.peers.suspect(member.rank, reason);
      if (detector.ended()) this.#forget(heartbeat, "ended");
      else detector.connect(performance.now());
    }
  }

  #ended(heartbeat: Heartbeat, reason: AppError): void {
    const { peers } = this.#options;
    const { rank } = heartbeat.member;
    if (this.#open.get(rank) !== heartbeat) return;
    heartbeat.detector.ended();
    this.#forget(heartbeat, "ended");
    if (peers.member(rank) !== undefined) peers.suspect(rank, reason);
  }

  /** A rank that calls this one has started, and is called without a pause. */
  called(rank: number): void {
    const member = this.#options.peers.member(rank);
    if (member !== undefined) this.#failed.delete(member);
  }

  #pause(member: Member): void {
    const failures = this.#failed.get(member)?.failures ?? 0;
    this.#failed.set(member, { failures: failures + 1, againAt: performance.now() + pauseAfter(failures, heartbeatPauses) });
  }

  #forget(heartbeat: Heartbeat, event: StreamEvent): void {
    const { rank } = heartbeat.member;
    if (event === "ended") this.#pause(heartbeat.member);
    this.#open.delete(rank);
    heartbeat.call.close();
    this.#options.onEnginePort(rank, undefined);
    this.#options.onStream(event);
  }
}
