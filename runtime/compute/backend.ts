// The interface between the engine and whatever computes: compile a segment, run it, hold KV. Interface only.
import type { AppError } from "../../crds/common.ts";
import type { KvType } from "../../crds/names.ts";
import type { KvGroup } from "../kernels/kv-groups.ts";
import type { Layer, Op, Segment, Tensor } from "../kernels/segment.ts";
import type { WeightForm, WeightForms, Weights } from "../kernels/weights.ts";

/** The sizes of KV storage, equal in all layers. */
export interface KvSpec {
  readonly layers: number;
  readonly slots: number;
  readonly kvHeads: number;
  readonly context: number;
  /** Values of a head's key at one position. */
  readonly headDim: number;
  /** Values of a head's value, which are not always as many. */
  readonly valueDim: number;
  /** Unset: f32. */
  readonly type?: KvType;
  /** Blocks (kv-size.ts) that there is memory for, of all slots together; unset: as many as fill all slots. */
  readonly poolBlocks?: number;
}

/** KV storage for all layers: per layer [slot][kvHeads][context][headDim] for k, with valueDim in its place for v. */
export interface KvCache {
  /** At most those that were asked for: fewer where a machine does not give the address space of so many. */
  readonly slots: number;
  readonly context: number;
  /** Bytes that all blocks take; what a budget counts. */
  readonly bytes: number;
  /** Copies `length` positions of every layer from one slot to another (prefix reuse). */
  copySlot(from: number, to: number, length: number): Promise<void>;
  /** The same, after which the first slot is empty. */
  moveSlot(from: number, to: number, length: number): Promise<void>;
  /** Gives the memory back of a slot's positions from `length` on, which are lost. */
  trimSlot(slot: number, length: number): void;
  dispose(): Promise<void>;
}

/** Rows of an attention call: those of its groups one after another, as inputs [rows, width] have them. */
export interface KvCall {
  readonly cache: KvCache;
  readonly groups: readonly KvGroup[];
}

export type Inputs = Readonly<Record<string, Tensor>>;
export type Outputs = Readonly<Record<string, Tensor>>;

/** Memory for an output, whose caller says how long it is used: an array of exactly that length. */
export type BufferAllocator = (output: string, length: number) => Float32Array;

export interface Compiled {
  /** Bytes this program keeps resident, as the memory budget counts them. */
  readonly residentBytes: number;
  /** Outputs are valid until the next run of the same program, and those of an expert until the next run of any. */
  run(inputs: Inputs, kv?: KvCall, allocate?: BufferAllocator): Promise<Outputs>;
  /** A row of an output that is `kept`, of the last run. Throws where anything else ran since. */
  keptRow?(output: string, row: number): Float32Array;
  dispose(): Promise<void>;
}

/** Room for the experts of one layer, of which any may be here. */
export interface ExpertSlab {
  /** Compiles the expert of that number. */
  put(expert: number, weights: Weights, pause?: Pause): Promise<Compiled>;
}

/** Lets others use the backend, where it is time to. */
export type Pause = () => Promise<void>;

/** A layer as a part of a range. */
export interface RangeLayer {
  readonly layer: Layer;
  /** The layer's compiled block. */
  readonly block: Compiled;
  /** Of a layer with experts. */
  readonly expertSlab?: ExpertSlab;
}

export interface RangeCall {
  readonly x: Float32Array; // [n, hidden]
  readonly kv: KvCall;
  /** Layers from..to-1, all of which are covered. */
  readonly from: number;
  readonly to: number;
}

export interface RangeOutputs {
  readonly x: Float32Array; // [n, hidden]
  /** The experts that each row chose, [n, topK], by layer from `from` on; empty of a layer without experts. */
  readonly ids: readonly Int32Array[];
}

/** Layers of a model one after another as one program: nothing comes back before the last one. */
export interface LayerRange {
  /** With more rows than these, layer by layer is the faster way. */
  readonly rowsMax: number;
  /** True while all that the layer computes with is here and in a range's reach. */
  covers(layer: number): boolean;
  run(call: RangeCall): Promise<RangeOutputs>;
}

