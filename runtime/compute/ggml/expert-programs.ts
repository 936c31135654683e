// Computes experts one after another, each with the fastest products that its types have.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { BufferAllocator, Compiled, ExpertSlab, Inputs, KvCall, Outputs, Pause } from "../backend.ts";
import { checkInputs } from "../call-checks.ts";
import { inPieces, reusedBuffers } from "../output-buffers.ts";
import type { GgmlDevice } from "./device.ts";
import { columnsOf, formsOf, type Part, type Product, partIndex, partsOf } from "./expert-matrices.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type Graph, type Value } from "./graph.ts";
import type { WeightSource } from "./lowering.ts";
import { multiplied, storagesOf, zeroIds } from "./matrix-storage.ts";
import { isOutOfMemory } from "./out-of-memory.ts";
import { lowerOps } from "./program.ts";
import { Recent } from "./recent.ts";
import { Slab } from "./slab.ts";
import { dimensions, fasterRows } from "./types.ts";

const graphsMax = 64;
const nodesPerOp = 5;

interface Built {
  readonly graph: Graph;
  readonly placeholders: readonly Pointer[];
  of: SingleExpert | undefined;
}

interface Shape {
  readonly segment: Segment;
  readonly parts: readonly Part[];
  readonly graphs: Recent<Built>;
}

interface Place {
  readonly slab: Slab;
  readonly slot: number;
  readonly leave: () => void;
}

class SingleExpert implements Compiled {
  readonly residentBytes: number;
  readonly shape: Shape;
  readonly addresses: readonly Pointer[];
  readonly #experts: SingleExperts;
  readonly #leave: () => void;
  gone = false;

  constructor(experts: SingleExperts, shape: Shape, place: Place) {
    this.#experts = experts;
    this.shape = shape;
    this.addresses = place.slab.addresses(place.slot);
    this.residentBytes = place.slab.expertBytes;
    this.#leave = place.leave;
  }

  async run(inputs: Inputs, _kv?: KvCall, allocate?: BufferAllocator): Promise<Outputs> {
    return this.#experts.run(this, inputs, allocate);
  }

  /** Idempotent, since the slot may belong to another expert later. */
  async dispose(): Promise<void> {
    if (!this.gone) this.#leave();
    this.gone = true;
  }
}

class SingleExpertSlab implements ExpertSlab {
  readonly #device: GgmlDevice;
  readonly #experts: SingleExperts;
  readonly #segment: Segment;
  readonly #count: number;
  #shape: Shape | undefined;
  #slab: Slab | undefined;

  constructor(device: GgmlDevice, experts: SingleExperts, segment: Segment, count: number) {
    this.#device = device;
    this.#experts = experts;
    this.#segment = segment;
    this.#count = count;
  }

