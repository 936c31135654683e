// The backends on ggml: programs as graphs on the processor or on a GPU. On the processor they are of the exact class: the bits of a row
// depend neither on the rows beside it nor on threads, slots or the length of the prefill that computed it. On a GPU they do.
import { availableParallelism } from "node:os";
import type { AppError } from "../../../crds/common.ts";
import type { KvType } from "../../../crds/names.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForm, WeightForms, Weights } from "../../kernels/weights.ts";
import type { Backend, BackendFactory, Compiled, Inputs, LayerRange, Outputs, RangeLayer, Shelf } from "../backend.ts";
import { checkOps, weightOf } from "../check.ts";
import { CpuDevice, type GgmlDevice } from "./device.ts";
import { Experts, isExpert } from "./experts.ts";
import { openGpu } from "./gpu.ts";
import { GgmlKv } from "./kv.ts";
import { ggmlCapabilities } from "./lower.ts";
import type { GpuName } from "./packages.ts";
import { DenseProgram } from "./program.ts";
import { GgmlRange } from "./range.ts";
import { SingleExperts } from "./singles.ts";
import { forTrialCalls } from "./trial-calls.ts";

/** Attention to halves takes the processor 1.1 to 1.9 times as long as to f32, the longer the context the more: each query widens them
 *  again. Nobody has tried them on a GPU yet. */
const cpuKvTypes = ["f32", "f16", "q8_0"] as const;
const gpuKvTypes = ["f32"] as const;

class GgmlBackend implements Backend {
  readonly device: string;
  readonly numericClass: Backend["numericClass"];
  readonly prefillEqualsDecode: boolean;
  readonly sharesCores: boolean;
  readonly kvTypes: readonly KvType[];
  readonly kvPageBytes: number | undefined;
  readonly ops = ggmlCapabilities.ops;
  readonly #device: GgmlDevice;
  readonly #experts: Experts | SingleExperts;
  readonly #denseBits: 8 | 16 | 32;

  constructor(device: GgmlDevice, denseBits: 8 | 16 | 32) {
    this.device = device.description;
    this.numericClass = device.exact ? "exact" : "tolerance";
    this.prefillEqualsDecode = device.exact;
    this.sharesCores = device.exact;
    this.#device = device;
    this.kvTypes = device.exact ? cpuKvTypes : gpuKvTypes;
    this.kvPageBytes = device.pageBytes;
    this.#experts = device.exact ? new SingleExperts(device) : new Experts(device);
    this.#denseBits = denseBits;
  }

  readonly refuses = ggmlCapabilities.refuses;

  numerics(form: WeightForm): string {
    return `ggml ${this.#device.ggml.ggml_version()} ${this.#device.computesWith(form)}`;
  }

  async compile(segment: Segment, weights: Weights): Promise<Compiled> {
    checkOps(this, this.device, segment);
    if (isExpert(segment)) return this.#experts.shelf(segment, 1).put(0, weights);
    for (const { name } of segment.weights) weightOf(segment, weights, name);
    const program = new DenseProgram(this.#device, segment, weights, this.#denseBits);
    if (this.#device.exact) return program;
    try {
      forTrialCalls(this.#device, segment, (rows, call) => program.tryOut(rows, call));
      return program;
    } catch (caught) {
      await program.dispose();
      throw caught;
    }
  }

  createShelf(expert: Segment, experts: number): Shelf {
    checkOps(this, this.device, expert);
    if (isExpert(expert)) return this.#experts.shelf(expert, experts);
    return { put: (_number, weights) => this.compile(expert, weights) };
  }

  createRange(layers: readonly RangeLayer[]): LayerRange {
    return new GgmlRange(this.#device, layers);
  }

  async createKv(spec: Parameters<Backend["createKv"]>[0]): Promise<GgmlKv> {
    return new GgmlKv(this.#device, spec);
  }

  async runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): Promise<readonly Outputs[]> {
    const together = this.#experts.runMany(calls);
    if (together !== undefined) return together;
    const outputs: Outputs[] = [];
    for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
    return outputs;
  }

  expertResidentBytes(segment: Segment, forms: WeightForms): number {
    return this.#experts.bytesOf(segment, forms);
  }

  fault(): AppError | undefined {
    return this.#device.fault;
  }

  withDenseBits(bits: 8 | 16 | 32): GgmlBackend {
    return new GgmlBackend(this.#device, bits);
  }

  async close(): Promise<void> {
    this.#device.close();
  }
}

/** On at most so many threads; more than one only while they gain. */
export const createGgmlBackend: BackendFactory = async ({ threads, denseBits, cpuBuild }) =>
  new GgmlBackend(new CpuDevice({ threads: Math.max(1, Math.min(threads, availableParallelism())), build: cpuBuild }), denseBits ?? 32);

/** On the GPU of that kind. */
export const gpuBackend =
  (kind: GpuName): BackendFactory =>
  async ({ denseBits, deviceIndex }) =>
    new GgmlBackend(openGpu(kind, deviceIndex ?? 0), denseBits ?? 32);
