// The interface to other ranks of a training run; loopback.ts implements it within a process, wire.ts between processes.

export type Payload = Float32Array | Float64Array | Int32Array;

/** Sender and receiver must agree on all of it. */
export interface Stamp {
  /** The version of the membership. */
  readonly world: number;
  readonly step: number;
  readonly plan: string;
}

/** Frames of one name arrive in the order of sending. */
export interface FrameName {
  /** The exchange: "copies", "sums". */
  readonly what: string;
  readonly layer: number;
  /** An index among the layer's chunks, or among an exchange's payloads. */
  readonly chunk: number;
  readonly piece: number;
}

export interface WantedFrame extends FrameName {
  readonly length: number;
}

/** Longer than a rank's pass of all micro-batches through a layer. */
export const frameMsMax = 10 * 60_000;

export interface Transport {
  readonly rank: number;
  readonly ranks: number;
  /** The caller may change the payload afterwards. Waits for a slow receiver, or throws `FrameBacklog`. */
  send(to: number, stamp: Stamp, name: FrameName, payload: Payload): Promise<void>;
  /** Throws `PlanMismatch` if stamp or length differ, `RankSilent` on a timeout, and any error that ended the world. */
  receive(from: number, stamp: Stamp, wanted: WantedFrame): Promise<Payload>;
}

export interface Hub {
  transport(rank: number): Transport;
  /** Bytes since the last call. */
  takeTraffic(rank: number, what: string): { readonly sent: number; readonly received: number };
  /** All current and later waits throw the error. */
  end(error: unknown): void;
}
