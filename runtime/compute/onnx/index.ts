// The training backend on onnxruntime: segments become graphs, and segments of equal shape share them.
import { AppError } from "../../../crds/common.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import type { TrainingBackend, TrainingOptions, WeightViews } from "../training.ts";
import { instructionsHere } from "./instructions.ts";
import { backwardGraph, backwardParts, type Ending, forwardGraph, splitOf } from "./lower.ts";
import { type ExpertGraphs, type Graphs, type Parts, trainableExpert, trainableLoss, trainableSegment } from "./segment.ts";
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

/** Graphs of one end, kept by that end and the segment's shape. */
interface Kind<G extends Graphs> {
  readonly kept: Map<string, Promise<G>>;
  readonly key: string;
  open(segment: Segment): Promise<G>;
}

const keyOf = ({ inputs, outputs, weights, ops }: Segment): string => JSON.stringify([inputs, outputs, weights, ops]);

class OnnxTraining implements TrainingBackend {
  readonly device: string;
  readonly numerics = `${engine} ${instructionsHere()}`;
  readonly #threads: number;
  /** By shape, tokens and ending; as many as a model has kinds of layers. */
  readonly #graphs = new Map<string, Promise<Graphs>>();
  readonly #expertGraphs = new Map<string, Promise<ExpertGraphs>>();

  constructor({ threads }: TrainingOptions) {
    this.#threads = threads;
    this.device = `cpu: ${engine}, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  async compile(segment: Segment, tokens: number) {
    return trainableSegment(await this.#parts(segment, this.#plain({ tokens, ending: "plain" })));
  }

  async compileExpert(expert: Segment) {
    return trainableExpert(whole(await this.#parts(expert, { kept: this.#expertGraphs, key: "", open: (of) => this.#openExpert(of) })));
  }

  async compileLoss(head: Segment) {
    return trainableLoss(whole(await this.#parts(head, this.#plain({ tokens: 1, ending: "loss" }))));
  }

  async #parts<G extends Graphs>(given: Segment, { kept, key: kind, open }: Kind<G>): Promise<Parts<G>> {
    const segment = nameless(given);
    const split = splitOf(segment);
    const own = (views: WeightViews): WeightViews =>
      Object.fromEntries(given.weights.map(({ name }, place) => [segment.weights[place]?.name, views[name] as Float32Array]));
    if (split.device.length === 0) return { segment, split, own, graphs: undefined };
    const key = `${kind} ${keyOf(segment)}`;
    let graphs = kept.get(key);
    if (graphs === undefined) {
      graphs = open(segment);
      kept.set(key, graphs);
    }
    return { segment, split, own, graphs: await graphs };
  }

  #plain({ tokens, ending }: { readonly tokens: number; readonly ending: Exclude<Ending, "gated"> }): Kind<Graphs> {
    const open = async (segment: Segment): Promise<Graphs> => {
      const split = splitOf(segment);
      return {
        forward: await Session.open(forwardGraph(segment, split, tokens, ending), this.#threads),
        backward: await Session.open(backwardGraph(segment, split, tokens, ending), this.#threads),
      };
    };
    return { kept: this.#graphs, key: `${ending} ${tokens}`, open };
  }

  async #openExpert(segment: Segment): Promise<ExpertGraphs> {
    const split = splitOf(segment);
    const { rows, sums, handed } = backwardParts(segment, split);
    return {
      forward: await Session.open(forwardGraph(segment, split, 1, "gated"), this.#threads),
      backward: await Session.open(rows, this.#threads),
      sums: await Session.open(sums, this.#threads),
      handed,
    };
  }

  async close(): Promise<void> {
    for (const graphs of this.#graphs.values()) await closed(await graphs);
    for (const graphs of this.#expertGraphs.values()) {
      const of = await graphs;
      await closed(of);
      await of.sums.close();
    }
    this.#graphs.clear();
    this.#expertGraphs.clear();
  }
}

async function closed({ forward, backward }: Graphs): Promise<void> {
  await forward.close();
  await backward.close();
}

function whole<G extends Graphs>(parts: Parts<G>): Parts<G> & { readonly graphs: G } {
  if (parts.graphs !== undefined && parts.split.host.length === 0) return { ...parts, graphs: parts.graphs };
  throw new AppError(`${parts.segment.name}: has an op that the host computes, which only embeddings and blocks may have`, {
    code: "UnsupportedOp",
    operation: "compiling a segment",
  });
}

export function createOnnxTraining(options: TrainingOptions): TrainingBackend {
  return new OnnxTraining(options);
}
