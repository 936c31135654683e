// A program's layer shapes as a store describes them.
import { AppError } from "../../crds/common.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { type LayerShape, type ModelStore, shapeText } from "./store.ts";

export function layerShapes(program: Pick<ModelProgram, "layers">): readonly LayerShape[] {
  return program.layers.map((layer) =>
    layer.kind === "moe"
      ? { experts: layer.experts, topK: layer.topK, matrices: layer.expert.weights }
      : { experts: 0, topK: 0, matrices: [] },
  );
}

/** Throws AppError `CorruptShard` where config.json and index differ. */
export function checkLayerShapes(store: Pick<ModelStore, "dir" | "layerShapes">, program: Pick<ModelProgram, "layers">): void {
  const expected = layerShapes(program);
  const layers = Math.max(expected.length, store.layerShapes.length);
  for (let layer = 0; layer < layers; layer++) {
    const [says, has] = [shapeText(expected[layer]), shapeText(store.layerShapes[layer])];
    if (says === has) continue;
    throw new AppError(`${store.dir}: layer ${layer}: config.json says ${says}, the store has ${has}; import the model again`, {
      code: "CorruptShard",
      operation: "opening the model store",
    });
  }
}
