// A compiled segment on the device: weights resident, scratch from the pool, one submission and one readback per run.
// What the dispatches compute is wgsl/; where they come from is lowered.ts.
import { AppError } from "../../../crds/common.ts";
import type { Segment, Tensor } from "../../kernels/segment.ts";
import type { Compiled, Inputs, KvCall, Outputs } from "../backend.ts";
import { checkInputs, checkKv } from "../check.ts";
import { aligned, type BufferKind, type BufferPool, upload } from "./buffers.ts";
import { type Gpu, scoped } from "./device.ts";
import { DeviceKv } from "./kv.ts";
import { grid } from "./layout.ts";
import { checkGathers, type LoweredSegment } from "./lowered.ts";
import type { PipelineCache } from "./pipelines.ts";
import type { Binding, Dispatch } from "./wgsl/lower.ts";
import { paramWords } from "./wgsl/shader.ts";

const bytesPerElement = 4;
/** GPUMapMode.READ */
const mapRead = 1;

/** The error of a promise instead of a rejection nobody may be waiting for. */
const settled = (promise: Promise<unknown>): Promise<Error | undefined> =>
  promise.then(
    () => undefined,
    (caught: unknown) => (caught instanceof Error ? caught : new Error(String(caught))),
  );

export interface Device {
  readonly gpu: Gpu;
  readonly pool: BufferPool;
  readonly pipelines: PipelineCache;
}

interface Prepared {
  readonly dispatch: Dispatch;
  readonly pipeline: GPUComputePipeline;
}

/** The bindings of one run; everything taken is given back after the submission. */
interface Run {
  readonly rows: number;
  readonly params: GPUBuffer;
  readonly past: GPUBuffer | undefined;
  readonly kv: KvCall | undefined;
  readonly values: Map<string, GPUBuffer>;
  readonly taken: [BufferKind, GPUBuffer][];
}

interface Part {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** The place of each output in the readback buffer. */
function partsOf(segment: Segment, widths: ReadonlyMap<string, number>, rows: number): { parts: Part[]; bytes: number } {
  const parts: Part[] = [];
  let offset = 0;
  for (const { name } of segment.outputs) {
    const bytes = rows * (widths.get(name) ?? 0) * bytesPerElement;
    parts.push({ name, offset, bytes });
    offset += aligned(bytes);
  }
  return { parts, bytes: offset };
}

export class DeviceProgram implements Compiled {
  readonly residentBytes: number;
  readonly #device: Device;
  readonly #lowered: Omit<LoweredSegment, "uploads">;
  readonly #prepared: readonly Prepared[];
  readonly #weights: Map<string, GPUBuffer>;

  private constructor(device: Device, { segment, dispatches, uploads, widths }: LoweredSegment) {
    this.#device = device;
    this.#lowered = { segment, dispatches, widths };
    this.#weights = new Map([...uploads].map(([id, data]) => [id, upload(device.gpu, data, id)]));
    this.residentBytes = [...uploads.values()].reduce((bytes, data) => bytes + data.byteLength, 0);
    this.#prepared = dispatches.map((dispatch) => ({ dispatch, pipeline: device.pipelines.get(dispatch.wgsl, dispatch.label) }));
  }

  static create(device: Device, lowered: LoweredSegment): Promise<DeviceProgram> {
    return scoped(device.gpu, `compiling ${lowered.segment.name}`, () => new DeviceProgram(device, lowered));
  }

  async run(inputs: Inputs, kv?: KvCall): Promise<Outputs> {
    const { segment, widths } = this.#lowered;
    const rows = checkInputs(segment, inputs);
    checkKv(segment, kv, rows);
    checkGathers(segment, inputs);
    const { parts, bytes } = partsOf(segment, widths, rows);
    if (rows === 0) return this.#outputs(parts, new ArrayBuffer(bytes), rows);
    const { gpu, pool } = this.#device;
    const readback = pool.take("readback", bytes);
    try {
      // The map is asked for before the scopes are awaited: one wait for the device instead of two.
      const { mapping } = await scoped(gpu, `running ${segment.name}`, () => {
        this.#submit(inputs, kv, rows, { readback, parts });
        return { mapping: settled(readback.mapAsync(mapRead, 0, bytes)) };
      });
      const fault = await mapping;
      if (fault) throw gpu.lost() ?? new AppError(fault.message, { code: "GpuError", cause: fault });
      const copy = readback.getMappedRange(0, bytes).slice(0);
      readback.unmap();
      pool.give("readback", readback);
      return this.#outputs(parts, copy, rows);
    } catch (caught) {
      pool.discard(readback);
      throw caught;
    }
  }

