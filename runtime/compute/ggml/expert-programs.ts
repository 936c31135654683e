// The experts of a processor, each in its slot of the layer's slab; many of them compute in one graph.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import type { BufferAllocator, Compiled, ComputeQueue, ExpertSlab, Inputs, KvCall, Outputs, Pause } from "../backend.ts";
import { checkInputs } from "../call-checks.ts";
import { inPieces, reusedBuffers } from "../output-buffers.ts";
import type { GgmlDevice } from "./device.ts";
import { ExpertGraphs, type ExpertShape, endsOf, inGraphs, paddedRows, type RowEnds, totalOf } from "./expert-graphs.ts";
import type { Pointer } from "./functions.ts";
import type { SlabHolder } from "./layer-parts.ts";
import { storagesOf, zerosFor } from "./matrix-storage.ts";
import { isOutOfMemory } from "./out-of-memory.ts";
import { Slab } from "./slab.ts";
import { dimensions } from "./types.ts";

interface Place {
  readonly slab: Slab;
  readonly slot: number;
  readonly leave: () => void;
}

class SingleExpert implements Compiled {
  readonly residentBytes: number;
  readonly shape: ExpertShape;
  readonly addresses: readonly Pointer[];
  readonly #experts: SingleExperts;
  readonly #leave: () => void;
  gone = false;

  constructor(experts: SingleExperts, shape: ExpertShape, place: Place) {
    this.#experts = experts;
    this.shape = shape;
    this.addresses = place.slab.addresses(place.slot);
    this.residentBytes = place.slab.expertBytes;
    this.#leave = place.leave;
  }

  async run(inputs: Inputs, _kv?: KvCall, allocate?: BufferAllocator): Promise<Outputs> {
    const [outputs] = (await this.#experts.runAll(this.shape, [{ program: this, inputs }])) as [Outputs];
    if (allocate === undefined) return outputs;
    const entries = Object.entries(outputs).map(([name, { shape, data }]) => {
      const own = allocate(name, data.length);
      own.set(data);
      return [name, { shape, data: own }];
    });
    return Object.fromEntries(entries);
  }

  /** Idempotent, since the slot may belong to another expert later. */
  async dispose(): Promise<void> {
    if (!this.gone) this.#leave();
    this.gone = true;
  }
}

class SingleExpertSlab implements ExpertSlab {
  readonly copies = true;
  readonly #device: GgmlDevice;
  readonly #experts: SingleExperts;
  readonly #segment: Segment;
  readonly #count: number;
  /** One for each form that experts have. */
  readonly #slabs = new Map<ExpertShape, Slab>();

  constructor(device: GgmlDevice, experts: SingleExperts, segment: Segment, count: number) {
    this.#device = device;
    this.#experts = experts;
    this.#segment = segment;
    this.#count = count;
  }

