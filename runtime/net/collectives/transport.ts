// The door to other ranks of a training run: frames to one rank and from one rank, each stamped with what it belongs to. Interface only;
// loopback.ts has it within one process, wire.ts between processes.

export type Payload = Float32Array | Float64Array | Int32Array;

/** What a frame belongs to; sender and receiver have to agree on all of it. */
export interface Stamp {
  /** The membership, which a change of ranks counts up. */
  readonly world: number;
  readonly step: number;
  /** Tells the plan of this step from others: a rank with another plan would send other things. */
  readonly plan: string;
}

/** Which frame of those between two ranks: those of one name come in the order in which they were sent. */
export interface FrameName {
  /** The exchange that it is part of: "copies", "sums". */
  readonly what: string;
  readonly layer: number;
  /** Of the layer's chunks (placement/training/chunks.ts); where an exchange has none of those, which of its payloads. */
  readonly chunk: number;
  readonly piece: number;
}

/** What a receiver wants of a frame beside its stamp. */
export interface WantedFrame extends FrameName {
  /** Numbers that it has to have. */
  readonly length: number;
}

/** Milliseconds that a frame is waited for, at most: longer than a rank takes from one frame to the next, the longest of which is a pass
 *  of all its lanes through a layer. */
export const frameMsMax = 10 * 60_000;

export interface Transport {
  readonly rank: number;
  readonly ranks: number;
  /** The payload may be changed once this is done. Where the receiver falls behind it waits, or throws AppError `FrameBacklog`. */
  send(to: number, stamp: Stamp, name: FrameName, payload: Payload): Promise<void>;
  /**
   * The next frame of that name from a rank. Throws AppError `PlanMismatch` where stamp or length are others, `RankSilent` where none
   * came in time, and whatever ended the world.
   */
  receive(from: number, stamp: Stamp, wanted: WantedFrame): Promise<Payload>;
}

/** All ranks that this process has. */
export interface Hub {
  transport(rank: number): Transport;
  /** Bytes of payloads that a rank sent and received in exchanges of that name since it was asked last. */
  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number };
  /** Whoever waits, and whoever comes to wait, gets the error. */
  end(error: unknown): void;
}
