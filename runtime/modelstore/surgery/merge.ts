// `enodia model merge`: the experts of two models of one origin side by side, with the rows of both routers.
import { resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { programOf } from "../../models/index.ts";
import { resized } from "../../models/moe.ts";
import { bytesOf } from "../../weights/floats.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import { codecsOf, type ExpertIndex, type ModelStore } from "../../weights/store.ts";
import { denseViews } from "../../weights/store-checkpoint.ts";
import { openStore } from "../../weights/store-reader.ts";
import { rowsOf, type TensorView } from "../../weights/tensor-view.ts";
import type { Log } from "../companions.ts";
import { type Config, expertCounts, gathered, groupsIn, range, refused, routersOf, writeDerived } from "./derive.ts";

export interface MergeOptions {
  readonly first: string;
  readonly second: string;
  readonly out: string;
  readonly overwrite: boolean;
  /** What becomes of all that both have beside experts: the mean, or the first one's. */
  readonly dense: "mean" | "first";
  /** Default: the first one's. */
  readonly topK?: number | undefined;
  /** Added to the biases of the second one's experts in routers. */
  readonly offset?: number | undefined;
}

const sized = (store: ModelStore, experts: number, topK: number): Config => resized(store.config as Config, { experts, topK });

/** Throws AppError `BadOption` unless both can have grown from one model. */
function checkAlike(first: ModelStore, second: ModelStore): void {
  const { experts, topK } = first.index;
  const differs = (what: string): AppError =>
    refused(`${second.dir}: has another ${what} than ${first.dir}; models that are merged come from one origin`);
  if (second.index.architecture !== first.index.architecture) throw differs("architecture");
  if (JSON.stringify(programOf(sized(second, experts, topK))) !== JSON.stringify(programOf(first.config))) throw differs("config.json");
  const [one, other] = [first, second].map(({ index }) => index.files?.["tokenizer.json"]);
  if (one !== undefined && other !== undefined && one !== other) throw differs("tokenizer.json");
}

function meanOf(first: TensorView, second: TensorView): TensorView {
  const rows: TensorView["rows"] = async (range) => {
    const [a, b] = [(await first.rows(range)).values(), (await second.rows(range)).values()];
    return rowsOf("f32", bytesOf(Float32Array.from(a, (value, i) => (value + (b[i] as number)) / 2)));
  };
  return { shape: first.shape, form: "f32", rows };
}

function shifted(view: TensorView, from: number, to: number, offset: number): TensorView {
  const rows: TensorView["rows"] = async (range) => {
    const values = (await view.rows(range)).values();
    return rowsOf("f32", bytesOf(values.map((value, i) => (i >= from && i < to ? value + offset : value))));
  };
  return { ...view, form: "f32", rows };
}

interface Halves {
  readonly views: readonly [TensorView, TensorView];
  /** Experts of both. */
  readonly counts: readonly [number, number];
  readonly offset: number | undefined;
}

/** Rows of the first one's experts, of the second one's, and of what the first one has behind experts. */
function routerOf({ views, counts: [a, b], offset }: Halves): TensorView {
  const rows = views[0].shape[0] ?? 0;
  const joined = gathered(views, [...range(0, a), ...range(rows, rows + b), ...range(a, rows)]);
  return offset !== undefined && joined.shape.length === 1 ? shifted(joined, a, a + b, offset) : joined;
}

function checkOptions({ offset, topK }: MergeOptions, before: ModelProgram, routers: ReadonlyMap<string, number>): void {
  if (groupsIn(before) > 1) throw refused("the gate of these models chooses groups of experts first, and no group holds those of both");
  if (topK !== undefined && topK < 1) throw refused(`--top-k is ${topK}; it must be 1 at least`);
  const biases = before.layers.some(({ block }) => block.weights.some(({ name, shape }) => routers.has(name) && shape.length === 1));
  if (offset !== undefined && !biases) throw refused("--offset: the routers of these models have no biases; leave it out");
}

export async function merge(options: MergeOptions, log: Log): Promise<{ readonly out: string; readonly index: ExpertIndex }> {
  const target = { dir: resolve(options.out), overwrite: options.overwrite, sources: [options.first, options.second] };
  await checkTarget(target);
  const first = await openStore(options.first);
  try {
    const second = await openStore(options.second);
    try {
      checkAlike(first, second);
      const before = programOf(first.config);
      const [one, other] = [expertCounts(before), expertCounts(programOf(second.config))];
      const config = sized(first, first.index.experts + second.index.experts, options.topK ?? first.index.topK);
      const routers = routersOf(first.dir, before, programOf(config));
      checkOptions(options, before, routers);
      const codecs = codecsOf(first.index).filter((codec) => second.index.codecs[codec] !== undefined);
      if (codecs.length === 0)
        throw refused(
          `${first.dir} has experts in ${codecsOf(first.index).join(", ")}, ${second.dir} in ${codecsOf(second.index).join(", ")}: import one of them again with --codec`,
        );
      const [views, others] = [denseViews(first), denseViews(second)];
      const dense = (name: string): TensorView => {
        const pair = [views.get(name), others.get(name)] as [TensorView, TensorView];
        if (pair.includes(undefined as never)) throw new AppError(`a dense part has no tensor "${name}"`, { code: "MissingTensor" });
        const layer = routers.get(name);
        if (layer !== undefined) return routerOf({ views: pair, counts: [one[layer] ?? 0, other[layer] ?? 0], offset: options.offset });
        const alike = first.index.dense[name] === second.index.dense[name];
        return alike || options.dense === "first" ? pair[0] : meanOf(...pair);
      };
      const experts = one.map((count, layer) => [
        ...range(0, count).map((expert) => ({ store: first, expert })),
        ...range(0, other[layer] ?? 0).map((expert) => ({ store: second, expert })),
      ]);
      log(`merging ${first.index.experts} and ${second.index.experts} experts a layer, codecs ${codecs.join(", ")}`);
      const index = await writeDerived({ store: first, config, codecs, experts, dense }, target, log);
      return { out: target.dir, index };
    } finally {
      await second.close();
    }
  } finally {
    await first.close();
  }
}
