// A layer with experts as one rank runs it: its own lanes' block, and the rows of experts that it hosts, whoever has their tokens. Each
// block of rows is one lane's, as on a single rank, so placement changes no bits.
import { type ExchangeName, exchange, gatherAll, piecesOf, reduce } from "../../comm/collectives.ts";
import type { Stamp, Transport } from "../../comm/transport.ts";
import type { TrainableExpert, TrainableSegment } from "../../compute/training.ts";
import { floats, ints, type Values } from "../../kernels/kernel.ts";
import type { MoeLayer, Tensor } from "../../kernels/segment.ts";
import { widthBehind, widthInto } from "../../kernels/widths.ts";
import type { Blocks } from "../../placement/training/blocks.ts";
import { type Interval, lanesIn } from "../../placement/training/lanes.ts";
import type { DenseSums } from "../dense-sums.ts";
import { rowsOf } from "../layers.ts";
import { movedTo, type Unit, viewsOf } from "../layout.ts";
import { addPlaces, gathered, type PlaceShape, placesByExpert, scatter } from "../rows.ts";
import { packed, type RowBlock, RowPlan, unpacked } from "./expert-rows.ts";
import type { RankMemory } from "./memory.ts";

/** What a layer sees of the step that it is part of. */
export interface StepView {
  readonly transport: Transport;
  readonly stamp: Stamp;
  /** Lanes of each rank. */
  readonly intervals: readonly Interval[];
  readonly homes: readonly (readonly number[])[];
  /** Deals a layer's rows to hosts, once the experts' parameters are in their memory. */
  deal(layer: number, counts: readonly Int32Array[]): Promise<Dealt>;
}

/** Who computes a layer's rows, and the stamp of the frames that follow from it. */
export interface Dealt {
  readonly blocks: Blocks;
  readonly stamp: Stamp;
}

export interface LayerParts {
  readonly index: number;
  readonly layer: MoeLayer;
  readonly block: TrainableSegment;
  readonly expert: TrainableExpert;
  /** The dense unit in the rank's dense array, and where its gradients go. */
  readonly dense: Unit;
  readonly sums: DenseSums;
  readonly experts: readonly Unit[];
  readonly memory: RankMemory;
}

interface LanePass {
  readonly values: Values;
  readonly f: Float32Array;
  readonly gates: Float32Array;
  readonly places: readonly (readonly number[])[];
}

/** What backward needs of forward. */
interface Kept extends Dealt {
  readonly lanes: readonly LanePass[];
  readonly plan: RowPlan;
  /** Rows that this rank computed, by the rank that they came from, one after another. */
  readonly rows: readonly Float32Array[];
}

export class RankMoeLayer {
  readonly #parts: LayerParts;
  readonly #shape: PlaceShape;
  #kept: Kept | undefined;

  constructor(parts: LayerParts) {
    this.#parts = parts;
    this.#shape = { topK: parts.layer.topK, width: parts.layer.expert.inputs[0]?.width ?? 1 };
  }

  get #weights() {
    return viewsOf(this.#parts.memory.dense, this.#parts.dense);
  }