  #outputs(parts: readonly Part[], bytes: ArrayBuffer, rows: number): Outputs {
    const { segment, widths } = this.#lowered;
    const tensors = segment.outputs.map(({ name, dtype }, i): [string, Tensor] => {
      const { offset, bytes: length } = parts[i] as Part;
      const elements = length / bytesPerElement;
      const data = dtype === "f32" ? new Float32Array(bytes, offset, elements) : new Int32Array(bytes, offset, elements);
      return [name, { shape: [rows, widths.get(name) ?? 0], data }];
    });
    return Object.fromEntries(tensors);
  }

  /** Encodes and submits everything of one run; synchronous, so that runs never interleave within a submission. */
  #submit(inputs: Inputs, kv: KvCall | undefined, rows: number, out: { readback: GPUBuffer; parts: readonly Part[] }): void {
    const { gpu, pool } = this.#device;
    const run = this.#begin(inputs, kv, rows);
    const encoder = gpu.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const { dispatch, pipeline } of this.#prepared) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, this.#bind(dispatch, pipeline, run));
      pass.dispatchWorkgroups(...grid(dispatch.groups(rows), gpu.limits.maxComputeWorkgroupsPerDimension));
    }
    pass.end();
    for (const { name, offset, bytes } of out.parts) {
      encoder.copyBufferToBuffer(this.#valueBuffer(name, run), 0, out.readback, offset, bytes);
    }
    gpu.device.queue.submit([encoder.finish()]);
    for (const [kind, buffer] of run.taken) pool.give(kind, buffer);
  }

  #begin(inputs: Inputs, kv: KvCall | undefined, rows: number): Run {
    const { gpu, pool } = this.#device;
    const { queue } = gpu.device;
    const taken: Run["taken"] = [];
    const take = (kind: BufferKind, bytes: number): GPUBuffer => {
      const buffer = pool.take(kind, bytes);
      taken.push([kind, buffer]);
      return buffer;
    };
    const params = take("params", paramWords * bytesPerElement);
    queue.writeBuffer(params, 0, Uint32Array.of(rows, kv?.tokens ?? rows, kv?.firstSlot ?? 0, kv?.cache.context ?? 0));
    let past: GPUBuffer | undefined;
    if (kv) {
      past = take("scratch", kv.batch * bytesPerElement);
      queue.writeBuffer(past, 0, Int32Array.from(kv.past));
    }
    const values = new Map<string, GPUBuffer>();
    for (const { name } of this.#lowered.segment.inputs) {
      const { data } = inputs[name] as Tensor;
      const buffer = take("scratch", data.byteLength);
      queue.writeBuffer(buffer, 0, data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
      values.set(name, buffer);
    }
    return { rows, params, past, kv, values, taken };
  }

  #valueBuffer(name: string, run: Run): GPUBuffer {
    const known = run.values.get(name);
    if (known) return known;
    const buffer = this.#device.pool.take("scratch", run.rows * (this.#lowered.widths.get(name) ?? 0) * bytesPerElement);
    run.taken.push(["scratch", buffer]);
    run.values.set(name, buffer);
    return buffer;
  }

  #bind(dispatch: Dispatch, pipeline: GPUComputePipeline, run: Run): GPUBindGroup {
    const entries = dispatch.bindings.map((binding, i) => ({ binding: i + 1, resource: this.#resource(binding, run) }));
    return this.#device.gpu.device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: run.params } }, ...entries],
    });
  }

  #resource(binding: Binding, run: Run): GPUBufferBinding {
    const buffer = this.#buffer(binding, run);
    if (!buffer) throw new TypeError(`${this.#lowered.segment.name}: nothing to bind for ${JSON.stringify(binding)}`);
    if (binding.kind !== "value") return { buffer };
    // Pool buffers are larger than their value and may exceed the binding limit as a whole.
    return { buffer, size: run.rows * (this.#lowered.widths.get(binding.name) ?? 0) * bytesPerElement };
  }

  #buffer(binding: Binding, run: Run): GPUBuffer | undefined {
    if (binding.kind === "value") return this.#valueBuffer(binding.name, run);
    if (binding.kind === "weight") return this.#weights.get(binding.id);
    if (binding.kind === "past") return run.past;
    const cache = run.kv?.cache;
    if (!(cache instanceof DeviceKv)) return undefined;
    return binding.kind === "kv" ? cache.buffer(binding.layer, binding.part) : cache.rope(binding.rope);
  }

  async dispose(): Promise<void> {
    for (const buffer of this.#weights.values()) buffer.destroy();
    this.#weights.clear();
  }
}
