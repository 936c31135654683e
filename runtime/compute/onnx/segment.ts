// Compiled segments: rows in and out, weights and sums as views, host ops around the graphs. A single row is computed as two.
import { keptValues, kernelOf } from "../../kernels/index.ts";
import { floats, type Gradients, type OpContext, type Values } from "../../kernels/kernel.ts";
import type { Segment, Tensor } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import {
  type BackwardCall,
  type ExpertCall,
  type KeptRows,
  type KeptValue,
  type LossCall,
  lossRows,
  type TrainableExpert,
  type TrainableLoss,
  type TrainableSegment,
  type WeightViews,
} from "../training.ts";
import { type CallBounds, graphName, type Handed, type Split } from "./lower.ts";
import { ruleOf } from "./rules/index.ts";
import type { Feed, Session } from "./session.ts";

export interface Graphs {
  readonly forward: Session;
  readonly backward: Session;
  readonly handed: readonly Handed[];
}

export interface ExpertGraphs extends Graphs {
  readonly sums: Session;
  readonly passed: readonly Handed[];
}

export interface Ways<G extends Graphs> {
  /** Floats per row. */
  readonly keeps: number;
  open(keeping: boolean): Promise<G>;
}

/** A segment with its graphs; a host-only segment has none. */
export interface Parts<G extends Graphs = Graphs> {
  readonly segment: Segment;
  readonly split: Split;
  readonly ways: Ways<G> | undefined;
  /** Renames the caller's views to this segment's names. */
  own(views: WeightViews): WeightViews;
}

export type Whole<G extends Graphs> = Parts<G> & { readonly ways: Ways<G> };

const rowsMin = 2;

/** Adds a zero row to a single one. */
function padded(data: Float32Array, rows: number): Float32Array {
  if (rows >= rowsMin) return data;
  const wide = new Float32Array((data.length / rows) * rowsMin);
  wide.set(data);
  return wide;
}

class Call {
  readonly #rows: number;
  readonly #shapes: ReadonlyMap<string, readonly number[]>;
  readonly feeds: Record<string, Feed> = {};
  readonly outputs: Record<string, Feed> = {};

