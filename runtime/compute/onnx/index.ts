// The training backend on onnxruntime: segments become graphs, and segments of equal shape share them.
import { AppError } from "../../../crds/common.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import type { TrainingBackend, TrainingOptions, WeightViews } from "../training.ts";
import { instructionsHere } from "./instructions.ts";
import { backwardGraph, type Ending, forwardGraph, splitOf } from "./lower.ts";
import { type Graphs, type Parts, trainableExpert, trainableLoss, trainableSegment } from "./segment.ts";
import { engine, Session } from "./session.ts";

/** The segment with weights named by their place and no number of a layer: equal for layers of equal shape. */
function nameless(segment: Segment): Segment {
  const places = new Map(segment.weights.map(({ name }, place) => [name, `weight.${place}`]));
  const placed = (value: unknown): unknown => (typeof value === "string" ? (places.get(value) ?? value) : value);
  const field = ([key, value]: [string, unknown]): [string, unknown] => [key, key === "layer" ? 0 : placed(value)];
  return {
    ...segment,
    weights: segment.weights.map((weight) => ({ ...weight, name: places.get(weight.name) as string })),
    ops: segment.ops.map((op) => Object.fromEntries(Object.entries(op).map(field)) as unknown as Op),
  };
}

const keyOf = ({ inputs, outputs, weights, ops }: Segment): string => JSON.stringify([inputs, outputs, weights, ops]);

class OnnxTraining implements TrainingBackend {
  readonly device: string;
  readonly numerics = `${engine} ${instructionsHere()}`;
  readonly #threads: number;
  /** By shape, tokens and ending; as many as a model has kinds of layers. */
  readonly #graphs = new Map<string, Promise<Graphs>>();

  constructor({ threads }: TrainingOptions) {
    this.#threads = threads;
    this.device = `cpu: ${engine}, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  async compile(segment: Segment, tokens: number) {
    return trainableSegment(await this.#parts(segment, tokens, "plain"));
  }

  async compileExpert(expert: Segment) {
    return trainableExpert(whole(await this.#parts(expert, 1, "gated")));
  }

  async compileLoss(head: Segment) {
    return trainableLoss(whole(await this.#parts(head, 1, "loss")));
  }

  async #parts(given: Segment, tokens: number, ending: Ending): Promise<Parts> {
    const segment = nameless(given);
    const split = splitOf(segment);
    const own = (views: WeightViews): WeightViews =>
      Object.fromEntries(given.weights.map(({ name }, place) => [segment.weights[place]?.name, views[name] as Float32Array]));
    if (split.device.length === 0) return { segment, split, own, graphs: undefined };
    const key = `${ending} ${tokens} ${keyOf(segment)}`;
    let graphs = this.#graphs.get(key);
    if (graphs === undefined) {
      graphs = this.#open(segment, tokens, ending);
      this.#graphs.set(key, graphs);
    }
    return { segment, split, own, graphs: await graphs };
  }

  async #open(segment: Segment, tokens: number, ending: Ending): Promise<Graphs> {
    const split = splitOf(segment);
    return {
      forward: await Session.open(forwardGraph(segment, split, tokens, ending), this.#threads),
      backward: await Session.open(backwardGraph(segment, split, tokens, ending), this.#threads),
    };
  }

  async close(): Promise<void> {
    for (const graphs of this.#graphs.values()) {
      const { forward, backward } = await graphs;
      await forward.close();
      await backward.close();
    }
    this.#graphs.clear();
  }
}

function whole(parts: Parts): Parts & { readonly graphs: Graphs } {
  if (parts.graphs !== undefined && parts.split.host.length === 0) return { ...parts, graphs: parts.graphs };
  throw new AppError(`${parts.segment.name}: has an op that the host computes, which only embeddings and blocks may have`, {
    code: "UnsupportedOp",
    operation: "compiling a segment",
  });
}

export function createOnnxTraining(options: TrainingOptions): TrainingBackend {
  return new OnnxTraining(options);
}
