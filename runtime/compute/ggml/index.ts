// The ggml backends, on the processor or on a GPU.
import { availableParallelism } from "node:os";
import type { AppError } from "../../../crds/common.ts";
import type { KvType } from "../../../crds/names.ts";
import type { Layer, Segment } from "../../kernels/segment.ts";
import type { WeightForm, WeightForms, Weights } from "../../kernels/weights.ts";
import type {
  Backend,
  BackendFactory,
  BackendOptions,
  Compiled,
  ComputeQueue,
  DeviceMemory,
  ExpertSlab,
  Inputs,
  KvSpec,
  LayerRange,
  ModelOptions,
  Outputs,
  RangeEnds,
  RangeLayer,
} from "../backend.ts";
import { checkOps, weightOf } from "../call-checks.ts";
import { layoutOf } from "./dense.ts";
import { CpuDevice, type GgmlDevice } from "./device.ts";
import { SingleExperts } from "./expert-programs.ts";
import { openGpu } from "./gpu.ts";
import { Experts, isExpert } from "./gpu-experts.ts";
import { createGgmlKv } from "./kv.ts";
import type { GgmlKv } from "./kv-memory.ts";
import { attendsByProducts, lengthRead } from "./kv-paged.ts";
import { attendsAtOnce, kvTypesOf } from "./kv-types.ts";
import { ggmlCapabilities } from "./lower.ts";
import { forTrialCalls } from "./open-checks.ts";
import type { GpuName } from "./packages.ts";
import { DenseProgram } from "./program.ts";
import { GgmlRange } from "./range.ts";
import { scoresBytes } from "./scores.ts";
import { sortedBytes } from "./sorted-range.ts";
import { WeightStream } from "./weight-stream.ts";

class GgmlBackend implements Backend {
  readonly device: string;
  readonly numericClass: Backend["numericClass"];
  readonly prefillEqualsDecode: boolean;
  readonly sharesCores: boolean;
  readonly hasPrefillQueue: boolean;
  readonly selectsTokens: boolean;
  readonly kvTypes: readonly KvType[];
  readonly kvPageBytes: number;
  readonly ops = ggmlCapabilities.ops;
  readonly #device: GgmlDevice;
  readonly #experts: Experts | SingleExperts;
  readonly #options: Omit<BackendOptions, "threads">;
  #stream: WeightStream | undefined;

  constructor(device: GgmlDevice, options: Omit<BackendOptions, "threads">) {
    this.device = device.description;
    this.numericClass = device.exact ? "exact" : "tolerance";
    this.prefillEqualsDecode = device.exact;
    this.sharesCores = device.exact;
    this.hasPrefillQueue = device.hasPrefillQueue;
    this.selectsTokens = options.selects ?? !device.exact;
    this.#device = device;
    this.kvTypes = kvTypesOf(device);
    this.kvPageBytes = device.pageBytes ?? 1;
    this.#experts = device.exact ? new SingleExperts(device) : new Experts(device);
    this.#options = options;
  }

  readonly refuses = ggmlCapabilities.refuses;

  numerics(form: WeightForm): string {
    return `ggml ${this.#device.ggml.ggml_version()} ${this.#device.computesWith(form)}`;
  }

  async compile(segment: Segment, weights: Weights, _layer?: number, slotBytes?: number): Promise<Compiled> {
    checkOps(this, this.device, segment);
    if (isExpert(segment)) return this.#experts.expertSlab(segment, 1).put(0, weights);
    for (const { name } of segment.weights) weightOf(segment, weights, name);
    const { denseBits = 32, rowsMax, context } = this.#options;
    // A processor computes in the machine's memory.
    const streams = slotBytes !== undefined && !this.#device.exact;
    if (streams) this.#stream ??= new WeightStream(this.#device, slotBytes);
    const stream = streams ? this.#stream : undefined;
    const program = new DenseProgram(this.#device, segment, weights, { bits: denseBits, stream });
    if (this.#device.exact) return program;
    try {
      forTrialCalls(this.#device, segment, (rows, call) => program.tryOut(rows, call), { rowsMax, context });
      return program;
    } catch (caught) {
      await program.dispose();
      throw caught;
    }
  }

  createExpertSlab(expert: Segment, experts: number): ExpertSlab {
    checkOps(this, this.device, expert);
    if (isExpert(expert)) return this.#experts.expertSlab(expert, experts);
    return { put: (_number, weights) => this.compile(expert, weights) };
  }

  createRange(layers: readonly RangeLayer[], ends?: RangeEnds): LayerRange {
    return new GgmlRange(this.#device, layers, { ends, rowsMax: this.#options.rowsMax });
  }

  async createKv(spec: Parameters<Backend["createKv"]>[0]): Promise<GgmlKv> {
    return createGgmlKv(this.#device, spec);
  }

  async runMany(
    calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[],
    queue?: ComputeQueue,
  ): Promise<readonly Outputs[]> {
    const together = await this.#experts.runMany(calls, queue);
    if (together !== undefined) return together;
    const outputs: Outputs[] = [];
    for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
    return outputs;
  }

  expertResidentBytes(segment: Segment, forms: WeightForms): number {
    return this.#experts.bytesOf(segment, forms);
  }

  denseResidentBytes(segment: Segment, forms: WeightForms): number {
    return layoutOf(this.#device, segment, forms, this.#options.denseBits ?? 32).bytes;
  }

  memory(): DeviceMemory | undefined {
    return this.#device.memory;
  }

  workBytes(layers: readonly Layer[], rows: number, { context, type = "f32" }: Pick<KvSpec, "context" | "type">): number {
    if (!this.#device.exact) return this.#device.scratchBytes;
    const sorted = Math.max(0, ...layers.map((layer) => (layer.kind === "moe" ? sortedBytes(this.#device, layer, rows) : 0)));
    const queues = this.hasPrefillQueue ? 2 : 1;
    return sorted + (attendsByProducts(this.#device, type) ? queues * scoresBytes(layers, rows, { type, length: lengthRead(context) }) : 0);
  }

  fault(): AppError | undefined {
    return this.#device.fault;
  }

  takesManyRows(heads: Parameters<Backend["takesManyRows"]>[0]): boolean {
    return this.#device.ownMemory && attendsAtOnce(this.#device, heads);
  }

  withOptions(options: ModelOptions): GgmlBackend {
    return new GgmlBackend(this.#device, Object.assign({}, this.#options, options));
  }

  async close(): Promise<void> {
    await this.#device.close();
  }
}

/** A backend of a device that is open. */
export const backendOn = (device: GgmlDevice, options: Omit<BackendOptions, "threads">): Backend => new GgmlBackend(device, options);

/** The maximum of threads; several only while they gain. */
export const createGgmlBackend: BackendFactory = async (options) => {
  const { threads, queueThreads, cpuBuild, pages } = options;
  const count = (asked: number): number => Math.max(1, Math.min(asked, availableParallelism()));
  const ofQueue = queueThreads === undefined ? undefined : count(queueThreads);
  return new GgmlBackend(new CpuDevice({ threads: count(threads), queueThreads: ofQueue, build: cpuBuild, pages }), options);
};

export const gpuBackend =
  (kind: GpuName): BackendFactory =>
  async (options) =>
    backendOn(openGpu(kind, options.deviceIndex ?? 0), options);
