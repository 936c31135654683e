// Writes ONNX models: the few protobuf messages of onnx.proto that we emit, with their field numbers. Pure.
// Not here: which graph a segment becomes (graph.ts). Reading ONNX: nobody needs it.
// Big weights are *external data*: the model names a range of a buffer that is handed over beside it, so that they
// are never copied into the protobuf.

export const onnxType = { f32: 1, u8: 2, i32: 6, i64: 7 } as const;
type OnnxType = (typeof onnxType)[keyof typeof onnxType];

type Attribute = number | { readonly float: number } | { readonly ints: readonly number[] };

export interface Node {
  readonly op: string;
  readonly domain?: "com.microsoft";
  readonly inputs: readonly string[]; // "" = absent
  readonly outputs: readonly string[];
  readonly attributes?: Readonly<Record<string, Attribute>>;
}

export interface ValueInfo {
  readonly name: string;
  readonly type: OnnxType;
  readonly shape: readonly (number | string)[];
}

export interface Initializer {
  readonly name: string;
  readonly type: OnnxType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export interface Graph {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly nodes: readonly Node[];
  readonly initializers: readonly Initializer[];
}

export interface OnnxModel {
  readonly model: Uint8Array;
  /** The bytes that `model` calls `externalName`; undefined when every initializer is small. */
  readonly external: Uint8Array | undefined;
}

export const externalName = "weights";
const externalAlignment = 64; // bytes
const inlineBytesMax = 1024;
const irVersion = 10;
const opsets = [
  ["", 21],
  ["com.microsoft", 1],
] as const;

const attributeType = { float: 1, int: 2, ints: 7 } as const;

/** Protobuf's wire format, writing only. */
class Writer {
  readonly #parts: Uint8Array[] = [];

  varint(value: number | bigint): this {
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

function node(out: Writer, { op, domain, inputs, outputs, attributes }: Node): void {
  for (const name of inputs) out.text(1, name);
  for (const name of outputs) out.text(2, name);
  out.text(4, op);
  for (const [name, value] of Object.entries(attributes ?? {})) out.message(5, (inner) => attribute(inner, name, value));
  if (domain) out.text(7, domain);
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

function initializer(out: Writer, tensor: Initializer, externalOffset: number | undefined): void {
  for (const dim of tensor.shape) out.int(1, dim);
  out.int(2, tensor.type).text(8, tensor.name);
  if (externalOffset === undefined) {
    out.bytes(9, tensor.bytes);
    return;
  }
  const entries = { location: externalName, offset: String(externalOffset), length: String(tensor.bytes.byteLength) };
  for (const [key, value] of Object.entries(entries)) out.message(13, (entry) => entry.text(1, key).text(2, value));
  out.int(14, 1); // EXTERNAL
}

/** Lays big initializers out in one aligned buffer and writes the model that refers to it. */
export function writeModel(graph: Graph): OnnxModel {
  const offsets = new Map<string, number>();
  let size = 0;
  for (const tensor of graph.initializers) {
    if (tensor.bytes.byteLength <= inlineBytesMax) continue;
    offsets.set(tensor.name, size);
    size += Math.ceil(tensor.bytes.byteLength / externalAlignment) * externalAlignment;
  }
  const external = size > 0 ? new Uint8Array(size) : undefined;
  for (const tensor of graph.initializers) {
    const offset = offsets.get(tensor.name);
    if (offset !== undefined) external?.set(tensor.bytes, offset);
  }
  const model = new Writer().int(1, irVersion);
  for (const [domain, version] of opsets) model.message(8, (opset) => opset.text(1, domain).int(2, version));
  model.message(7, (out) => {
    for (const item of graph.nodes) out.message(1, (inner) => node(inner, item));
    out.text(2, "segment");
    for (const item of graph.initializers) out.message(5, (inner) => initializer(inner, item, offsets.get(item.name)));
    for (const item of graph.inputs) out.message(11, (inner) => valueInfo(inner, item));
    for (const item of graph.outputs) out.message(12, (inner) => valueInfo(inner, item));
  });
  return { model: model.finish(), external };
}