  async forward(view: StepView, xs: readonly Float32Array[]): Promise<Float32Array[]> {
    const { layer, block, experts, index, expert, memory } = this.#parts;
    const { width } = this.#shape;
    const [lanes, ys]: [LanePass[], Float32Array[]] = [[], []];
    for (const x of xs) {
      const values = { x: rowsOf(x, widthInto(layer)) };
      const { h, ...written } = await block.forward(values, this.#weights);
      const { f, gates, ids } = written;
      const places = placesByExpert(ints(ids as Tensor), experts.length);
      lanes.push({ values: { ...values, ...written }, f: floats(f as Tensor), gates: floats(gates as Tensor), places });
      ys.push(floats(h as Tensor));
    }
    const counts = await this.#allCounts(view, lanes);
    const { blocks, stamp } = await view.deal(index, counts);
    const step = { ...view, stamp };
    const plan = new RowPlan(counts, blocks, step.intervals);
    const { rank } = step.transport;
    const rows = await this.#send(step, { what: "rows", lengthFrom: (source) => width * rowsIn(plan.between(source, rank)) }, (host) =>
      packed(plan.between(step.transport.rank, host), (row) =>
        gathered(this.#pass(step, lanes, row).f, this.#placesOf(step, lanes, row), this.#shape),
      ),
    );
    const computed: Float32Array[] = [];
    for (const [source, frame] of rows.entries()) {
      const results = new Map<RowBlock, Float32Array>();
      for (const { block: row, data } of unpacked(plan.between(source, step.transport.rank), width, frame))
        results.set(row, await expert.forward(data, memory.weights(index, row.expert)));
      computed.push(packed([...results.keys()], (row) => results.get(row) as Float32Array));
    }
    const outputs = lanes.map(({ gates }) => new Float32Array(gates.length * width));
    const named = { what: "outputs", lengthFrom: (host: number) => width * rowsIn(plan.between(rank, host)) };
    const answers = await this.#send(step, named, (source) => computed[source] as Float32Array);
    for (const [host, frame] of answers.entries())
      for (const { block: row, data } of unpacked(plan.between(step.transport.rank, host), width, frame))
        scatter(data, this.#placesOf(step, lanes, row), width, outputs[row.lane - this.#first(step)] as Float32Array);
    for (const [i, y] of ys.entries()) addPlaces(y, outputs[i] as Float32Array, this.#shape, lanes[i]?.gates);
    this.#kept = { lanes, plan, blocks, stamp, rows };
    return ys;
  }

  async backward(view: StepView, dys: readonly Float32Array[]): Promise<Float32Array[]> {
    const kept = this.#kept as Kept;
    const step = { ...view, stamp: kept.stamp };
    this.#kept = undefined;
    const { layer, block, dense, sums } = this.#parts;
    const { width } = this.#shape;
    const { lanes, plan } = kept;
    const own = (row: RowBlock): number => row.lane - this.#first(step);
    const { rank } = step.transport;
    const named = { what: "gradients", lengthFrom: (source: number) => (width + 1) * rowsIn(plan.between(source, rank)) };
    const gradients = await this.#send(step, named, (host) =>
      packed(plan.between(step.transport.rank, host), (row) => {
        const places = this.#placesOf(step, lanes, row);
        const { gates } = lanes[own(row)] as LanePass;
        return joinedRows(
          gathered(dys[own(row)] as Float32Array, places, this.#shape, widthBehind(layer)),
          Float32Array.from(places, (place) => gates[place] as number),
        );
      }),
    );
    const { answers, partials } = await this.#expertsBackward(step, kept, gradients);
    const dRows = lanes.map(({ gates }) => new Float32Array(gates.length * width));
    const dGates = lanes.map(({ gates }) => new Float32Array(gates.length));
    const back = { what: "row gradients", lengthFrom: (host: number) => (width + 1) * rowsIn(plan.between(rank, host)) };
    for (const [host, frame] of (await this.#send(step, back, (source) => answers[source] as Float32Array)).entries())
      for (const { block: row, data } of unpacked(plan.between(step.transport.rank, host), width + 1, frame)) {
        const places = this.#placesOf(step, lanes, row);
        scatter(data.subarray(0, row.rows * width), places, width, dRows[own(row)] as Float32Array);
        for (const [i, place] of places.entries()) (dGates[own(row)] as Float32Array)[place] = data[row.rows * width + i] as number;
      }
    const dxs: Float32Array[] = [];
    for (const [i, { values, f }] of lanes.entries()) {
      const df = new Float32Array(f.length);
      addPlaces(df, dRows[i] as Float32Array, this.#shape);
      const outputs = { h: dys[i] as Float32Array, f: df, gates: dGates[i] as Float32Array };
      const call = { values, outputs, weights: this.#weights, sums: viewsOf(sums.scratch, movedTo(dense, 0)) };
      dxs.push((await block.backward(call)).x as Float32Array);
      sums.take(this.#first(step) + i);
    }
    await this.#reduce(step, kept.blocks, partials);
    return dxs;
  }

  async #expertsBackward({ transport }: StepView, { plan, rows }: Kept, gradients: readonly Float32Array[]) {
    const { expert, experts, index, memory } = this.#parts;
    const { width } = this.#shape;
    /** Of each expert, by lane. */
    const partials = new Map<number, Map<number, Float32Array>>();
    const answers: Float32Array[] = [];
    for (const [source, frame] of gradients.entries()) {
      const blocks = plan.between(source, transport.rank);
      const inputs = unpacked(blocks, width, rows[source] as Float32Array);
      const results = new Map<RowBlock, Float32Array>();
      for (const { block: row, data } of unpacked(blocks, width + 1, frame)) {
        const unit = experts[row.expert] as Unit;
        const sum = new Float32Array(unit.to);
        const found = await expert.backward({
          x: inputs.next().value?.data as Float32Array,
          gates: data.subarray(row.rows * width),
          dOut: data.subarray(0, row.rows * width),
          weights: memory.weights(index, row.expert),
          sums: viewsOf(sum, unit),
        });
        results.set(row, joinedRows(found.dx, found.dGates));
        const lanes = partials.get(row.expert) ?? new Map<number, Float32Array>();
        partials.set(row.expert, lanes.set(row.lane, sum));
      }
      answers.push(packed(blocks, (row) => results.get(row) as Float32Array));
    }
    return { answers, partials };
  }

  async #reduce({ transport, stamp, homes }: StepView, blocks: Blocks, partials: ReadonlyMap<number, ReadonlyMap<number, Float32Array>>) {
    const { index, experts, memory } = this.#parts;
    await reduce({
      transport,
      stamp,
      layer: index,
      pieces: piecesOf(experts[0]?.to ?? 0),
      blocks,
      homes: homes[index] ?? [],
      memory: (chunk) => memory.own(index, chunk, "g"),
      partials: (chunk) => [...(partials.get(chunk) ?? [])].sort(([a], [b]) => a - b).map(([, sum]) => sum),
    });
  }

  /** counts[lane][expert] of all lanes. */
  async #allCounts({ transport, stamp, intervals }: StepView, lanes: readonly LanePass[]): Promise<Int32Array[]> {
    const count = this.#parts.experts.length;
    const own = Int32Array.from(lanes.flatMap(({ places }) => places.map((list) => list.length)));
    const lengthFrom = (rank: number): number => count * lanesIn(intervals[rank]);
    const all = await gatherAll(transport, stamp, { what: "counts", layer: this.#parts.index, lengthFrom }, own);
    return all.flatMap((part) => Array.from({ length: part.length / count }, (_, i) => part.subarray(i * count, (i + 1) * count)));
  }

  #send(
    { transport, stamp }: StepView,
    name: Omit<ExchangeName, "layer">,
    frameFor: (rank: number) => Float32Array,
  ): Promise<Float32Array[]> {
    const parts = Array.from({ length: transport.ranks }, (_, rank) => frameFor(rank));
    return exchange(transport, stamp, { ...name, layer: this.#parts.index }, parts);
  }

  #first({ transport, intervals }: StepView): number {
    return intervals[transport.rank]?.from ?? 0;
  }

  #pass(step: StepView, lanes: readonly LanePass[], { lane }: RowBlock): LanePass {
    return lanes[lane - this.#first(step)] as LanePass;
  }

  #placesOf(step: StepView, lanes: readonly LanePass[], row: RowBlock): readonly number[] {
    return this.#pass(step, lanes, row).places[row.expert] ?? [];
  }
}

const rowsIn = (blocks: readonly RowBlock[]): number => blocks.reduce((sum, { rows }) => sum + rows, 0);

/** Rows, then one number for each. */
function joinedRows(rows: Float32Array, each: Float32Array): Float32Array {
  const joined = new Float32Array(rows.length + each.length);
  joined.set(rows);
  joined.set(each, rows.length);
  return joined;
}
