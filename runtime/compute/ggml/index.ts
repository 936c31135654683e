// The ggml backend: programs as graphs of ggml on the processor. Exact class: the bits of a row depend neither on the rows beside it nor
// on threads, slots or the length of the prefill that computed it.
import type { AppError } from "../../../crds/common.ts";
import type { Backend, BackendFactory, Compiled, Inputs, Outputs } from "../../backends/backend.ts";
import { checkOps, weightOf } from "../../backends/check.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import { CpuDevice } from "./device.ts";
import { Expert, Experts, expertBytes, isExpert } from "./experts.ts";
import { GgmlKv } from "./kv.ts";
import { ggmlCapabilities } from "./lower.ts";
import { DenseProgram } from "./program.ts";

class GgmlBackend implements Backend {
  readonly device: string;
  readonly numericClass = "exact";
  readonly prefillEqualsDecode = true;
  readonly sharesCores = true;
  readonly ops = ggmlCapabilities.ops;
  readonly refuses = ggmlCapabilities.refuses;
  readonly #device: CpuDevice;
  readonly #experts: Experts;
  readonly #denseBits: 8 | 16 | 32;

  constructor(device: CpuDevice, denseBits: 8 | 16 | 32) {
    this.device = device.description;
    this.#device = device;
    this.#experts = new Experts(device);
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
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof Expert ? [{ program, inputs }] : []));
    if (experts.length === calls.length) return this.#experts.run(experts);
    const outputs: Outputs[] = [];
    for (const { program, inputs } of calls) outputs.push(await program.run(inputs));
    return outputs;
  }

  expertResidentBytes(segment: Segment, forms: WeightForms): number {
    return expertBytes(segment, forms);
  }

  fault(): AppError | undefined {
    return this.#device.fault;
  }

  async close(): Promise<void> {
    this.#device.close();
  }
}

/** On so many threads, whose processors must be nobody else's: they wait for each other by spinning. */
export const openGgmlBackend: BackendFactory = async ({ threads, denseBits }) =>
  new GgmlBackend(new CpuDevice({ threads: Math.max(1, threads) }), denseBits ?? 32);

/** On one thread, which is the right number wherever a processor may be shared: beside one hog two threads fall to a third of what they
 *  reach alone, and two on one processor come to a standstill. */
export const createGgmlBackend: BackendFactory = async ({ denseBits }) =>
  openGgmlBackend(denseBits === undefined ? { threads: 1 } : { threads: 1, denseBits });
