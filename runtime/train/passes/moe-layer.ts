// A layer with experts as one rank runs it: its own micro-batches, and the rows of the experts that it hosts. A row block is one
// micro-batch's, and sums follow the order of a token's gates, so placement changes no bits.
import type { TrainableExpert, WeightViews } from "../../compute/training.ts";
import { floats, type Gradients, ints, type Values } from "../../kernels/kernel.ts";
import type { MoeLayer, Tensor } from "../../kernels/segment.ts";
import { widthBehind, widthInto } from "../../kernels/widths.ts";
import { type ExchangeName, exchange, gatherAll, piecesOf, type Reduce, reduce } from "../../net/collectives/collectives.ts";
import type { Stamp } from "../../net/collectives/transport.ts";
import type { Blocks } from "../../placement/training/blocks.ts";
import { chunkBlocks, chunkIn, expertOf } from "../../placement/training/chunks.ts";
import { intervalLength } from "../../placement/training/micro-batches.ts";
import type { Unit } from "../model/layout.ts";
import type { AccumulationStep } from "../ranks/accumulation-step.ts";
import type { RankMemory } from "../ranks/rank-memory.ts";
import { columnSums } from "../ranks/row-dealing.ts";
import { allOf, byExpert, ExpertCalls, ExpertSums, type MicroBatchGradient, summed } from "./expert-calls.ts";
import { addPlaces, gathered, type PlaceShape, packed, placesByExpert, type RowBlock, RowPlan, scatter, unpacked } from "./expert-rows.ts";
import { type DenseBlock, type Kept, type KeptBudget, keeping, type LayerPass, type RankLayer, rowsOf, takeMicroBatch } from "./layer.ts";

export interface LayerParts {
  readonly index: number;
  readonly layer: MoeLayer;
  readonly dense: DenseBlock;
  readonly expert: TrainableExpert;
  readonly experts: readonly Unit[];
  readonly slices: number;
  readonly memory: RankMemory;
  readonly frozen: WeightViews;
  /** Zeros of one expert's size, shared by layers. */
  readonly scratch: Float32Array;
}

interface MicroBatchPass {
  readonly values: Values;
  readonly kept: Kept | undefined;
  readonly f: Float32Array;
  readonly gates: Float32Array;
  readonly places: readonly (readonly number[])[];
  /** Rows of each expert, then of each free one. */
  readonly choices: Int32Array;
}

interface LayerRun {
  readonly accumulation: AccumulationStep;
  readonly stamp: Stamp;
  readonly blocks: Blocks;
  readonly plan: RowPlan;
  readonly microBatches: readonly MicroBatchPass[];
  readonly budget: KeptBudget | undefined;
  readonly calls: ExpertCalls;
}

interface Returned {
  readonly dRows: readonly Float32Array[];
  readonly dGates: readonly Float32Array[];
}

const none = new Float32Array();

export class RankMoeLayer implements RankLayer {
  readonly #parts: LayerParts;
  readonly #shape: PlaceShape;

  constructor(parts: LayerParts) {
    this.#parts = parts;
    this.#shape = { topK: parts.layer.topK, width: parts.layer.expert.inputs[0]?.width ?? 1 };
  }

