// The three rules by which a layer of a plan goes on. The simulation constructs plans with broken ones, to show that it finds each.

export interface ProtocolRules {
  /** May a layer be committed? `receivers`: the live ranks that newly host an expert of it. */
  readonly mayCommit: (receivers: readonly number[], ready: ReadonlySet<number>) => boolean;
  /** May a rank release the parent? `othersDrained`: every other source says that its frames of the parent are answered. */
  readonly mayRelease: (givesUp: boolean, othersDrained: () => boolean) => boolean;
  /** Unix ms by which layers have to be ready, from the deadline so far. */
  readonly deadline: (deadline: number, now: number, prepareMs: number) => number;
}

export const protocolRules: ProtocolRules = {
  mayCommit: (receivers, ready) => receivers.every((rank) => ready.has(rank)),
  mayRelease: (givesUp, othersDrained) => !givesUp || othersDrained(),
  deadline: (deadline) => deadline,
};