  async put(expert: number, weights: Weights, pause: Pause = async (until) => void (await until)): Promise<Compiled> {
    const shape = this.#experts.graphs.shapeOf(this.#segment, weights);
    const place = this.#placeFor(expert, shape);
    await place.slab.putApart(place.slot, weights, pause);
    return new SingleExpert(this.#experts, shape, place);
  }

  /** Packs in this thread. */
  place(expert: number, weights: Weights): SingleExpert {
    const shape = this.#experts.graphs.shapeOf(this.#segment, weights);
    const place = this.#placeFor(expert, shape);
    place.slab.put(place.slot, weights);
    return new SingleExpert(this.#experts, shape, place);
  }

  #placeFor(slot: number, shape: ExpertShape): Place {
    const slab = this.#allocate(shape, slot);
    if (slab === undefined) return new SingleExpertSlab(this.#device, this.#experts, this.#segment, 1).#placeFor(0, shape);
    return { slab, slot, leave: () => this.#leave(shape, slot) };
  }

  /** The slab of all experts, each in the slot of its number; undefined while some are missing or unlike. */
  get whole(): Slab | undefined {
    const [slab] = this.#slabs.values();
    return slab?.used === this.#count ? slab : undefined;
  }

  get sorted(): SlabHolder["sorted"] {
    let used = 0;
    for (const slab of this.#slabs.values()) used += slab.used;
    return used === this.#count ? { graphs: this.#experts.graphs, slabs: this.#slabs } : undefined;
  }

  /** Undefined where the layer's slab cannot take it: the slot is taken, or address space is missing. */
  #allocate(shape: ExpertShape, expert: number): Slab | undefined {
    try {
      const slab = this.#slabs.get(shape) ?? new Slab(this.#device, shape.parts, this.#count);
      this.#slabs.set(shape, slab);
      return slab.isTaken(expert) ? undefined : slab;
    } catch (caught) {
      if (this.#count === 1 || !isOutOfMemory(caught)) throw caught;
      return undefined;
    }
  }

  #leave(shape: ExpertShape, expert: number): void {
    const slab = this.#slabs.get(shape) as Slab;
    slab.drop(expert);
    if (!slab.idle) return;
    slab.free();
    this.#slabs.delete(shape);
  }
}

/** Rows that the caller has. */
const hostEnds: RowEnds = {
  key: "host",
  begin: (build, width, total) => build.input("x", "f32", [width, total]),
  end: (_build, y) => ({ y }),
};

interface Call {
  readonly program: SingleExpert;
  readonly inputs: Inputs;
}

export class SingleExperts {
  readonly graphs: ExpertGraphs;
  readonly #device: GgmlDevice;
  readonly #kept = reusedBuffers();

  constructor(device: GgmlDevice) {
    this.#device = device;
    this.graphs = new ExpertGraphs(device);
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
  async runMany(
    calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[],
    queue?: ComputeQueue,
  ): Promise<readonly Outputs[] | undefined> {
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof SingleExpert ? [{ program, inputs }] : []));
    if (experts.length !== calls.length) return undefined;
    const outputs = new Map<Call, Outputs>();
    for (const [at, [shape, own]] of [...Map.groupBy(experts, ({ program }) => program.shape)].entries()) {
      for (const [i, output] of (await this.runAll(shape, own, at, queue)).entries()) outputs.set(own[i] as Call, output);
    }
    return experts.map((call) => outputs.get(call) as Outputs);
  }

  /** Outputs lie in the kept memory of the queue and of that number. */
  async runAll(shape: ExpertShape, calls: readonly Call[], at = 0, queue: ComputeQueue = "main"): Promise<readonly Outputs[]> {
    this.#device.assertOpen();
    const { segment } = shape;
    const [input, output] = endsOf(segment);
    const sized = calls.map((call) => {
      if (call.program.gone) throw new TypeError(`${segment.name} is run after it was disposed of`);
      const own = checkInputs(segment, call.inputs);
      return { call, own, addresses: call.program.addresses, rows: paddedRows(shape, own) };
    });
    const next = inPieces(this.#kept(`y${at} ${queue}`, output.width * totalOf(sized)));
    const outputs = new Map<Call, Outputs>();
    for (const part of inGraphs(shape, sized)) {
      const x = this.#kept(`x ${queue}`, input.width * totalOf(part));
      const y = next(output.width * totalOf(part));
      const [nextX, nextY] = [inPieces(x), inPieces(y)];
      for (const { call, own, rows } of part) {
        const data = call.inputs[input.name]?.data as Float32Array;
        const to = nextX(rows * input.width);
        to.set(data);
        to.fill(0, data.length);
        const from = nextY(rows * output.width).subarray(0, own * output.width);
        outputs.set(call, { [output.name]: { shape: [own, output.width], data: from } });
      }
      if (x.length === 0) continue;
      const graph = this.graphs.of(shape, part, hostEnds, queue);
      const running = graph.runInQueue((name) => (name === "x" ? x : zerosFor(name)));
      if (running) await running;
      graph.read("y", y);
    }
    return calls.map((call) => outputs.get(call) as Outputs);
  }
}
