// The interface of training planners: which ranks hold an expert of a layer during one step. They change time, traffic and memory, not
// results.

export interface LayerProblem {
  /** Rows of each expert in the last steps, or in this one for a late planner. Whole numbers, equal on all ranks. */
  readonly load: ArrayLike<number>;
  readonly primaries: readonly number[];
  readonly ranks: number;
  readonly node: ArrayLike<number>;
  readonly speed: Float64Array;
  readonly free: readonly number[];
  /** The overlap degree: expert replicas per rank whose transfer is hidden. */
  readonly overlap: number;
  readonly seconds: {
    /** Seconds for one row at an expert, both ways. */
    readonly row: number;
    /** Seconds for one replica's parameters and gradient on one link. */
    readonly expertReplica: number;
    /** The seconds of both in which the processor is busy; unset: none. */
    readonly busy?: number;
  };
}

export interface TrainingPlanner {
  /** It plans after the gate from this step's counts, so nothing hides its replicas. */
  readonly late: boolean;
  /** primaries[layer][expert] from now on; a rank's number of experts stays. Unset: primaries stay. */
  primaries?(layers: readonly LayerProblem[]): number[][];
  hosts(problem: LayerProblem): number[][];
}

export const primariesOnly = ({ primaries }: Pick<LayerProblem, "primaries">): number[][] => primaries.map((primary) => [primary]);
