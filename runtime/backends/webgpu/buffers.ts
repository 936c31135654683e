// Buffers on the device: a pool of scratch by size class, uploads of weights, readback. Knows sizes, not meanings.
// Scratch may be given back as soon as its commands are submitted: one queue runs in order, so a later use cannot overtake.
import { AppError } from "../../../crds/common.ts";
import type { Gpu } from "./device.ts";

/** GPUBufferUsage, whose values the WebGPU standard fixes. */
const usage = { mapRead: 0x1, copySource: 0x4, copyTarget: 0x8, uniform: 0x40, storage: 0x80 } as const;

const kinds = {
  scratch: usage.storage | usage.copySource | usage.copyTarget,
  readback: usage.mapRead | usage.copyTarget,
  params: usage.uniform | usage.copyTarget,
} as const;
export type BufferKind = keyof typeof kinds;

/** Smallest size class, and the alignment of parts of one buffer. */
const alignmentBytes = 256;
/** An upload is staged in pieces of this many bytes, so that host memory does not double. */
const uploadPieceBytes = 16 * 1024 * 1024;

export const aligned = (bytes: number): number => Math.max(alignmentBytes, Math.ceil(bytes / alignmentBytes) * alignmentBytes);

const sizeClass = (bytes: number): number => 2 ** Math.ceil(Math.log2(Math.max(bytes, alignmentBytes)));

export class BufferPool {
  readonly #gpu: Gpu;
  readonly #free = new Map<string, GPUBuffer[]>();
  readonly #all = new Set<GPUBuffer>();

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  take(kind: BufferKind, bytes: number): GPUBuffer {
    const size = Math.min(sizeClass(bytes), this.#gpu.limits.maxBufferSize);
    if (bytes > size) throw tooLarge("an activation", bytes, this.#gpu);
    const kept = this.#free.get(`${kind} ${size}`)?.pop();
    if (kept) return kept;
    const buffer = this.#gpu.device.createBuffer({ size, usage: kinds[kind], label: kind });
    this.#all.add(buffer);
    return buffer;
  }

  give(kind: BufferKind, buffer: GPUBuffer): void {
    const key = `${kind} ${buffer.size}`;
    const list = this.#free.get(key);
    if (list) list.push(buffer);
    else this.#free.set(key, [buffer]);
  }

  /** Destroys a buffer whose state is unknown after an error. */
  discard(buffer: GPUBuffer): void {
    this.#all.delete(buffer);
    buffer.destroy();
  }

  dispose(): void {
    for (const buffer of this.#all) buffer.destroy();
    this.#all.clear();
    this.#free.clear();
  }
}

/** A buffer that holds `data` for as long as a program lives. */
export function upload(gpu: Gpu, data: Float32Array | Uint32Array, label: string): GPUBuffer {
  if (data.byteLength > gpu.limits.maxStorageBufferBindingSize) throw tooLarge(label, data.byteLength, gpu);
  const size = Math.max(data.byteLength, 16);
  const buffer = gpu.device.createBuffer({ size, usage: kinds.scratch, label });
  for (let at = 0; at < data.byteLength; at += uploadPieceBytes) {
    const bytes = Math.min(uploadPieceBytes, data.byteLength - at);
    gpu.device.queue.writeBuffer(buffer, at, data.buffer as ArrayBuffer, data.byteOffset + at, bytes);
  }
  return buffer;
}

/** An empty (zeroed) buffer that lives long: KV storage. */
export function allocate(gpu: Gpu, bytes: number, label: string): GPUBuffer {
  if (bytes > Math.min(gpu.limits.maxStorageBufferBindingSize, gpu.limits.maxBufferSize)) throw tooLarge(label, bytes, gpu);
  return gpu.device.createBuffer({ size: Math.max(bytes, 16), usage: kinds.scratch, label });
}

function tooLarge(what: string, bytes: number, gpu: Gpu): AppError {
  return new AppError(
    `${what} needs ${bytes} bytes in one buffer, this GPU binds ${gpu.limits.maxStorageBufferBindingSize}: use a smaller kvPool or prefill chunk`,
    { code: "OutOfDeviceMemory", operation: "allocating a buffer" },
  );
}
