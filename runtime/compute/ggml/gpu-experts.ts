// Experts of a GPU: one slab per layer, and one operation for the rows of all experts (../DECISIONS.md 5).
import type { OpName, Segment, Tensor } from "../../kernels/segment.ts";
import type { WeightForms, Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { Compiled, ExpertSlab, Inputs, Outputs } from "../backend.ts";
import { checkInputs } from "../call-checks.ts";
import type { GgmlDevice } from "./device.ts";
import { formsOf, partsOf } from "./expert-matrices.ts";
import { buildGraph, type Graph, type Value } from "./graph.ts";
import type { SlabHolder } from "./layer-parts.ts";
import { isOutOfMemory } from "./out-of-memory.ts";
import { lowerOps } from "./program.ts";
import { Recent } from "./recent.ts";
import { Slab } from "./slab.ts";
import { weightBytes } from "./types.ts";

const triedRows = [1, 32];
const graphsMax = 16;
const nodesPerOp = 5;
/** A slab grows by this part of a layer's experts, one of further forms by this part of its own; it shrinks when two parts are empty. */
const stepsOfLayer = 8;

const rowOps: ReadonlySet<OpName> = new Set<OpName>(["matMul", "addRow", "add", "siluMul", "clampedSwiglu"]);

/** True for a segment of row-wise ops with no weights but its own. */
export function isExpert({ ops, inputs, outputs }: Segment): boolean {
  const plain = inputs.length === 1 && outputs.length === 1 && inputs[0]?.dtype === "f32" && (inputs[0]?.width ?? 0) > 0;
  return plain && ops.every(({ op }) => rowOps.has(op)) && ops.some(({ op }) => op === "matMul");
}

interface Call {
  readonly program: Expert;
  readonly inputs: Inputs;
}

interface Batch {
  readonly expertSlab: GpuExpertSlab;
  readonly calls: readonly { readonly slot: number; readonly x: Float32Array; readonly rows: number; readonly at: number }[];
  readonly rows: number;
}

class Expert implements Compiled {
  readonly residentBytes: number;
  readonly expertSlab: GpuExpertSlab;
  slot: number;
  readonly #experts: Experts;
  #disposed = false;

  constructor(experts: Experts, expertSlab: GpuExpertSlab, { slot, bytes }: { readonly slot: number; readonly bytes: number }) {
    this.#experts = experts;
    this.expertSlab = expertSlab;
    this.slot = slot;
    this.residentBytes = bytes;
  }

  async run(inputs: Inputs): Promise<Outputs> {
    return this.#experts.run([{ program: this, inputs }])[0] as Outputs;
  }

  /** Idempotent, since the slot may belong to another expert later. */
  async dispose(): Promise<void> {
    if (!this.#disposed) this.expertSlab.drop(this);
    this.#disposed = true;
  }
}

class GpuExpertSlab implements ExpertSlab {
  readonly copies = true;
  readonly segment: Segment;
  readonly graphs = new Recent<Graph>(graphsMax, (graph) => graph.free());
  readonly #device: GgmlDevice;
  readonly #experts: Experts;
  readonly #count: number;
  /** The slab that had no place for the experts of this one. */
  #without: GpuExpertSlab | undefined;
  /** Slabs of experts in other forms than the first. */
  readonly #others = new Map<string, GpuExpertSlab>();
  readonly #here = new Map<number, Expert>();
  #key: string | undefined;
  #slab: Slab | undefined;
  /** Experts elsewhere. */
  #apart = 0;

  constructor(device: GgmlDevice, experts: Experts, segment: Segment, count: number) {
    this.segment = segment;
    this.#device = device;
    this.#experts = experts;
    this.#count = count;
  }

  /** Slots. A layer of many forms has few of each. */
  get step(): number {
    return Math.ceil((this.#without === undefined ? this.#count : (this.#slab?.slots ?? 1)) / stepsOfLayer);
  }

  async put(expert: number, weights: Weights): Promise<Compiled> {
    return this.place(expert, weights);
  }

  place(expert: number, weights: Weights): Expert {
    const forms = formsOf(this.segment, weights);
    const key = JSON.stringify(forms);
    this.#key ??= key;
    if (this.#key !== key) return this.#placeIn(this.#other(key), expert, weights);
    const slab = this.#here.has(expert) ? undefined : this.#allocate(forms);
    // A duplicate gets memory of its own.
    if (slab === undefined) return this.#placeIn(this.#experts.expertSlab(this.segment, 1), 0, weights);
    const slot = slab.slots === this.#count ? expert : slab.empty;
    slab.put(slot, weights);
    const made = new Expert(this.#experts, this, { slot, bytes: slab.expertBytes });
    this.#here.set(expert, made);
    return made;
  }

  #other(key: string): GpuExpertSlab {
    const other = this.#others.get(key) ?? this.#experts.expertSlab(this.segment, this.#count);
    this.#others.set(key, other);
    return other;
  }

  #placeIn(other: GpuExpertSlab, expert: number, weights: Weights): Expert {
    other.#without = this;
    const placed = other.place(expert, weights);
    this.#apart += 1;
    return placed;
  }

  apart(change: 1 | -1): void {
    this.#apart += change;
  }

  drop(expert: Expert): void {
    const slab = this.slab;
    slab.drop(expert.slot);
    for (const [number, each] of this.#here) if (each === expert) this.#here.delete(number);
    for (let above = this.#without; above !== undefined; above = above.#without) above.#apart -= 1;
    if (slab.used === 0) this.#free();
    else if (slab.used <= slab.slots - 2 * this.step) this.#shrink(slab.slots - this.step);
  }

  get slab(): Slab {
    if (this.#slab === undefined) throw new TypeError(`${this.segment.name} is used after it was disposed of`);
    return this.#slab;
  }

  /** Undefined while some experts are missing. */
  get whole(): Slab | undefined {
    return this.#slab?.used === this.#count ? this.#slab : undefined;
  }

  get parted(): SlabHolder["parted"] {
    return this.#apart > 0 ? undefined : { slab: this.#slab, slotOf: (expert) => this.#here.get(expert)?.slot };
  }

  #allocate(forms: WeightForms): Slab | undefined {
    try {
      this.#slab ??= this.#first(forms);
      if (this.#slab.empty < 0) this.#resize(Math.min(this.#count, this.#slab.slots + this.step));
      return this.#slab;
    } catch (caught) {
      if (this.#count === 1 || !isOutOfMemory(caught)) throw caught;
      return undefined;
    }
  }

  /** Detects missing operations here, not in a request. */
  #first(forms: WeightForms): Slab {
    const slab = new Slab(this.#device, partsOf(this.#device, this.segment, forms), Math.min(this.#count, this.step));
    try {
      for (const rows of triedRows) this.#experts.together(this.segment, slab, rows).free();
      return slab;
    } catch (caught) {
      slab.free();
      throw caught;
    }
  }

  #shrink(slots: number): void {
    try {
      this.#resize(slots);
    } catch (caught) {
      if (!isOutOfMemory(caught)) throw caught;
    }
  }

  #resize(slots: number): void {
    const [old, made] = [this.slab, new Slab(this.#device, this.slab.parts, slots)];
    const moved = new Map<Expert, number>();
    try {
      for (const [number, expert] of this.#here) {
        const slot = slots === this.#count ? number : made.empty;
        made.take(slot, old, expert.slot);
        moved.set(expert, slot);
      }
    } catch (caught) {
      made.free();
      throw caught;
    }
    this.#free();
    this.#slab = made;
    for (const [expert, slot] of moved) expert.slot = slot;
  }

  #free(): void {
    this.graphs.clear();
    this.#slab?.free();
    this.#slab = undefined;
  }
}

export class Experts {
  readonly #device: GgmlDevice;

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  expertSlab(segment: Segment, experts: number): GpuExpertSlab {
    return new GpuExpertSlab(this.#device, this, segment, experts);
  }

  bytesOf(segment: Segment, forms: WeightForms): number {
    return segment.weights.reduce((sum, { name, shape }) => sum + weightBytes(forms[name] ?? "f32", shape), 0);
  }

  /** Results come in the order of the calls; undefined where some belong to another backend. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): readonly Outputs[] | undefined {
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof Expert ? [{ program, inputs }] : []));
    return experts.length === calls.length ? this.run(experts) : undefined;
  }

  run(calls: readonly Call[]): readonly Outputs[] {
    const outputs = new Array<Outputs>(calls.length);
    for (const batch of batchesOf(calls)) {
      const [output] = batch.expertSlab.segment.outputs as [Segment["outputs"][number]];
      const rows = this.#compute(batch, output.width);
      let first = 0;
      for (const { at, rows: count } of batch.calls) {
        const data = rows.subarray(first * output.width, (first + count) * output.width);
        const tensor: Tensor = { shape: [count, output.width], data };
        outputs[at] = { [output.name]: tensor };
        first += count;
      }
    }
    return outputs;
  }

  #compute({ expertSlab, calls, rows }: Batch, width: number): Float32Array {
    const out = new Float32Array(rows * width);
    if (rows === 0) return out;
    const graph = expertSlab.graphs.take(
      `${rows}`,
      ({ valid }) => valid,
      () => this.together(expertSlab.segment, expertSlab.slab, rows),
    );
    const slots = Int32Array.from(calls.flatMap(({ slot, rows: count }) => new Array<number>(count).fill(slot)));
    const x = joined(calls.map((call) => call.x));
    graph.run((name) => (name === "x" ? x : slots));
    graph.read("y", out);
    return out;
  }

  /** One operation for all experts: the graph input `slots` assigns rows to slots. */
  together(segment: Segment, slab: Slab, rows: number): Graph {
    const { input, output } = endsOf(segment);
    return buildGraph(this.#device, nodesPerOp * segment.ops.length + 2, (build) => {
      const x = build.input("x", "f32", [input.width, rows]);
      const weights = slab.of({ ids: build.input("slots", "i32", [1, rows]), k: 1, rows, shared: x });
      const values = new Map<string, Value>([[input.name, x]]);
      lowerOps(build, segment.ops, values, { rows, weights, widths: widthsOf(segment) });
      return { y: values.get(output.name) as Value };
    });
  }
}

type End = Segment["inputs"][number];

function endsOf({ inputs, outputs }: Segment): { readonly input: End; readonly output: End } {
  return { input: inputs[0] as End, output: outputs[0] as End };
}

function batchesOf(calls: readonly Call[]): Batch[] {
  const bySlab = new Map<GpuExpertSlab, Batch["calls"][number][]>();
  for (const [at, { program, inputs }] of calls.entries()) {
    const { segment } = program.expertSlab;
    const rows = checkInputs(segment, inputs);
    const x = inputs[segment.inputs[0]?.name ?? ""]?.data as Float32Array;
    const batch = bySlab.get(program.expertSlab) ?? [];
    bySlab.set(program.expertSlab, batch);
    batch.push({ slot: program.slot, x, rows, at });
  }
  return [...bySlab].map(([expertSlab, batch]) => ({ expertSlab, calls: batch, rows: batch.reduce((sum, { rows }) => sum + rows, 0) }));
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const [first] = parts;
  if (parts.length === 1 && first !== undefined) return first;
  const out = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
