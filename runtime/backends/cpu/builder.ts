// The ONNX graph of a segment while it grows: its nodes, its initializers and what they weigh. The lowerings of ops (lower.ts) add to
// it, graph.ts makes a model of it. Pure.

import { blockSize } from "../../kernels/weights.ts";
import { type Initializer, type Node, onnxType } from "./onnx.ts";
import { dims, type Matrix, packZeroPoints, transpose } from "./quantize.ts";

const bytesOf = (array: Float32Array | Uint8Array | BigInt64Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

export class Builder {
  readonly nodes: Node[] = [];
  readonly initializers: Initializer[] = [];
  f32Bytes = 0;
  quantizedBytes = 0;
  readonly #rank3: boolean;

  constructor(rank3: boolean) {
    this.#rank3 = rank3;
  }

  matMul(x: string, name: string, matrix: Matrix, out: string): void {
    switch (matrix.form) {
      case "f32":
        this.#plain(x, name, matrix, out);
        break;
      case "int4":
        this.#blocks({ x, name, out }, matrix, 4, packZeroPoints(matrix.z, dims(matrix).n));
        break;
      case "int8":
        this.#blocks({ x, name, out }, matrix, 8);
        break;
      default:
        matrix satisfies never;
    }
  }

  #plain(x: string, name: string, matrix: Extract<Matrix, { form: "f32" }>, out: string): void {
    const { n, k } = dims(matrix);
    this.f32Bytes += matrix.data.byteLength;
    if (this.#rank3) {
      this.#add(name, onnxType.f32, [k, n], transpose(matrix.data, n, k));
      this.nodes.push({ op: "MatMul", inputs: [x, name], outputs: [out] });
    } else {
      this.#add(name, onnxType.f32, [n, k], matrix.data);
      this.nodes.push({ op: "Gemm", inputs: [x, name], outputs: [out], attributes: { transB: 1 } });
    }
  }

  /** A matrix in blocks of `bits` a value; without zero points, values are around the middle of their range. */
  #blocks(
    { x, name, out }: { readonly x: string; readonly name: string; readonly out: string },
    matrix: Exclude<Matrix, { form: "f32" }>,
    bits: 4 | 8,
    zeroPoints?: Uint8Array,
  ): void {
    const { n, k } = dims(matrix);
    const blocks = k / blockSize;
    const inputs = [x, `${name}.q`, `${name}.s`];
    this.#add(`${name}.q`, onnxType.u8, [n, blocks, matrix.q.length / n / blocks], matrix.q);
    this.#add(`${name}.s`, onnxType.f32, [n * blocks], matrix.s);
    this.quantizedBytes += matrix.q.byteLength + matrix.s.byteLength;
    if (zeroPoints) {
      this.#add(`${name}.z`, onnxType.u8, [zeroPoints.length], zeroPoints);
      this.quantizedBytes += zeroPoints.byteLength;
      inputs.push(`${name}.z`);
    }
    const attributes = { K: k, N: n, bits, block_size: blockSize, accuracy_level: 4 };
    this.nodes.push({ op: "MatMulNBits", domain: "com.microsoft", inputs, outputs: [out], attributes });
  }

  vector(name: string, data: Float32Array): string {
    this.f32Bytes += data.byteLength;
    this.#add(name, onnxType.f32, [data.length], data);
    return name;
  }

  integers(name: string, values: readonly number[]): string {
    this.#add(name, onnxType.i64, [values.length], BigInt64Array.from(values, BigInt));
    return name;
  }

  #add(name: string, type: Initializer["type"], shape: readonly number[], data: Float32Array | Uint8Array | BigInt64Array): void {
    if (this.initializers.some((known) => known.name === name)) return; // the same weight read twice
    this.initializers.push({ name, type, shape, bytes: bytesOf(data) });
  }
}
