// The backend on ggml: programs as graphs of ggml on the processor. Exact class: the bits of a row depend neither on the rows beside it nor
// on threads, slots or the length of the prefill that computed it.
import { availableParallelism } from "node:os";
import type { AppError } from "../../../crds/common.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForm, Weights } from "../../kernels/weights.ts";
import type { Backend, BackendFactory, Compiled, Inputs, Outputs } from "../backend.ts";
import { checkOps, weightOf } from "../check.ts";
import { CpuDevice } from "./device.ts";
import { isExpert } from "./experts.ts";
import { GgmlKv } from "./kv.ts";
import { ggmlCapabilities } from "./lower.ts";
import { DenseProgram } from "./program.ts";
import { SingleExperts } from "./singles.ts";

class GgmlBackend implements Backend {
  readonly device: string;
  readonly numericClass = "exact";
  readonly prefillEqualsDecode = true;
  readonly sharesCores = true;
  readonly ops = ggmlCapabilities.ops;
  readonly refuses = ggmlCapabilities.refuses;
  readonly #device: CpuDevice;
  readonly #experts: SingleExperts;
  readonly #denseBits: 8 | 32;

  constructor(device: CpuDevice, denseBits: 8 | 32) {
    this.device = device.description;
    this.#device = device;
    this.#experts = new SingleExperts(device);
    this.#denseBits = denseBits;
  }

  async compile(segment: Segment, weights: Weights): Promise<Compiled> {
    checkOps(ggmlCapabilities, this.device, segment);
    for (const { name } of segment.weights) weightOf(segment, weights, name);
    return isExpert(segment) ? this.#experts.put(segment, weights) : new DenseProgram(this.#device, segment, weights, this.#denseBits);
  }

  async createKv(spec: Parameters<Backend["createKv"]>[0]): Promise<GgmlKv> {
    return new GgmlKv(this.#device, spec);
  }

  async runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): Promise<readonly Outputs[]> {
    const outputs: Outputs[] = [];
    for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
    return outputs;
  }

  expertResidentBytes(segment: Segment, form: WeightForm): number {
    return this.#experts.bytesOf(segment, form);
  }

  fault(): AppError | undefined {
    return this.#device.fault;
  }

  async close(): Promise<void> {
    this.#device.close();
  }
}

/** On at most so many threads; more than one only while they gain. */
export const createGgmlBackend: BackendFactory = async ({ threads, denseBits }) =>
  new GgmlBackend(new CpuDevice({ threads: Math.max(1, Math.min(threads, availableParallelism())) }), denseBits ?? 32);