  async forward(
    accumulation: AccumulationStep,
    xs: readonly Float32Array[],
    budget?: KeptBudget,
  ): Promise<{ ys: Float32Array[]; pass: LayerPass }> {
    const { layer, dense, experts, index } = this.#parts;
    const { width } = this.#shape;
    const [microBatches, ys]: [MicroBatchPass[], Float32Array[]] = [[], []];
    for (const x of xs) {
      accumulation.checkStop();
      const values = { x: rowsOf(x, widthInto(layer)) };
      const asked = { budget, rows: x.length / widthInto(layer), keeps: dense.block.keeps };
      const { found, kept } = await keeping(asked, (into) => dense.block.forward(values, dense.weights, into));
      const { h, ...written } = found;
      const all = placesByExpert(ints(written.ids as Tensor), experts.length + (layer.free?.count ?? 0));
      const choices = Int32Array.from(all, ({ length }) => length);
      const [f, gates] = [floats(written.f as Tensor), floats(written.gates as Tensor)];
      microBatches.push({ values: { ...values, ...written }, kept, f, gates, choices, places: all.slice(0, experts.length) });
      ys.push(floats(h as Tensor));
    }
    const choices = await this.#allCounts(accumulation, microBatches);
    const counts = choices.map((of) => of.subarray(0, experts.length));
    const { blocks, stamp } = await accumulation.dealing.deal(index, counts);
    const run = {
      accumulation,
      stamp,
      blocks,
      plan: new RowPlan(counts, blocks, accumulation.intervals),
      microBatches,
      budget,
      calls: this.#calls(accumulation, budget),
    };
    const outputs = microBatches.map(({ gates }) => new Float32Array(gates.length * width));
    const rows = await this.#expertsForward(run, outputs);
    for (const [i, y] of ys.entries()) addPlaces(y, outputs[i] as Float32Array, this.#shape, microBatches[i]?.gates);
    const backward: LayerPass["backward"] = (dys, beside) => this.#backward(run, rows, { dys, beside });
    return {
      ys,
      pass: { kept: microBatches.map(({ values }) => values), rows: columnSums(counts), choices: columnSums(choices), backward },
    };
  }

  async #expertsForward(run: LayerRun, outputs: readonly Float32Array[]): Promise<readonly Float32Array[]> {
    const { plan, accumulation } = run;
    const { rank } = accumulation.transport;
    const { width } = this.#shape;
    const named = { what: "rows", lengthFrom: (source: number) => width * rowsIn(plan.between(source, rank)) };
    const rowsFor = (host: number): Float32Array =>
      packed(plan.between(rank, host), (row) => gathered(this.#microBatch(run, row).f, this.#places(run, row), this.#shape));
    const [rows] = await Promise.all([this.#exchange(run, named, rowsFor), this.#ownForward(run, outputs)]);
    const answers = rows.map((frame) => new Float32Array(frame.length));
    const pieces = rows.flatMap((frame, source) => {
      const blocks = this.#from(run, source);
      const into = [...unpacked(blocks, width, answers[source] as Float32Array)];
      return [...unpacked(blocks, width, frame)].map(({ block, data }, i) => ({
        block,
        x: () => data,
        take: (y: Float32Array) => into[i]?.data.set(y),
      }));
    });
    await run.calls.forward(pieces.toSorted(byExpert));
    const back = { what: "outputs", lengthFrom: (host: number) => width * rowsIn(plan.between(rank, host)) };
    const returned = await this.#exchange(run, back, (source) => answers[source] as Float32Array);
    for (const [host, frame] of returned.entries())
      for (const { block, data } of unpacked(this.#away(run, host), width, frame))
        scatter(data, this.#places(run, block), width, outputs[accumulation.own(block.microBatch)] as Float32Array);
    return rows;
  }

  #ownForward(run: LayerRun, outputs: readonly Float32Array[]): Promise<void> {
    const { rank } = run.accumulation.transport;
    const pieces = run.plan.between(rank, rank).map((block) => {
      const places = this.#places(run, block);
      const into = outputs[run.accumulation.own(block.microBatch)] as Float32Array;
      return {
        block,
        x: () => gathered(this.#microBatch(run, block).f, places, this.#shape),
        take: (y: Float32Array) => scatter(y, places, this.#shape.width, into),
      };
    });
    return run.calls.forward(pieces);
  }

  #calls(accumulation: AccumulationStep, budget: KeptBudget | undefined): ExpertCalls {
    const { expert, experts, memory, index, frozen } = this.#parts;
    return new ExpertCalls({
      expert,
      width: this.#shape.width,
      budget,
      ask: () => accumulation.checkStop(),
      unit: (id) => experts[id] as Unit,
      weights: (id) => ({ ...memory.weights(index, id), ...frozen }),
    });
  }

  async #backward(run: LayerRun, rows: readonly Float32Array[], { dys, beside }: Gained): Promise<Float32Array[]> {
    const { dense, index, experts, memory, slices } = this.#parts;
    const { accumulation, microBatches, blocks } = run;
    const primaries = accumulation.primaries[index] ?? [];
    const { transport, carried } = accumulation;
    const sums = new ExpertSums({
      blocks,
      primaries,
      rank: transport.rank,
      carried,
      rowsInPlace: this.#parts.expert.rowsInPlace,
      scratch: this.#parts.scratch,
      floatsOf: (expert) => experts[expert]?.to ?? 0,
      own: (expert) => memory.own(index, expert, "g"),
    });
    const { dRows, dGates } = await this.#expertsBackward(run, { dys, rows, sums });
    const dxs: Float32Array[] = [];
    for (const [i, { values, kept, f }] of microBatches.entries()) {
      accumulation.checkStop();
      const df = new Float32Array(f.length);
      addPlaces(df, dRows[i] as Float32Array, this.#shape);
      const outputs = { ...beside[i], h: dys[i] as Float32Array, f: df, gates: dGates[i] as Float32Array };
      const call = { values, kept: kept?.values, outputs, weights: dense.weights, sums: dense.sums };
      dxs.push((await dense.block.backward(call)).x as Float32Array);
      if (kept) run.budget?.give(kept.floats);
      takeMicroBatch(dense, accumulation.numberOf(i));
    }
    const reduction: Reduce = {
      transport,
      stamp: run.stamp,
      layer: index,
      pieces: piecesOf((experts[0]?.to ?? 0) / slices),
      blocks: chunkBlocks(blocks, slices),
      primaries,
      carried,
      memory: (chunk) => memory.ownChunk(index, chunk, "g"),
      partials: (chunk) => sums.partials(expertOf(chunk, slices)).map((microBatch) => chunkIn(microBatch, chunk, slices)),
    };
    await accumulation.reduce(index, () => reduce(reduction));
    return dxs;
  }

  async #expertsBackward(run: LayerRun, given: ExpertsGiven): Promise<Returned> {
    const { plan, accumulation, microBatches } = run;
    const { dys, rows, sums } = given;
    const { rank } = accumulation.transport;
    const { width } = this.#shape;
    const named = { what: "gradients", lengthFrom: (source: number) => (width + 1) * rowsIn(plan.between(source, rank)) };
    const gradientsFor = (host: number): Float32Array =>
      packed(plan.between(rank, host), (row) => joinedRows(this.#dOut(run, dys, row), this.#gates(run, row)));
    const dRows = microBatches.map(({ gates }) => new Float32Array(gates.length * width));
    const dGates = microBatches.map(({ gates }) => new Float32Array(gates.length));
    const returned = { dRows, dGates };
    const others = new Set(rows.flatMap((_, source) => this.#from(run, source).map(({ expert }) => expert)));
    const [gradients, own] = await Promise.all([
      this.#exchange(run, named, gradientsFor),
      this.#ownBackward(run, { dys, sums, others, returned }),
    ]);
    const answers = gradients.map((frame) => new Float32Array(frame.length));
    const pieces = gradients.flatMap((frame, source) => {
      const blocks = this.#from(run, source);
      const inputs = [...unpacked(blocks, width, rows[source] as Float32Array)];
      const into = [...unpacked(blocks, width + 1, answers[source] as Float32Array)];
      return [...unpacked(blocks, width + 1, frame)].map(({ block, data }, i) => ({
        block,
        x: () => inputs[i]?.data as Float32Array,
        dOut: () => data.subarray(0, block.rows * width),
        gates: () => data.subarray(block.rows * width),
        take: (dx: Float32Array, dGates: Float32Array) => {
          into[i]?.data.set(dx);
          into[i]?.data.set(dGates, dx.length);
        },
      }));
    });
    const sorted = pieces.toSorted(byExpert);
    for (const expert of new Set(sorted.map(({ block }) => block.expert))) {
      const calls = run.calls.backward(sorted.filter(({ block }) => block.expert === expert));
      const mine = own.get(expert);
      if (mine !== undefined) await summed(sums, [...mine, ...(await allOf(calls))]);
      else for await (const gradients of calls) await summed(sums, gradients);
      own.delete(expert);
    }
    const back = { what: "row gradients", lengthFrom: (host: number) => (width + 1) * rowsIn(plan.between(rank, host)) };
    for (const [host, frame] of (await this.#exchange(run, back, (source) => answers[source] as Float32Array)).entries())
      for (const { block, data } of unpacked(this.#away(run, host), width + 1, frame)) {
        const [dx, gates] = [data.subarray(0, block.rows * width), data.subarray(block.rows * width)];
        this.#return(run, returned, { block, dx, dGates: gates });
      }
    return returned;
  }

  /** The own rows of experts that also have rows of others wait for those, since micro-batches are summed in order; they are returned. */
  async #ownBackward(run: LayerRun, { dys, sums, others, returned }: OwnGiven): Promise<Map<number, MicroBatchGradient[]>> {
    const { rank } = run.accumulation.transport;
    const pieces = run.plan.between(rank, rank).map((block) => ({
      block,
      x: () => gathered(this.#microBatch(run, block).f, this.#places(run, block), this.#shape),
      dOut: () => this.#dOut(run, dys, block),
      gates: () => this.#gates(run, block),
      take: (dx: Float32Array, dGates: Float32Array) => this.#return(run, returned, { block, dx, dGates }),
    }));
    const waiting = new Map<number, MicroBatchGradient[]>();
    for (const expert of new Set(pieces.map(({ block }) => block.expert))) {
      const here = pieces.filter(({ block }) => block.expert === expert);
      const calls = run.calls.backward(here);
      if (others.has(expert)) waiting.set(expert, await allOf(calls));
      else for await (const gradients of calls) await summed(sums, gradients);
    }
    return waiting;
  }

  #return(run: LayerRun, { dRows, dGates }: Returned, found: BlockGradients): void {
    const { block, dx } = found;
    const [places, own] = [this.#places(run, block), run.accumulation.own(block.microBatch)];
    scatter(dx, places, this.#shape.width, dRows[own] as Float32Array);
    for (const [i, place] of places.entries()) (dGates[own] as Float32Array)[place] = found.dGates[i] as number;
  }

  /**
   * choices[micro-batch][expert], free ones last, of all micro-batches of the accumulation step. Throws PassStopped on all ranks where
   * one asks.
   */
  async #allCounts(accumulation: AccumulationStep, microBatches: readonly MicroBatchPass[]): Promise<Int32Array[]> {
    const { transport, stamp, intervals } = accumulation;
    const count = this.#parts.experts.length + (this.#parts.layer.free?.count ?? 0);
    const own = new Int32Array(1 + count * intervalLength(intervals[transport.rank]));
    own[0] = Number(accumulation.wantsStop());
    for (const [microBatch, { choices }] of microBatches.entries()) own.set(choices, 1 + microBatch * count);
    const lengthFrom = (rank: number): number => 1 + count * intervalLength(intervals[rank]);
    const all = await gatherAll(transport, stamp, { what: "counts", layer: this.#parts.index, lengthFrom }, own);
    if (all.some(([stop]) => stop !== 0)) accumulation.stop();
    return all.flatMap((part) =>
      Array.from({ length: (part.length - 1) / count }, (_, i) => part.subarray(1 + i * count, 1 + (i + 1) * count)),
    );
  }

  #exchange(
    { accumulation, stamp }: LayerRun,
    name: Omit<ExchangeName, "layer">,
    frameFor: (rank: number) => Float32Array,
  ): Promise<Float32Array[]> {
    const { rank, ranks } = accumulation.transport;
    const parts = Array.from({ length: ranks }, (_, to) => (to === rank ? none : frameFor(to)));
    return exchange(accumulation.transport, stamp, { ...name, layer: this.#parts.index }, parts);
  }

  #from({ plan, accumulation: { transport } }: LayerRun, source: number): readonly RowBlock[] {
    return source === transport.rank ? [] : plan.between(source, transport.rank);
  }

  #away({ plan, accumulation: { transport } }: LayerRun, host: number): readonly RowBlock[] {
    return host === transport.rank ? [] : plan.between(transport.rank, host);
  }

  #microBatch({ microBatches, accumulation }: LayerRun, { microBatch }: RowBlock): MicroBatchPass {
    return microBatches[accumulation.own(microBatch)] as MicroBatchPass;
  }

  #places(run: LayerRun, row: RowBlock): readonly number[] {
    return this.#microBatch(run, row).places[row.expert] ?? [];
  }

  #gates(run: LayerRun, row: RowBlock): Float32Array {
    const { gates } = this.#microBatch(run, row);
    return Float32Array.from(this.#places(run, row), (place) => gates[place] as number);
  }

  #dOut(run: LayerRun, dys: readonly Float32Array[], row: RowBlock): Float32Array {
    return gathered(
      dys[run.accumulation.own(row.microBatch)] as Float32Array,
      this.#places(run, row),
      this.#shape,
      widthBehind(this.#parts.layer),
    );
  }
}

interface Gained {
  readonly dys: readonly Float32Array[];
  readonly beside: readonly Gradients[];
}

interface ExpertsGiven {
  readonly dys: readonly Float32Array[];
  readonly rows: readonly Float32Array[];
  readonly sums: ExpertSums;
}

interface OwnGiven extends Omit<ExpertsGiven, "rows"> {
  readonly others: ReadonlySet<number>;
  readonly returned: Returned;
}

interface BlockGradients {
  readonly block: RowBlock;
  readonly dx: Float32Array;
  readonly dGates: Float32Array;
}

const rowsIn = (blocks: readonly RowBlock[]): number => blocks.reduce((sum, { rows }) => sum + rows, 0);

/** Rows, then one number for each. */
function joinedRows(rows: Float32Array, each: Float32Array): Float32Array {
  const joined = new Float32Array(rows.length + each.length);
  joined.set(rows);
  joined.set(each, rows.length);
  return joined;
}