/** What a backend can compute. */
export interface Capabilities {
  /** Names of the ops that it computes. */
  readonly ops: ReadonlySet<string>;
  /** The reason why it cannot compute this op in its sizes, such as those of a head; undefined where it can. */
  refuses(op: Op): string | undefined;
}

/** Memory of a device's own. */
export interface DeviceMemory {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

export interface Backend extends Capabilities {
  /** The device as a pod reports it: "cpu: AMD EPYC, zen4, 1 thread". */
  readonly device: string;
  /** exact: rows are bit-identical whatever the batch; tolerance: greedy text equal where the oracle's margin allows. */
  readonly numericClass: "exact" | "tolerance";
  /** What the bits of its results depend on beside the model: engine and version, and the instructions or the device that compute. */
  numerics(form: WeightForm): string;
  /** True when a token's row has the same bits computed alone as in a prefill. */
  readonly prefillEqualsDecode: boolean;
  /** The number types that it can keep keys and values in, the one first that it is fastest with. */
  readonly kvTypes: readonly KvType[];
  /** KV memory is counted in multiples of so many bytes: pages of the machine, or 1 where blocks come out of a pool of their own. */
  readonly kvPageBytes: number;
  /** True where it is faster to choose tokens by candidates (kernels/candidates.ts) than by whole rows of logits. */
  readonly selectsTokens: boolean;
  /** True when it computes on the machine's cores, of which each process has only what the others leave. */
  readonly sharesCores: boolean;
  /** Throws AppError `UnsupportedOp` or `UnsupportedShape` that names op and segment. `layer`: whose segment it is, for a backend whose
   *  layers lie on several devices; unset = 0. */
  compile(segment: Segment, weights: Weights, layer?: number): Promise<Compiled>;
  /** Room for so many experts of that form, whose number is their place; `layer` as above. */
  createExpertSlab(expert: Segment, experts: number, layer?: number): ExpertSlab;
  /** The model's layers as ranges. */
  createRange(layers: readonly RangeLayer[]): LayerRange;
  createKv(spec: KvSpec): Promise<KvCache>;
  /** Runs independent programs, in parallel where the backend can. Order of results = order of calls. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): Promise<readonly Outputs[]>;
  /** Upper bound of the resident bytes one expert takes, known before it is loaded: what the memory budget plans with. */
  expertResidentBytes(segment: Segment, forms: WeightForms): number;
  /** What its device says of its own memory now; undefined where it computes in the machine's. */
  memory(): DeviceMemory | undefined;
  /** Bytes that its graphs share for what they compute, so far, of the device's own memory. */
  workBytes(): number;
  /** The reason why it can compute nothing any more (its device or a thread is gone for good); undefined while it works. */
  fault(): AppError | undefined;
  /** The same device with the dense part kept in another way (see BackendOptions). */
  withDenseBits(bits: 8 | 16 | 32): Backend;
  close(): Promise<void>;
}

export interface BackendOptions {
  readonly threads: number;
  /** Rows of the largest step: what a device's own memory is tried with when a model opens. */
  readonly rowsMax?: number | undefined;
  /** How a backend may keep the dense part's matrices, which it may ignore: 32 as f32 where they are floats of any size, since engines
   *  round what they multiply halves by; 16 as they are; 8 in int8 blocks of 32 where they are floats. Blocks stay as they are.
   *  Unset = 32. */
  readonly denseBits?: 8 | 16 | 32;
  /** Which of several devices of its kind it computes on; unset = 0. */
  readonly deviceIndex?: number;
  /** A build of the CPU's library by its name; unset = the best for this processor. Bits of f32 sums depend on it. */
  readonly cpuBuild?: string | undefined;
  /** Whether tokens are chosen by candidates; unset = where that is faster. */
  readonly selects?: boolean | undefined;
  /** False: the processor's memory is treated as that of a device without pages, for tests of what a GPU does. */
  readonly pages?: boolean | undefined;
}

export type BackendFactory = (options: BackendOptions) => Promise<Backend>;
