// The experts of a GPU: in slabs by shape and type, and the calls of many at once through one operation for all, since each start of a
// kernel costs more there than a row. Those of the processor run one after another (singles.ts).
import type { OpName, Segment, Tensor } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { Compiled, Inputs, Outputs } from "../backend.ts";
import { checkInputs } from "../check.ts";
import type { GgmlDevice } from "./device.ts";
import { buildGraph, type Graph, type Value } from "./graph.ts";
import { lowerOps } from "./program.ts";
import { Recent } from "./recent.ts";
import { Slab, type Slot } from "./slab.ts";
import { weightBytes } from "./types.ts";

/** Rows of a decode step and of a prefill, for which an operation may have kernels of its own. */
const triedRows = [1, 32];
/** Graphs kept for each slab, by number of rows. */
const graphsMax = 16;
const nodesPerOp = 4;

/** Ops of segments that many experts can run at once. */
const rowOps: ReadonlySet<OpName> = new Set<OpName>(["matMul", "addRow", "add", "siluMul", "clampedSwiglu"]);

/** True for a segment that may lie in a slab: rows in, rows out, and nothing but weights of its own. */
export function isExpert({ ops, inputs, outputs }: Segment): boolean {
  const plain = inputs.length === 1 && outputs.length === 1 && inputs[0]?.dtype === "f32" && (inputs[0]?.width ?? 0) > 0;
  return plain && ops.every(({ op }) => rowOps.has(op)) && ops.some(({ op }) => op === "matMul");
}

interface Place {
  readonly slab: Slab;
  readonly graphs: Recent<Graph>;
}

interface Call {
  readonly program: Expert;
  readonly inputs: Inputs;
}

/** Calls whose experts lie in one slab, and where their answers go. */
interface Batch {
  readonly place: Place;
  readonly calls: readonly { readonly slot: number; readonly x: Float32Array; readonly rows: number; readonly at: number }[];
  readonly rows: number;
}

class Expert implements Compiled {
  readonly residentBytes: number;
  readonly segment: Segment;
  readonly place: Place;
  readonly slot: Slot;
  readonly #experts: Experts;
  #disposed = false;

  constructor(experts: Experts, place: Place, slot: Slot) {
    this.#experts = experts;
    this.place = place;
    this.slot = slot;
    this.segment = slot.slab.segment;
    this.residentBytes = slot.slab.expertBytes;
  }

  async run(inputs: Inputs): Promise<Outputs> {
    return this.#experts.run([{ program: this, inputs }])[0] as Outputs;
  }

  /** A second time it does nothing: the slot may be another's by then. */
  async dispose(): Promise<void> {
    if (!this.#disposed) this.#experts.drop(this);
    this.#disposed = true;
  }
}

export class Experts {
  readonly #device: GgmlDevice;
  readonly #places = new Map<string, Place[]>();

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  put(segment: Segment, weights: Weights): Expert {
    const key = JSON.stringify([segment.ops, segment.weights.map(({ name, shape }) => [name, shape, (weights[name] as WeightData).form])]);
    const places = this.#places.get(key) ?? [];
    this.#places.set(key, places);
    let place = places.find(({ slab }) => !slab.full);
    if (place === undefined) {
      const slab = new Slab(this.#device, segment, weights);
      this.#tryOut(slab);
      place = { slab, graphs: new Recent<Graph>(graphsMax, (graph) => graph.free()) };
      places.push(place);
    }
    return new Expert(this, place, place.slab.put(weights));
  }

  drop({ place, slot }: Expert): void {
    place.slab.drop(slot.index);
    if (!place.slab.empty) return;
    place.graphs.clear();
    place.slab.free();
    for (const places of this.#places.values()) if (places.includes(place)) places.splice(places.indexOf(place), 1);
  }

  /** Bytes of an expert whose matrices and biases have these forms. */
  bytesOf(segment: Segment, forms: WeightForms): number {
    return segment.weights.reduce((sum, { name, shape }) => sum + weightBytes(forms[name] ?? "f32", shape), 0);
  }

  /** Answers in the order of the calls; undefined where some are of something else. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): readonly Outputs[] | undefined {
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof Expert ? [{ program, inputs }] : []));
    return experts.length === calls.length ? this.run(experts) : undefined;
  }

  run(calls: readonly Call[]): readonly Outputs[] {
    const outputs = new Array<Outputs>(calls.length);
    for (const batch of batchesOf(calls)) {
      const { segment } = batch.place.slab;
      const [output] = segment.outputs as [Segment["outputs"][number]];
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

  #compute(batch: Batch, width: number): Float32Array {
    const out = new Float32Array(batch.rows * width);
    if (batch.rows === 0) return out;
    const { slab, graphs } = batch.place;
    const graph = graphs.take(
      `${batch.rows}`,
      ({ valid }) => valid,
      () => this.#together(slab, batch.rows),
    );
    const slots = Int32Array.from(batch.calls.flatMap(({ slot, rows }) => new Array<number>(rows).fill(slot)));
    const x = joined(batch);
    graph.run((name) => (name === "x" ? x : slots));
    graph.read("y", out);
    return out;
  }

  /** Refuses here what the device lacks, and not in a request. */
  #tryOut(slab: Slab): void {
    try {
      for (const rows of triedRows) this.#together(slab, rows).free();
    } catch (caught) {
      slab.free();
      throw caught;
    }
  }

  /** One operation for the rows of all experts. */
  #together(slab: Slab, rows: number): Graph {
    const { segment } = slab;
    const { input, output } = endsOf(segment);
    return buildGraph(this.#device, nodesPerOp * segment.ops.length + 2, (build) => {
      const values = new Map<string, Value>([[input.name, build.input("x", "f32", [input.width, rows])]]);
      lowerOps(build, segment.ops, values, { rows, weights: slab.ofSlots(), widths: widthsOf(segment) });
      return { y: values.get(output.name) as Value };
    });
  }
}

type End = Segment["inputs"][number];

function endsOf({ inputs, outputs }: Segment): { readonly input: End; readonly output: End } {
  return { input: inputs[0] as End, output: outputs[0] as End };
}

function batchesOf(calls: readonly Call[]): Batch[] {
  const byPlace = new Map<Place, Batch["calls"][number][]>();
  for (const [at, { program, inputs }] of calls.entries()) {
    const rows = checkInputs(program.segment, inputs);
    const x = inputs[program.segment.inputs[0]?.name ?? ""]?.data as Float32Array;
    const batch = byPlace.get(program.place) ?? [];
    byPlace.set(program.place, batch);
    batch.push({ slot: program.slot.index, x, rows, at });
  }
  return [...byPlace].map(([place, batch]) => ({ place, calls: batch, rows: batch.reduce((sum, { rows }) => sum + rows, 0) }));
}

function joined({ calls }: Batch): Float32Array {
  const first = calls[0] as Batch["calls"][number];
  if (calls.length === 1) return first.x;
  const out = new Float32Array(calls.reduce((sum, { x }) => sum + x.length, 0));
  let at = 0;
  for (const { x } of calls) {
    out.set(x, at);
    at += x.length;
  }
  return out;
}
