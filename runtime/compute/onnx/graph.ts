// A graph under construction.
import { type Attribute, type Initializer, type Node, type OnnxGraph, onnxType, type ValueInfo, writeModel } from "./onnx-model.ts";

/** Each run chooses this dimension. */
export const rowsDimension = "rows";

export class Graph {
  readonly #inputs: ValueInfo[] = [];
  readonly #outputs: ValueInfo[] = [];
  readonly #nodes: Node[] = [];
  readonly #initializers: Initializer[] = [];
  #names = 0;

  #fresh(): string {
    this.#names += 1;
    return `t${this.#names}`;
  }

  input(name: string, shape: readonly (number | string)[], type: "f32" | "i64" = "f32"): string {
    this.#inputs.push({ name, type: onnxType[type], shape });
    return name;
  }

  output(name: string, value: string, shape: readonly (number | string)[]): void {
    this.#nodes.push({ op: "Identity", inputs: [value], output: name, attributes: {} });
    this.#outputs.push({ name, type: onnxType.f32, shape });
  }

  node(op: string, inputs: readonly string[], attributes: Readonly<Record<string, Attribute>> = {}): string {
    const output = this.#fresh();
    this.#nodes.push({ op, inputs, output, attributes });
    return output;
  }

  floats(shape: readonly number[], data: Float32Array): string {
    const name = this.#fresh();
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#initializers.push({ name, type: onnxType.f32, shape, bytes });
    return name;
  }

  scalar(value: number): string {
    return this.floats([], Float32Array.of(value));
  }

  /** A list of integers: a shape, axes, indices. */
  ints(values: readonly number[]): string {
    const name = this.#fresh();
    const data = BigInt64Array.from(values, BigInt);
    this.#initializers.push({ name, type: onnxType.i64, shape: [values.length], bytes: new Uint8Array(data.buffer) });
    return name;
  }

  reshape(value: string, shape: readonly number[]): string {
    return this.node("Reshape", [value, this.ints(shape)]);
  }

  transpose(value: string, order: readonly number[]): string {
    return this.node("Transpose", [value], { perm: { ints: order } });
  }

  /** Sums over an axis, which stays with size 1 unless `keep` is false. */
  sum(value: string, axis: number, keep = true): string {
    return this.node("ReduceSum", [value, this.ints([axis])], { keepdims: keep ? 1 : 0 });
  }

  mul(a: string, b: string): string {
    return this.node("Mul", [a, b]);
  }

  add(a: string, b: string): string {
    return this.node("Add", [a, b]);
  }

  sub(a: string, b: string): string {
    return this.node("Sub", [a, b]);
  }

  /** 1 / (1 + exp(-x)). */
  sigmoid(value: string): string {
    return this.node("Reciprocal", [this.add(this.node("Exp", [this.node("Neg", [value])]), this.scalar(1))]);
  }

  /** Elements from..to-1 of the last axis. */
  lastAxis(value: string, from: number, to: number): string {
    return this.node("Slice", [value, this.ints([from]), this.ints([to]), this.ints([-1])]);
  }

  whole(): OnnxGraph {
    return { inputs: this.#inputs, outputs: this.#outputs, nodes: this.#nodes, initializers: this.#initializers };
  }

  finish(): Uint8Array {
    return writeModel(this.whole());
  }
}
