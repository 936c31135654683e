// The training backend on onnxruntime; segments of equal shape share graphs.
import { AppError } from "../../../crds/common.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import type { TrainingBackend, TrainingOptions, WeightViews } from "../training.ts";
import {
  backwardGraph,
  callBounds,
  type Ending,
  forwardGraph,
  type Handed,
  keepingGraphs,
  type Split,
  splitOf,
  summingGraphs,
} from "./lower.ts";
import { writeModel } from "./onnx-model.ts";
import {
  type ExpertGraphs,
  type Graphs,
  type Parts,
  trainableExpert,
  trainableLoss,
  trainableSegment,
  type Ways,
  type Whole,
} from "./segment.ts";
import { engine, instructionsHere, Session } from "./session.ts";

/** The segment with names that do not depend on the layer. */
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

interface Shape {
  readonly segment: Segment;
  readonly split: Split;
  readonly tokens: number;
  readonly ending: Ending;
}

class OnnxTraining implements TrainingBackend {
  readonly device: string;
  readonly numerics = `${engine} ${instructionsHere()}`;
  readonly #threads: number;
  /** The key is shape, tokens and ending. */
  readonly #plain = new Map<string, Ways<Graphs>>();
  readonly #experts = new Map<string, Ways<ExpertGraphs>>();
  readonly #sessions: Promise<Session>[] = [];

  constructor({ threads }: TrainingOptions) {
    this.#threads = threads;
    this.device = `cpu: ${engine}, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  async compile(segment: Segment, tokens: number) {
    const parts = this.#parts(segment, { tokens, ending: "plain" }, (shape) => this.#waysOf(shape));
    // Throws here, not in the first step.
    await parts.ways?.open(false);
    return trainableSegment(parts);
  }

  async compileExpert(expert: Segment) {
    const parts = whole(this.#parts(expert, { tokens: 1, ending: "gated" }, (shape) => this.#expertWays(shape)));
    await parts.ways.open(false);
    return trainableExpert(parts, callBounds(expert, this.#threads));
  }

  async compileLoss(head: Segment) {
    const parts = whole(this.#parts(head, { tokens: 1, ending: "loss" }, (shape) => this.#waysOf(shape)));
    await parts.ways.open(false);
    return trainableLoss(parts);
  }

  #parts<G extends Graphs>(given: Segment, kind: Pick<Shape, "tokens" | "ending">, waysOf: (shape: Shape) => Ways<G>): Parts<G> {
    const segment = nameless(given);
    const split = splitOf(segment);
    const own = (views: WeightViews): WeightViews =>
      Object.fromEntries(given.weights.map(({ name }, place) => [segment.weights[place]?.name, views[name] as Float32Array]));
    return { segment, split, own, ways: split.device.length === 0 ? undefined : waysOf({ segment, split, ...kind }) };
  }

  #waysOf(shape: Shape): Ways<Graphs> {
    return kept(this.#plain, shape, () => {
      const { segment, split, tokens, ending } = shape;
      const keeping = memo(() => keepingGraphs(segment, split, shape));
      return {
        get keeps() {
          return ending === "loss" ? 0 : floatsOf(keeping().handed);
        },
        open: opened(async (keeps) => {
          const forward = keeps ? writeModel(keeping().forward) : forwardGraph(segment, split, tokens, ending);
          const backward = keeps ? writeModel(keeping().backward) : backwardGraph(segment, split, tokens, ending);
          return {
            forward: await this.#session(forward),
            backward: await this.#session(backward),
            handed: keeps ? keeping().handed : [],
          };
        }),
      };
    });
  }

  #expertWays(shape: Shape): Ways<ExpertGraphs> {
    return kept(this.#experts, shape, () => {
      const { segment, split } = shape;
      const keeping = memo(() => keepingGraphs(segment, split, shape));
      return {
        get keeps() {
          return floatsOf(keeping().handed);
        },
        open: opened(async (keeps) => {
          const { rows, sums, handed } = summingGraphs(segment, split, keeps ? keeping() : undefined);
          return {
            forward: await this.#session(keeps ? writeModel(keeping().forward) : forwardGraph(segment, split, 1, "gated")),
            backward: await this.#session(rows),
            sums: await this.#session(sums),
            handed: keeps ? keeping().handed : [],
            passed: handed,
          };
        }),
      };
    });
  }

  #session(model: Uint8Array): Promise<Session> {
    const session = Session.open(model, this.#threads);
    this.#sessions.push(session);
    return session;
  }

  async close(): Promise<void> {
    for (const session of this.#sessions.splice(0)) await (await session).close();
    this.#plain.clear();
    this.#experts.clear();
  }
}

const floatsOf = (handed: readonly Handed[]): number => handed.reduce((sum, { width }) => sum + width, 0);

function kept<T>(all: Map<string, T>, { segment, tokens, ending }: Shape, make: () => T): T {
  const key = `${ending} ${tokens} ${keyOf(segment)}`;
  const found = all.get(key) ?? make();
  all.set(key, found);
  return found;
}

function memo<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

/** Opens each variant once. */
function opened<T>(open: (keeping: boolean) => Promise<T>): (keeping: boolean) => Promise<T> {
  const [without, having] = [memo(() => open(false)), memo(() => open(true))];
  return (keeping) => (keeping ? having() : without());
}

function whole<G extends Graphs>(parts: Parts<G>): Whole<G> {
  if (parts.ways !== undefined && parts.split.host.length === 0) return { ...parts, ways: parts.ways };
  throw new AppError(`${parts.segment.name}: has an op that the host computes, which only embeddings and blocks may have`, {
    code: "UnsupportedOp",
    operation: "compiling a segment",
  });
}

export function createOnnxTraining(options: TrainingOptions): TrainingBackend {
  return new OnnxTraining(options);
}
