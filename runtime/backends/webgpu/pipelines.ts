// Compute pipelines by their WGSL: 240 experts of one shape share three. Lives as long as the device.
import type { Gpu } from "./device.ts";

export class PipelineCache {
  readonly #gpu: Gpu;
  readonly #byCode = new Map<string, GPUComputePipeline>();

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  get(wgsl: string, label: string): GPUComputePipeline {
    const known = this.#byCode.get(wgsl);
    if (known) return known;
    const module = this.#gpu.device.createShaderModule({ code: wgsl, label });
    const made = this.#gpu.device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" }, label });
    this.#byCode.set(wgsl, made);
    return made;
  }
}
