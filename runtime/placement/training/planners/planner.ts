// The interface of planners of training: which ranks hold an expert of a layer during one step. Results do not depend on them, only
// time, traffic and memory do. Interface only; index.ts has the list.

export interface LayerProblem {
  /** Rows of each expert: of the last steps, or of this one for a planner that plans late. Whole numbers, equal on all ranks. */
  readonly load: ArrayLike<number>;
  readonly primaries: readonly number[];
  readonly ranks: number;
  /** Node and relative speed of each rank. */
  readonly node: ArrayLike<number>;
  readonly speed: Float64Array;
  /** Expert replicas that each rank has room for. */
  readonly free: readonly number[];
  /** Expert replicas per rank that come unnoticed: the overlap degree. */
  readonly overlap: number;
  readonly seconds: {
    /** Of one row at an expert, there and back. */
    readonly row: number;
    /** Of one expert replica's parameters, and of its gradient, on the link of one rank. */
    readonly expertReplica: number;
    /** Of both, what keeps the rank's processor busy, so that nothing hides it. Unset: none. */
    readonly busy?: number;
  };
}

export interface TrainingPlanner {
  /** Plans after the gate from this step's counts; expert replicas are then in nobody's shadow. */
  readonly late: boolean;
  /** primaries[layer][expert] from now on, for a planner that moves them; a rank's number of experts stays. Unset: primaries stay. */
  primaries?(layers: readonly LayerProblem[]): number[][];
  /** hosts[expert], primary first. */
  hosts(problem: LayerProblem): number[][];
}

/** Every expert at its primary alone. */
export const primariesOnly = ({ primaries }: Pick<LayerProblem, "primaries">): number[][] => primaries.map((primary) => [primary]);
