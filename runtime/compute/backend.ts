// The interface between the engine and a compute backend: compile a segment, run it, hold KV.
import type { AppError } from "../../crds/common.ts";
import type { KvType } from "../../crds/names.ts";
import type { KvGroup } from "../kernels/kv-groups.ts";
import type { Layer, Op, Segment, Tensor } from "../kernels/segment.ts";
import type { WeightForm, WeightForms, Weights } from "../kernels/weights.ts";

export interface KvSpec {
  readonly layers: number;
  readonly slots: number;
  readonly kvHeads: number;
  /** Heads of queries; unset: as many. */
  readonly heads?: number;
  readonly context: number;
  readonly headDim: number;
  /** May differ from `headDim`. */
  readonly valueDim: number;
  /** Unset: f32. */
  readonly type?: KvType;
  /** Blocks (kv-size.ts) in the pool that all slots share; unset: enough to fill all slots. */
  readonly poolBlocks?: number;
}

/** KV storage of all layers: per layer [slot][kvHeads][context][headDim] for keys, [valueDim] for values. */
export interface KvCache {
  /** Fewer than requested where the machine lacks address space. */
  readonly slots: number;
  readonly context: number;
  readonly bytes: number;
  /** What keys and values of a position take, all layers together. */
  readonly positionBytes: number;
  /** Its type, and the form of values where that leaves a choice; unset: the type alone. */
  readonly stored?: string | undefined;
  /** Attention is products (DECISIONS.md 10); unset: an operation. */
  readonly byProducts?: boolean | undefined;
  /** Copies `length` positions of every layer (prefix reuse). */
  copySlot(from: number, to: number, length: number): Promise<void>;
  moveSlot(from: number, to: number, length: number): Promise<void>;
  /** Frees the memory of positions from `length` on. */
  trimSlot(slot: number, length: number): void;
  /** Positions as they are stored, whoever stores them so: per layer keys, then values, a row of all heads for each position. */
  readRows(slot: number, from: number, count: number): Uint8Array;
  /** The same back; positions before them were written. */
  writeRows(slot: number, from: number, rows: Uint8Array): void;
  dispose(): Promise<void>;
}

/** Rows of an attention call, group after group, as in the inputs [rows, width]. */
export interface KvCall {
  readonly cache: KvCache;
  readonly groups: readonly KvGroup[];
}

export type Inputs = Readonly<Record<string, Tensor>>;
export type Outputs = Readonly<Record<string, Tensor>>;

/** "prefill": on another thread, while the caller computes more, where the backend does that; one call at a time. */
export type ComputeQueue = "main" | "prefill";

/** Returns an array of exactly that length; the caller decides how long it lives. */
export type BufferAllocator = (output: string, length: number) => Float32Array;

export interface Compiled {
  readonly residentBytes: number;
  /** Outputs are valid until the next run of this program; an expert's until the next run of any expert. */
  run(inputs: Inputs, kv?: KvCall, allocate?: BufferAllocator, queue?: ComputeQueue): Promise<Outputs>;
  /** A row of a `kept` output of the last run. Throws if anything else ran since. */
  keptRow?(output: string, row: number): Float32Array;
  /** A program of some of its ops, which reads the same weights and ends with it. Unset: none is to be had. */
  part?(segment: Segment): Compiled;
  dispose(): Promise<void>;
}

export interface ExpertSlab {
  /** It keeps none of the memory that `put` is given. */
  readonly copies?: boolean;
  /** It takes memory for so many experts at once; unset = 1. */
  readonly step?: number;
  /** An expert came to memory elsewhere (1), or left it (-1): this memory alone is not the layer. Unset: nobody needs to know. */
  apart?(change: 1 | -1): void;
  put(expert: number, weights: Weights, pause?: Pause): Promise<Compiled>;
}

/** Lets others use the backend until that has settled. */
export type Pause = (until: Promise<unknown>) => Promise<void>;

export interface RangeLayer {
  readonly layer: Layer;
  readonly block: Compiled;
  readonly expertSlab?: ExpertSlab;
}

/** Programs before the first layer and behind the last one, which a range computes beside its layers. */
export interface RangeEnds {
  readonly embed?: Compiled | undefined;
  readonly head?: Compiled | undefined;
}

/** Rows whose head is wanted, and the sharpness of each. */
export interface HeadRows {
  readonly rows: readonly number[];
  readonly sharpness: Float32Array;
}

/** Outputs are valid until the next run of anything. */
export interface HeadOutputs {
  readonly outputs: Outputs;
  readonly keptRow: NonNullable<Compiled["keptRow"]>;
}

export interface RangeCall {
  /** Rows, or tokens if layer 0 is the first. */
  readonly x: Float32Array | Int32Array; // [n, hidden] or [n]
  readonly kv: KvCall;
  /** Layers from..to-1; the range covers all of them. */
  readonly from: number;
  readonly to: number;
  /** Only behind the last layer. */
  readonly head?: HeadRows | undefined;
}

export interface RangeOutputs {
  /** May be empty if the call has a head and every row is finite. */
  readonly x: Float32Array; // [n, hidden]
  /** Unset where the call wants no row. */
  readonly head?: HeadOutputs;
  /** The experts of each row, [n, topK], per layer from `from` on; empty for a layer without experts. */
  readonly ids: readonly Int32Array[];
}

export interface LayerRange {
  /** True while the layer is resident and within a range's reach. */
  covers(layer: number): boolean;
  run(call: RangeCall): Promise<RangeOutputs>;
  /** True where so many held rows can pass the layer, whichever of its experts are here; unset: nowhere. */
  holds?(layer: number, rows: number): boolean;
  /** Undefined where memory is not to be had. `width`: of each row, the same in all calls. */
  hold?(rows: number, width: number): HeldRows | undefined;
}

