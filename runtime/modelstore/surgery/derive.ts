// A store made of experts of other stores, whose units stay as they are to the bit.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { architectureOf, denseWeights } from "../../models/family.ts";
import { programOf } from "../../models/index.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { layerShapes } from "../../weights/layer-shapes.ts";
import type { FolderTarget } from "../../weights/model-folder.ts";
import { type ExpertIndex, formsOfUnit, layerForms, type ModelStore } from "../../weights/store.ts";
import { writeStore } from "../../weights/store-writer.ts";
import { storedBytes } from "../../weights/stored.ts";
import { checkpointOf, rowsOf, type TensorView } from "../../weights/tensor-view.ts";
import { checkShape } from "../check-tensors.ts";
import { companionFiles, type Log } from "../companions.ts";
import { Progress } from "../import-progress.ts";
import { planDense } from "../plan-store.ts";

export type Config = Readonly<Record<string, unknown>>;

interface Origin {
  readonly store: ModelStore;
  readonly expert: number;
}

export interface Derived {
  /** Its tokenizer is the new store's. */
  readonly store: ModelStore;
  readonly config: Config;
  readonly codecs: readonly CodecName[];
  /** The origins of each expert of each layer. */
  readonly experts: readonly (readonly Origin[])[];
  dense(name: string): TensorView;
}

export const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

export const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "reading the command line" });

const unitsOf = ({ store }: Origin, codec: CodecName): NonNullable<ExpertIndex["codecs"][CodecName]> | undefined =>
  store.index.codecs[codec];

function bytesOfUnits({ experts, codecs }: Derived): number {
  const bytes = experts.flatMap((layer, at) =>
    layer.flatMap((origin) => codecs.map((codec) => unitsOf(origin, codec)?.units[at]?.[origin.expert]?.bytes ?? 0)),
  );
  return bytes.reduce((sum, one) => sum + one, 0);
}

export async function writeDerived(derived: Derived, target: FolderTarget, log: Log): Promise<ExpertIndex> {
  const { store, config, codecs, experts } = derived;
  const program = programOf(config);
  const views = new Map<string, TensorView>();
  for (const { name, shape } of denseWeights(program)) {
    const view = derived.dense(name);
    checkShape(store.dir, name, view.shape, shape);
    views.set(name, view);
  }
  const checkpoint = checkpointOf(store.dir, views, async () => {});
  const dense = planDense({ checkpoint, program }, (bytes, name) => progress.add(bytes, name));
  const progress = new Progress(log, dense.bytes + bytesOfUnits(derived));
  const given = codecs.find((codec) => codecFor(codec).asGiven);
  const formsIn = (layer: number) =>
    layerForms((experts[layer] ?? []).map((one) => formsOfUnit((given && unitsOf(one, given)) ?? {}, layer, one.expert) ?? []));
  let seen = 0;
  return writeStore(
    {
      config,
      architecture: architectureOf(config),
      layers: layerShapes(program),
      hidden: program.hidden,
      codecs,
      dense: dense.tensors,
      denseForms: dense.forms,
      ...(given === undefined ? {} : { forms: experts.map((_, layer) => formsIn(layer)) }),
      async expert(layer, expert) {
        const origin = experts[layer]?.[expert] as Origin;
        return Promise.all(codecs.map((codec) => origin.store.readUnit(layer, origin.expert, codec)));
      },
      files: await companionFiles(store.dir),
    },
    {
      ...target,
      onProgress({ units, of, bytes }) {
        progress.add(bytes - seen, `experts ${units}/${of}`);
        seen = bytes;
      },
    },
  );
}

/** Layers without experts have 0. */
export const expertCounts = ({ layers }: ModelProgram): number[] => layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0));

/** Groups of experts that a layer's gate chooses first. */
export function groupsIn({ layers }: ModelProgram): number {
  const groups = layers.flatMap(({ block }) => block.ops.map((op) => (op.op === "groupRoute" ? op.groups : 1)));
  return Math.max(1, ...groups);
}

/** Tensors whose first dimension counts the experts of a layer. Throws where another dimension does. */
export function routersOf(dir: string, before: ModelProgram, after: ModelProgram): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const [layer, { block }] of before.layers.entries())
    for (const [i, { name, shape }] of block.weights.entries()) {
      const [rows, ...columns] = after.layers[layer]?.block.weights[i]?.shape ?? [];
      if (columns.join() !== shape.slice(1).join())
        throw new AppError(`${dir}: tensor "${name}" hands scores of experts to the next layer, so their number cannot change`, {
          code: "UnsupportedModel",
        });
      if (rows !== shape[0]) found.set(name, layer);
    }
  return found;
}

/** Some entries of the first dimension of all views together, as they are stored if their forms are alike. */
export function gathered(views: readonly TensorView[], entries: readonly number[]): TensorView {
  const [first] = views as readonly [TensorView];
  const form = views.every((view) => view.form === first.form) ? first.form : "f32";
  const whole = async (): Promise<Uint8Array> => {
    const parts = await Promise.all(
      views.map(async (view) => {
        const rows = await view.rows({ first: 0, rows: view.shape.slice(0, -1).reduce((a, b) => a * b, 1) });
        if (rows.form === form) return rows.bytes;
        const { buffer, byteOffset, byteLength } = rows.values();
        return new Uint8Array(buffer, byteOffset, byteLength);
      }),
    );
    const all = Buffer.concat(parts);
    const each = all.length / views.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0);
    return new Uint8Array(Buffer.concat(entries.map((at) => all.subarray(at * each, (at + 1) * each))));
  };
  const shape = [entries.length, ...first.shape.slice(1)];
  const rowBytes = storedBytes(form, shape.at(-1) ?? 1);
  return {
    form,
    shape,
    rows: async ({ first, rows }) => rowsOf(form, (await whole()).subarray(first * rowBytes, (first + rows) * rowBytes)),
  };
}