  constructor(segment: Segment, rows: number) {
    this.#rows = rows;
    this.#shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  }

  rowsIn(name: string, data: Float32Array): void {
    const wide = padded(data, this.#rows);
    const rows = Math.max(rowsMin, this.#rows);
    this.feeds[name] = { dims: [rows, wide.length / rows], data: wide };
  }

  rowsOut(name: string, width: number): Float32Array {
    const rows = Math.max(rowsMin, this.#rows);
    const data = new Float32Array(rows * width);
    this.outputs[name] = { dims: [rows, width], data };
    return data.subarray(0, this.#rows * width);
  }

  weights(names: readonly string[], views: WeightViews): void {
    for (const name of names) this.feeds[graphName.weight(name)] = this.#weight(name, views);
  }

  keptOut(handed: readonly Handed[]): KeptRows {
    return handed.map(({ name, width }) => ({ name, width, data: this.rowsOut(name, width) }));
  }

  keptIn(kept: KeptRows, from = 0): void {
    for (const { name, width, data } of kept) this.rowsIn(name, data.subarray(from * width, (from + this.#rows) * width));
  }

  /** Sums are read and written in place. */
  sums(names: readonly string[], views: WeightViews): void {
    for (const name of names) {
      const view = this.#weight(name, views);
      this.feeds[graphName.sum(name)] = view;
      this.outputs[graphName.newSum(name)] = view;
    }
  }

  #weight(name: string, views: WeightViews): Feed {
    return { dims: this.#shapes.get(name) ?? [], data: views[name] as Float32Array };
  }
}

const named = (values: Values, name: string): Tensor => {
  const value = values[name];
  if (value === undefined) throw new TypeError(`value ${name} is missing`);
  return value;
};

function reader({ segment }: Parts, values: Values, weights: WeightViews): OpContext["read"] {
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  return (name) => {
    const shape = shapes.get(name);
    return shape === undefined ? named(values, name) : { shape, data: weights[name] as Float32Array };
  };
}

const rowsOf = ({ segment }: Parts, values: Values): number => {
  const first = segment.inputs[0];
  const value = named(values, first?.name ?? "");
  return value.shape[0] ?? 0;
};

interface ForwardCall {
  readonly values: Values;
  readonly weights: WeightViews;
  readonly kept: KeptValue[] | undefined;
}

async function deviceForward(parts: Parts, { values, weights, kept }: ForwardCall): Promise<Record<string, Tensor>> {
  const { segment, split, ways } = parts;
  const written: Record<string, Tensor> = {};
  if (ways === undefined) return written;
  const graphs = await ways.open(kept !== undefined);
  const widths = widthsOf(segment);
  const rows = rowsOf(parts, values);
  const call = new Call(segment, rows);
  for (const name of split.inputs) call.rowsIn(graphName.input(name), floats(named(values, name)));
  call.weights(split.weights, weights);
  for (const name of split.written) {
    const width = widths.get(name) ?? 1;
    written[name] = { shape: [rows, width], data: call.rowsOut(graphName.output(name), width) };
  }
  kept?.push(...call.keptOut(graphs.handed));
  await graphs.forward.run(call.feeds, call.outputs);
  return written;
}

async function deviceBackward(parts: Parts, { values, weights, sums, kept }: BackwardCall, gradients: Map<string, Float32Array>) {
  const { segment, split, ways } = parts;
  if (ways === undefined) return;
  const graphs = await ways.open(kept !== undefined);
  const widths = widthsOf(segment);
  const rows = rowsOf(parts, values);
  const call = new Call(segment, rows);
  for (const name of split.inputs) call.rowsIn(graphName.input(name), floats(named(values, name)));
  for (const name of split.written) {
    const gradient = gradients.get(name) ?? new Float32Array(rows * (widths.get(name) ?? 1));
    call.rowsIn(graphName.outputGradient(name), gradient);
  }
  call.keptIn(kept ?? []);
  call.weights(split.weights, weights);
  call.sums(split.trained, sums);
  for (const name of split.inputs) gradients.set(name, call.rowsOut(graphName.inputGradient(name), widths.get(name) ?? 1));
  await graphs.backward.run(call.feeds, call.outputs);
}

function addInto(sum: Float32Array, gradient: Float32Array): void {
  for (const [i, value] of gradient.entries()) sum[i] = (sum[i] as number) + value;
}

/** Gradients of the values that host ops read; those of weights are added to the sums. */
function hostBackward(parts: Parts, { values, weights, sums }: BackwardCall, gradients: Map<string, Float32Array>): void {
  const read = reader(parts, values, weights);
  for (const op of parts.split.host.toReversed()) {
    const rule = ruleOf(op);
    if (rule.on !== "host") continue;
    const kernel = kernelOf(op);
    const outputs: Record<string, Float32Array> = {};
    for (const { name, dtype } of kernel.outputs(op)) {
      if (dtype !== "f32") continue;
      const gradient = gradients.get(name);
      if (gradient === undefined) return; // outputs without a gradient
      outputs[name] = gradient;
    }
    for (const [name, gradient] of Object.entries(rule.backward(op, { read, outputs, sums }, kernel))) {
      const sum = sums[name] ?? gradients.get(name);
      if (sum === undefined) gradients.set(name, gradient);
      else addInto(sum, gradient);
    }
  }
}

export function trainableSegment(parts: Parts): TrainableSegment {
  const { segment, split } = parts;
  const inputs = segment.inputs.filter(({ dtype }) => dtype === "f32").map(({ name }) => name);
  const wanted = new Set([...segment.outputs.map(({ name }) => name), ...keptValues(segment.ops)]);
  return {
    keeps: parts.ways?.keeps ?? 0,
    async forward(values, views, kept) {
      const weights = parts.own(views);
      const written = await deviceForward(parts, { values, weights, kept });
      for (const op of split.host) {
        const all = { ...values, ...written };
        Object.assign(written, kernelOf(op).forward(op, { read: reader(parts, all, weights) }));
      }
      return Object.fromEntries(Object.entries(written).filter(([name]) => wanted.has(name)));
    },
    async backward(given) {
      const call = { ...given, weights: parts.own(given.weights), sums: parts.own(given.sums) };
      const gradients = new Map(Object.entries(call.outputs).map(([name, gradient]) => [name, gradient.slice()]));
      hostBackward(parts, call, gradients);
      await deviceBackward(parts, call, gradients);
      const found: Gradients = Object.fromEntries(inputs.map((name) => [name, gradients.get(name) as Float32Array]));
      return found;
    },
  };
}

export function trainableExpert({ segment, split, own, ways }: Whole<ExpertGraphs>, bounds: CallBounds): TrainableExpert {
  const [input, output] = [split.inputs[0] as string, split.written[0] as string];
  const hidden = segment.inputs[0]?.width ?? 1;
  return {
    keeps: ways.keeps,
    rowsAtOnce: bounds.rowsAtOnce,
    rowsInPlace: bounds.rowsInPlace,
    async forward(x, weights, kept) {
      const graphs = await ways.open(kept !== undefined);
      const call = new Call(segment, x.length / hidden);
      call.rowsIn(graphName.input(input), x);
      call.weights(split.weights, own(weights));
      const y = call.rowsOut(graphName.output(output), hidden);
      kept?.push(...call.keptOut(graphs.handed));
      await graphs.forward.run(call.feeds, call.outputs);
      return y;
    },
    async backward({ x, gates, dOut, weights: views, kept }: ExpertCall) {
      const graphs = await ways.open(kept !== undefined);
      const weights = own(views);
      const call = new Call(segment, gates.length);
      const given = [
        { name: graphName.input(input), width: hidden, data: x },
        { name: graphName.outputGradient(output), width: hidden, data: dOut },
        { name: graphName.gate, width: 1, data: gates },
        ...(kept ?? []),
      ];
      call.keptIn(given);
      call.weights(split.weights, weights);
      const dx = call.rowsOut(graphName.inputGradient(input), hidden);
      const dGates = call.rowsOut(graphName.gateGradient, 1);
      const all = [...given, ...call.keptOut(graphs.passed)];
      await graphs.backward.run(call.feeds, call.outputs);
      async function addTo(sums: WeightViews, from: number, to: number): Promise<void> {
        const summing = new Call(segment, to - from);
        summing.keptIn(all, from);
        summing.weights(split.weights, weights);
        summing.sums(split.trained, own(sums));
        await graphs.sums.run(summing.feeds, summing.outputs);
      }
      return { dx, dGates, addTo };
    },
  };
}

export function trainableLoss({ segment, split, own, ways }: Whole<Graphs>): TrainableLoss {
  const input = split.inputs[0] as string;
  const hidden = segment.inputs[0]?.width ?? 1;
  const begin = ({ x, targets, weights }: LossCall, scale: number): Call => {
    const rows = targets.length;
    const call = new Call(segment, rows);
    call.rowsIn(graphName.input(input), x);
    call.rowsIn(graphName.scales, new Float32Array(rows).fill(scale));
    const ids = BigInt64Array.from({ length: Math.max(rowsMin, rows) }, (_, row) => BigInt(targets[row] ?? 0));
    call.feeds[graphName.targets] = { dims: [ids.length, 1], data: ids };
    call.weights(split.weights, own(weights));
    return call;
  };
  const chunks = function* ({ x, targets, weights }: LossCall) {
    for (let from = 0; from < targets.length; from += lossRows) {
      const to = Math.min(from + lossRows, targets.length);
      yield { from, chunk: { x: x.subarray(from * hidden, to * hidden), targets: targets.subarray(from, to), weights } };
    }
  };
  return {
    async forward(all) {
      const graphs = await ways.open(false);
      const losses = new Float32Array(all.targets.length);
      for (const { from, chunk } of chunks(all)) {
        const call = begin(chunk, 1);
        const found = call.rowsOut(graphName.losses, 1);
        await graphs.forward.run(call.feeds, call.outputs);
        losses.set(found, from);
      }
      return losses;
    },
    async backward(all) {
      const graphs = await ways.open(false);
      const losses = new Float32Array(all.targets.length);
      const dx = new Float32Array(all.x.length);
      for (const { from, chunk } of chunks(all)) {
        const call = begin(chunk, all.scale);
        call.sums(split.trained, own(all.sums));
        const found = call.rowsOut(graphName.losses, 1);
        const gradient = call.rowsOut(graphName.inputGradient(input), hidden);
        await graphs.backward.run(call.feeds, call.outputs);
        losses.set(found, from);
        dx.set(gradient, from * hidden);
      }
      return { losses, dx };
    },
  };
}
