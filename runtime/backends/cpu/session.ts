// One ONNX Runtime session, run synchronously on the calling thread. The only file that touches onnxruntime-node.
// The package's public `run` defers to setImmediate; its binding is synchronous, and a hot loop needs that.

import { Tensor } from "onnxruntime-node";
import { binding, initOrt } from "onnxruntime-node/dist/binding.js";
import { AppError } from "../../../crds/common.ts";
import { externalName, type OnnxModel } from "./onnx.ts";

export type Values = Record<string, Tensor>;

/** One thread a session: parallelism is over parts and experts (pool.ts). No arena: what a session keeps is its weights. */
const sessionOptions = {
  intraOpNumThreads: 1,
  interOpNumThreads: 1,
  executionMode: "sequential" as const,
  graphOptimizationLevel: "all" as const,
  enableCpuMemArena: false,
  enableMemPattern: false,
  extra: { session: { intra_op: { allow_spinning: "0" }, use_device_allocator_for_initializers: "1" } },
};

export class Session {
  readonly #native: InstanceType<typeof binding.InferenceSession>;

  /** The model's buffers may be reused or dropped once this returns (measured: nothing refers to them). */
  constructor({ model, external }: OnnxModel) {
    initOrt();
    this.#native = new binding.InferenceSession();
    try {
      this.#native.loadModel(model.buffer as ArrayBuffer, model.byteOffset, model.byteLength, {
        ...sessionOptions,
        ...(external ? { externalData: [{ path: externalName, data: external }] } : {}),
      });
    } catch (cause) {
      throw new AppError(`ONNX Runtime refuses a graph: ${cause instanceof Error ? cause.message : String(cause)}`, {
        code: "BackendFailed",
        operation: "creating a session",
        cause,
      });
    }
  }

  /** Writes into the tensors of `fetches`. */
  run(feeds: Values, fetches: Values): void {
    this.#native.run(feeds, fetches, {});
  }

  dispose(): void {
    this.#native.dispose();
  }
}

export function f32(data: Float32Array, shape: readonly number[]): Tensor {
  return new Tensor("float32", data, shape);
}

export function i64(data: BigInt64Array, shape: readonly number[]): Tensor {
  return new Tensor("int64", data, shape);
}

export function i32(data: Int32Array, shape: readonly number[]): Tensor {
  return new Tensor("int32", data, shape);
}
