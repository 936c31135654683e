// Writes ONNX models: the needed protobuf messages of onnx.proto.

export const onnxType = { f32: 1, i64: 7 } as const;
type OnnxType = (typeof onnxType)[keyof typeof onnxType];

export type Attribute = number | { readonly float: number } | { readonly ints: readonly number[] };

export interface Node {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly attributes: Readonly<Record<string, Attribute>>;
}

export interface ValueInfo {
  readonly name: string;
  readonly type: OnnxType;
  /** A name instead of a size is a dimension that each run chooses. */
  readonly shape: readonly (number | string)[];
}

export interface Initializer {
  readonly name: string;
  readonly type: OnnxType;
  readonly shape: readonly number[];
  /** Little-endian. */
  readonly bytes: Uint8Array;
}

export interface OnnxGraph {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly nodes: readonly Node[];
  readonly initializers: readonly Initializer[];
}

const irVersion = 10;
const opset = 21;
const attributeType = { float: 1, int: 2, ints: 7 } as const;

class Writer {
  readonly #parts: Uint8Array[] = [];

  varint(value: number): this {
    let rest = BigInt.asUintN(64, BigInt(value));
    const bytes: number[] = [];
    do {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      bytes.push(rest > 0n ? low | 0x80 : low);
    } while (rest > 0n);
    this.#parts.push(Uint8Array.from(bytes));
    return this;
  }
  int(field: number, value: number): this {
    return this.varint(field << 3).varint(value);
  }
  float(field: number, value: number): this {
    this.varint((field << 3) | 5);
    this.#parts.push(new Uint8Array(Float32Array.of(value).buffer));
    return this;
  }
  bytes(field: number, value: Uint8Array): this {
    this.varint((field << 3) | 2).varint(value.byteLength);
    this.#parts.push(value);
    return this;
  }
  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }
  message(field: number, write: (inner: Writer) => void): this {
    const inner = new Writer();
    write(inner);
    return this.bytes(field, inner.finish());
  }
  finish(): Uint8Array {
    const out = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.byteLength, 0));
    let at = 0;
    for (const part of this.#parts) {
      out.set(part, at);
      at += part.byteLength;
    }
    return out;
  }
}

function attribute(out: Writer, name: string, value: Attribute): void {
  out.text(1, name);
  if (typeof value === "number") out.int(3, value).int(20, attributeType.int);
  else if ("float" in value) out.float(2, value.float).int(20, attributeType.float);
  else {
    for (const item of value.ints) out.int(8, item);
    out.int(20, attributeType.ints);
  }
}

function node(out: Writer, { op, inputs, output, attributes }: Node): void {
  for (const name of inputs) out.text(1, name);
  out.text(2, output).text(4, op);
  for (const [name, value] of Object.entries(attributes)) out.message(5, (inner) => attribute(inner, name, value));
}

function valueInfo(out: Writer, { name, type, shape }: ValueInfo): void {
  out.text(1, name).message(2, (typeProto) =>
    typeProto.message(1, (tensor) =>
      tensor.int(1, type).message(2, (shapeProto) => {
        for (const dim of shape) shapeProto.message(1, (d) => (typeof dim === "number" ? d.int(1, dim) : d.text(2, dim)));
      }),
    ),
  );
}

function initializer(out: Writer, tensor: Initializer): void {
  for (const dim of tensor.shape) out.int(1, dim);
  out.int(2, tensor.type).text(8, tensor.name).bytes(9, tensor.bytes);
}

export function writeModel(graph: OnnxGraph): Uint8Array {
  const model = new Writer().int(1, irVersion).message(8, (set) => set.text(1, "").int(2, opset));
  model.message(7, (out) => {
    for (const item of graph.nodes) out.message(1, (inner) => node(inner, item));
    out.text(2, "segment");
    for (const item of graph.initializers) out.message(5, (inner) => initializer(inner, item));
    for (const item of graph.inputs) out.message(11, (inner) => valueInfo(inner, item));
    for (const item of graph.outputs) out.message(12, (inner) => valueInfo(inner, item));
  });
  return model.finish();
}