export interface Chosen {
  readonly ids: Int32Array; // [n, topK]
  readonly gates: Float32Array; // [n, topK]
}

/** Rows that stay in a device's memory while they pass layers of which some experts are elsewhere. */
export interface HeldRows {
  /**
   * Passes a layer's block: of rows `x` [n, hidden], else of those behind the layer before, to which `sums` [n, hidden] are added.
   * Undefined where the device lacks memory or an operation for it or its experts; rows are as before then.
   */
  choose(layer: number, kv: KvCall, given: { readonly x?: Float32Array; readonly sums?: Float32Array }): Chosen | undefined;
  /** What experts are to have of so many rows, [count, hidden]; before `add`. */
  inputs(from: number, count: number): Float32Array;
  /** Adds the weighted rows of experts that are here; the ids of others are -1. */
  add(layer: number, chosen: Chosen): void;
  /** The rows as they are here, [n, hidden]. */
  read(): Float32Array;
  free(): void;
}

export interface Capabilities {
  readonly ops: ReadonlySet<string>;
  /** Why it cannot compute this op in these sizes; undefined if it can. */
  refuses(op: Op): string | undefined;
}

export interface DeviceMemory {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** A device's slots for weights that take turns: one computes, the next is written. */
export const streamSlots = 2;

export interface Backend extends Capabilities {
  /** A pod reports it so: "cpu: AMD EPYC, zen4, 1 thread". */
  readonly device: string;
  /** exact: rows are bit-identical in every batch; tolerance: greedy text is equal within the oracle's margin. */
  readonly numericClass: "exact" | "tolerance";
  /** Everything beside the model that the bits depend on: engine, version, instructions, device. */
  numerics(form: WeightForm): string;
  /** True when a token's row has the same bits alone as in a prefill. */
  readonly prefillEqualsDecode: boolean;
  /** The supported types of keys and values, the fastest first. */
  readonly kvTypes: readonly KvType[];
  /** The page size, or 1 with a pool of blocks. */
  readonly kvPageBytes: number;
  /** True where candidates (kernels/candidates.ts) are faster than rows of logits. */
  readonly selectsTokens: boolean;
  readonly sharesCores: boolean;
  /** True where the prefill queue is another thread. */
  readonly hasPrefillQueue?: boolean;
  /** True where steps of thousands of rows are faster and keep no score of each position. */
  takesManyRows(heads: Pick<KvSpec, "kvHeads" | "headDim" | "valueDim">): boolean;
  /**
   * Throws AppError `UnsupportedOp` or `UnsupportedShape`, which names op and segment. `layer` picks the device where layers lie on
   * several; unset = 0. `slotBytes`: the weights lie in the machine's memory and take turns with others in slots of so many bytes of the
   * device; unset: they stay there.
   */
  compile(segment: Segment, weights: Weights, layer?: number, slotBytes?: number): Promise<Compiled>;
  /** Memory for so many experts of that form; `layer` as above. */
  createExpertSlab(expert: Segment, experts: number, layer?: number): ExpertSlab;
  createRange(layers: readonly RangeLayer[], ends?: RangeEnds): LayerRange;
  createKv(spec: KvSpec): Promise<KvCache>;
  /** Runs independent programs, in parallel where the backend can. Results come in the order of the calls. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[], queue?: ComputeQueue): Promise<readonly Outputs[]>;
  /** An upper bound, known before the expert is loaded. */
  expertResidentBytes(segment: Segment, forms: WeightForms): number;
  /** What a dense segment takes on the device. Unset: `slotBytes` is unused. */
  denseResidentBytes?(segment: Segment, forms: WeightForms): number;
  /** Undefined where the backend computes in the machine's memory. */
  memory(): DeviceMemory | undefined;
  /** Memory of graphs' intermediate values: of a device what they take now, of the processor what steps of so many rows keep or score. */
  workBytes(layers: readonly Layer[], rows: number, kv: Pick<KvSpec, "context" | "type">): number;
  /** The reason why it cannot compute any more; undefined while it works. */
  fault(): AppError | undefined;
  withOptions(options: ModelOptions): Backend;
  close(): Promise<void>;
}

export interface ModelOptions {
  /** Rows of the largest step, and positions of the longest text, with which a device's memory is tested when a model opens. */
  readonly rowsMax?: number | undefined;
  readonly context?: number | undefined;
  /**
   * Storage of the dense part's matrices: 32 = f32 for floats of any size (engines round the factors of a product with halves), 16 = as
   * they are, 8 = int8 blocks of 32 for floats. Unset = 32; a backend may ignore it.
   */
  readonly denseBits?: 8 | 16 | 32;
}

export interface BackendOptions extends ModelOptions {
  readonly threads: number;
  /** Threads of the prefill queue; unset = half of `threads`. */
  readonly queueThreads?: number;
  /** The index among devices of its kind; unset = 0. */
  readonly deviceIndex?: number;
  /** A build of the CPU library; unset = the best for this processor. Bits of f32 sums depend on it. */
  readonly cpuBuild?: string | undefined;
  /** Whether candidates choose tokens; unset = where that is faster. */
  readonly selects?: boolean | undefined;
  /** False: the processor behaves like a device without pages (tests). */
  readonly pages?: boolean | undefined;
}

export type BackendFactory = (options: BackendOptions) => Promise<Backend>;