  async put(expert: number, weights: Weights, pause: Pause = async (until) => void (await until)): Promise<Compiled> {
    const shape = this.#experts.shapeOf(this.#segment, weights);
    const place = this.#placeFor(expert, shape);
    await place.slab.putApart(place.slot, weights, pause);
    return new SingleExpert(this.#experts, shape, place);
  }

  /** In this thread. */
  place(expert: number, weights: Weights): SingleExpert {
    const shape = this.#experts.shapeOf(this.#segment, weights);
    const place = this.#placeFor(expert, shape);
    place.slab.put(place.slot, weights);
    return new SingleExpert(this.#experts, shape, place);
  }

  #placeFor(slot: number, shape: Shape): Place {
    const slab = this.#allocate(shape, slot);
    if (slab === undefined) return new SingleExpertSlab(this.#device, this.#experts, this.#segment, 1).#placeFor(0, shape);
    return { slab, slot, leave: () => this.#leave(slab, slot) };
  }

  /** The slab of all experts, each in the slot of its number; undefined while some are missing or rows cannot choose among them. */
  get whole(): Slab | undefined {
    return this.#slab?.choosable && this.#slab.used === this.#count ? this.#slab : undefined;
  }

  /** Undefined where the layer's slab cannot take it: the slot is taken, the shape differs, or address space is missing. */
  #allocate(shape: Shape, expert: number): Slab | undefined {
    if (this.#slab === undefined) {
      try {
        this.#slab = new Slab(this.#device, shape.parts, this.#count);
      } catch (caught) {
        if (this.#count === 1 || !isOutOfMemory(caught)) throw caught;
        return undefined;
      }
      this.#shape = shape;
    }
    return this.#shape === shape && !this.#slab.isTaken(expert) ? this.#slab : undefined;
  }

  #leave(slab: Slab, expert: number): void {
    slab.drop(expert);
    if (!slab.idle) return;
    slab.free();
    this.#slab = undefined;
  }
}

export class SingleExperts {
  readonly #device: GgmlDevice;
  readonly #shapes = new Map<string, Shape>();
  readonly #kept = reusedBuffers();

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  expertSlab(segment: Segment, experts: number): SingleExpertSlab {
    return new SingleExpertSlab(this.#device, this, segment, experts);
  }

  bytesOf(segment: Segment, forms: WeightForms): number {
    return segment.weights.reduce((sum, { name, shape }) => {
      const [rows, columns] = dimensions(shape);
      return sum + this.#device.aligned(storagesOf(this.#device).of({ type: forms[name] ?? "f32", rows, columns }).bytes);
    }, 0);
  }

  /** Results come in the order of the calls; undefined where some belong to another backend. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): readonly Outputs[] | undefined {
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof SingleExpert ? [{ program, inputs }] : []));
    if (experts.length !== calls.length) return undefined;
    const lengths = experts.map(({ program: { shape }, inputs }) => outputLength(shape.segment, inputs));
    const all = lengths.reduce((sum, length) => sum + length, 0);
    const next = inPieces(this.#kept("y", all));
    return experts.map(({ program, inputs }) => this.run(program, inputs, (_output, length) => next(length)));
  }

  run(expert: SingleExpert, inputs: Inputs, allocate: BufferAllocator = this.#kept): Outputs {
    const { segment, graphs } = expert.shape;
    this.#device.assertOpen();
    if (expert.gone) throw new TypeError(`${segment.name} is run after it was disposed of`);
    const rows = checkInputs(segment, inputs);
    const { input, output } = endsOf(segment);
    const data = allocate(output.name, rows * output.width);
    if (rows > 0) {
      const computed = computedRows(expert.shape, rows);
      const built = graphs.take(
        `${computed}`,
        ({ graph }) => graph.valid,
        () => this.#build(expert.shape, computed),
      );
      if (built.of !== expert) {
        for (const [i, placeholder] of built.placeholders.entries()) this.#device.pointAt(placeholder, expert.addresses[i] as Pointer);
        built.of = expert;
      }
      const x = this.#padded(inputs[input.name]?.data as Float32Array, computed * input.width);
      built.graph.run((name) => (name === "x" ? x : name === zeroIds ? new Int32Array(computed) : undefined));
      built.graph.read("y", data);
    }
    return { [output.name]: { shape: [rows, output.width], data } };
  }

  #padded(x: Float32Array, length: number): Float32Array {
    if (x.length === length) return x;
    const padded = this.#kept("padded", length);
    padded.set(x);
    return padded.fill(0, x.length);
  }

  shapeOf(segment: Segment, weights: Weights): Shape {
    const forms = formsOf(segment, weights);
    const key = JSON.stringify([segment.ops, segment.weights.map(({ name, shape }) => [name, shape, forms[name]])]);
    const graphs = (): Recent<Built> => new Recent<Built>(graphsMax, ({ graph }) => graph.free());
    const shape = this.#shapes.get(key) ?? { segment, parts: partsOf(this.#device, segment, forms), graphs: graphs() };
    this.#shapes.set(key, shape);
    return shape;
  }

  #build({ segment, parts }: Shape, rows: number): Built {
    const { input, output } = endsOf(segment);
    const placeholders: Pointer[] = [];
    const graph = buildGraph(this.#device, nodesPerOp * segment.ops.length + parts.length + 2, (build) => {
      for (const part of parts) {
        const emptyBuffer = part.storage.emptyBuffer();
        placeholders.push(storagesOf(this.#device).tensor(build.context, part, emptyBuffer, emptyBuffer.base));
      }
      const values = new Map<string, Value>([[input.name, build.input("x", "f32", [input.width, rows])]]);
      lowerOps(build, segment.ops, values, { rows, weights: sourceOf(parts, placeholders), widths: widthsOf(segment) });
      return { y: values.get(output.name) as Value };
    });
    return { graph, placeholders, of: undefined };
  }
}

function sourceOf(parts: readonly Part[], tensors: readonly Pointer[]): WeightSource {
  const products = new Map<Part, Product>();
  const tensor = (name: string): Pointer => tensors[partIndex(parts, name)] as Pointer;
  return {
    tensor,
    multiply: (build, name, x, rows) => {
      const part = parts[partIndex(parts, name)] as Part;
      const known = products.get(part);
      const product = known?.of === x ? known.value : multiplied(build, { ...part, tensor: tensor(name) }, x, rows);
      products.set(part, { of: x, value: product });
      return columnsOf(build, { product, part, rows }, name);
    },
    addRow: (build, name, x) => build.step(build.device.ggml.ggml_add(build.context, x.tensor, tensor(name)), [x]),
  };
}

/** Rounds up where a few more rows are faster. */
const computedRows = ({ parts }: Shape, rows: number): number =>
  Math.min(...parts.flatMap(({ storage, vector }) => (vector ? [] : [storage.exact ? fasterRows(rows, storage.memory.name) : rows])));

type End = Segment["inputs"][number];

function endsOf({ inputs, outputs }: Segment): { readonly input: End; readonly output: End } {
  return { input: inputs[0] as End, output: outputs[0] as End };
}

function outputLength(segment: Segment, inputs: Inputs): number {
  const { input, output } = endsOf(segment);
  return ((inputs[input.name]?.data.length ?? 0) / input.width) * output.width;
}
