// The door to other ranks of a training run: frames to one rank and from one rank, each stamped with what it belongs to. Interface only;
// loopback.ts has it within one process, wire.ts between processes.

export type Payload = Float32Array | Float64Array | Int32Array;

/** Sender and receiver have to agree on all of it. */
export interface Stamp {
  /** The membership, which a change of ranks counts up. */
  readonly world: number;
  readonly step: number;
  readonly plan: string;
}

/** Frames of one name come in the order in which they were sent. */
export interface FrameName {
  /** The exchange that it is part of: "copies", "sums". */
  readonly what: string;
  readonly layer: number;
  /** Of the layer's chunks, or of the payloads of an exchange without any. */
  readonly chunk: number;
  readonly piece: number;
}

/** What a receiver wants of a frame beside its stamp. */
export interface WantedFrame extends FrameName {
  /** Numbers that it has to have. */
  readonly length: number;
}

/** Longer than a pass of all micro-batches of a rank through a layer. */
export const frameMsMax = 10 * 60_000;

export interface Transport {
  readonly rank: number;
  readonly ranks: number;
  /** The payload may be changed afterwards. Waits for a receiver that falls behind, or throws `FrameBacklog`. */
  send(to: number, stamp: Stamp, name: FrameName, payload: Payload): Promise<void>;
  /** Throws `PlanMismatch` where stamp or length differ, `RankSilent` where none came in time, and whatever ended the world. */
  receive(from: number, stamp: Stamp, wanted: WantedFrame): Promise<Payload>;
}

/** All ranks that this process has. */
export interface Hub {
  transport(rank: number): Transport;
  /** Bytes since it was asked last. */
  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number };
  /** Whoever waits, and whoever comes to wait, gets the error. */
  end(error: unknown): void;
}
