// `enodia model prune`: experts go, those that stay and the rest of the model are what they were.
import { resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { programOf } from "../../models/index.ts";
import { resized } from "../../models/moe.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import { codecsOf, type ExpertIndex } from "../../weights/store.ts";
import { denseViews } from "../../weights/store-checkpoint.ts";
import { openStore } from "../../weights/store-reader.ts";
import type { TensorView } from "../../weights/tensor-view.ts";
import type { Log } from "../companions.ts";
import { type Config, expertCounts, gathered, groupsIn, range, refused, routersOf, writeDerived } from "./derive.ts";

/** An expert of one layer, or without it of every layer. */
export interface Dropped {
  readonly layer?: number;
  readonly expert: number;
}

export interface PruneOptions {
  readonly from: string;
  readonly out: string;
  readonly overwrite: boolean;
  /** The most used ones of every layer. */
  readonly keep?: number | undefined;
  readonly drop?: readonly Dropped[] | undefined;
  /** Selections by layer and expert. */
  readonly load?: readonly (readonly number[])[] | undefined;
  readonly topK?: number | undefined;
}

export interface Pruned {
  readonly out: string;
  readonly index: ExpertIndex;
  /** Experts of each layer. */
  readonly kept: readonly (readonly number[])[];
  readonly topK: number;
  /** The part of the recorded selections that chose experts that went; undefined without a record. */
  readonly lost?: number;
}

type Load = NonNullable<PruneOptions["load"]>;

function mostUsed(load: Load, keep: number, counts: readonly number[], groups: number): number[][] {
  return counts.map((experts, layer) => {
    const used = (expert: number): number => load[layer]?.[expert] ?? 0;
    const size = experts / groups;
    const best = (group: number) =>
      range(group * size, (group + 1) * size)
        .sort((a, b) => used(b) - used(a) || a - b)
        .slice(0, keep / groups);
    return range(0, experts === 0 ? 0 : groups)
      .flatMap(best)
      .sort((a, b) => a - b);
  });
}

function without(drop: readonly Dropped[], counts: readonly number[]): number[][] {
  for (const { layer, expert } of drop) {
    const experts = layer === undefined ? Math.max(...counts) : counts[layer];
    if (experts === undefined || expert >= experts)
      throw refused(`--drop: the model has no expert ${expert} in ${layer === undefined ? "its layers" : `layer ${layer}`}`);
  }
  const goes = (at: number, e: number) => drop.some(({ layer = at, expert }) => layer === at && expert === e);
  return counts.map((experts, layer) => range(0, experts).filter((expert) => !goes(layer, expert)));
}

/** The same number in every layer and group, since config.json has one number. */
function checkEven(kept: readonly (readonly number[])[], counts: readonly number[], groups: number): number {
  const sizes = kept.flatMap((layer, l) => {
    const size = (counts[l] ?? 0) / groups;
    if (size === 0) return [];
    return range(0, groups).map((group) => layer.filter((expert) => Math.floor(expert / size) === group).length);
  });
  const [size = 0] = sizes;
  if (size === 0 || sizes.some((other) => other !== size))
    throw refused(
      `--drop leaves from ${Math.min(...sizes)} to ${Math.max(...sizes)} experts in a layer${groups > 1 ? "'s groups" : ""}; as many must stay in each, and one at least`,
    );
  return size * groups;
}

function checkLoad(load: Load, counts: readonly number[]): void {
  if (load.length === counts.length && load.every((layer, l) => layer.length >= (counts[l] ?? 0))) return;
  throw refused(
    `--load is of ${load.length} layers of ${load[0]?.length ?? 0} experts, the model has ${counts.length} of ${Math.max(...counts)}; record the load of this model`,
  );
}

function choose({ keep, drop, load }: PruneOptions, counts: readonly number[], groups: number): number[][] {
  const most = Math.max(...counts);
  if (most === 0) throw refused("the model has no experts");
  if ((keep === undefined) === (drop === undefined)) throw refused("name --keep NUMBER with --load FILE, or --drop LIST");
  if (load !== undefined) checkLoad(load, counts);
  if (drop !== undefined) return without(drop, counts);
  if (load === undefined)
    throw refused("--load is missing: the record by which experts are kept (enodia plan record, or enodia model trace)");
  if (keep === undefined || keep < 1 || keep >= most || keep % groups !== 0)
    throw refused(
      `--keep is ${keep}; of ${most} experts it must be from 1 to ${most - 1}${groups > 1 ? `, and a multiple of the gate's ${groups} groups` : ""}`,
    );
  return mostUsed(load, keep, counts, groups);
}

function lostPart(load: Load, kept: readonly (readonly number[])[]): number {
  const all = load.flat().reduce((sum, count) => sum + count, 0);
  const stays = kept.reduce((sum, layer, l) => sum + layer.reduce((part, expert) => part + (load[l]?.[expert] ?? 0), 0), 0);
  return all === 0 ? 0 : (all - stays) / all;
}

/** Gates that are parts of all experts' scores, or that choose groups by their experts' scores, depend on those that are not chosen. */
function gatesChange({ layers }: ModelProgram): boolean {
  return layers.some(({ block }) =>
    block.ops.some(
      (op) => (op.op === "route" && !op.normalize) || (op.op === "groupRoute" && (op.groups > 1 || !(op.sigmoid || op.normalize))),
    ),
  );
}

function topKOf({ topK }: PruneOptions, before: number, experts: number): number {
  const most = Math.min(before, experts);
  if (topK !== undefined && (topK < 1 || topK > most)) throw refused(`--top-k is ${topK}; it must be from 1 to ${most}`);
  return topK ?? most;
}

export async function prune(options: PruneOptions, log: Log): Promise<Pruned> {
  const target = { dir: resolve(options.out), overwrite: options.overwrite, sources: [options.from] };
  await checkTarget(target);
  const store = await openStore(options.from);
  try {
    const before = programOf(store.config);
    const counts = expertCounts(before);
    const kept = choose(options, counts, groupsIn(before));
    const experts = checkEven(kept, counts, groupsIn(before));
    const topK = topKOf(options, store.index.topK, experts);
    const config = resized(store.config as Config, { experts, topK });
    const routers = routersOf(store.dir, before, programOf(config));
    const views = denseViews(store);
    if (gatesChange(before)) log("the gates of this model depend on experts that are not chosen too, so its texts change");
    log(`keeping ${experts} of ${store.index.experts} experts, top-${topK}`);
    const index = await writeDerived(
      {
        store,
        config,
        codecs: codecsOf(store.index),
        experts: kept.map((layer) => layer.map((expert) => ({ store, expert }))),
        dense(name) {
          const [view, layer] = [views.get(name), routers.get(name)];
          if (view === undefined) throw new AppError(`${store.dir}: the dense part has no tensor "${name}"`, { code: "MissingTensor" });
          return layer === undefined ? view : keptRows(view, kept[layer] ?? [], counts[layer] ?? 0);
        },
      },
      target,
      log,
    );
    const lost = options.load === undefined ? {} : { lost: lostPart(options.load, kept) };
    return { out: target.dir, index, kept, topK, ...lost };
  } finally {
    await store.close();
  }
}

/** Rows behind the experts' own, of experts that cost nothing, stay. */
const keptRows = (view: TensorView, kept: readonly number[], experts: number): TensorView =>
  gathered([view], [...kept, ...range(experts, view.shape[0] ?? 0)]);
