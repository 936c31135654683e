// The three rules of the plan protocol. The simulation breaks each to prove that it notices.

export interface ProtocolRules {
  /** `receivers`: the live ranks that newly host an expert of the layer. */
  readonly mayCommit: (receivers: readonly number[], ready: ReadonlySet<number>) => boolean;
  /** `othersDrained`: every other source has its frames of the parent answered. */
  readonly mayRelease: (givesUp: boolean, othersDrained: () => boolean) => boolean;
  /** Unix ms by which layers must be ready, from the deadline so far. */
  readonly deadline: (deadline: number, now: number, prepareMs: number) => number;
}

export const protocolRules: ProtocolRules = {
  mayCommit: (receivers, ready) => receivers.every((rank) => ready.has(rank)),
  mayRelease: (givesUp, othersDrained) => !givesUp || othersDrained(),
  deadline: (deadline) => deadline,
};
