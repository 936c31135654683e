// The bytes of the experts of the model here, stored and resident, by which budgets count and which Describe tells the operator: one
// value for all where they are alike. Pure.
import type { EngineInfo } from "../engine/engine.ts";
import { cellValues, type ExpertGrid, expertsIn } from "../placement/grid.ts";
import type { ModelStore } from "../weights/store.ts";

type Resident = ExpertGrid & Pick<EngineInfo, "expertResidentBytes" | "layerResidentBytes">;

/** Upper bound of what one expert of a layer takes in memory. */
export function residentBytesIn(info: Resident, layer: number): number {
  return info.layerResidentBytes?.[layer] ?? info.expertResidentBytes;
}

/** Resident bytes as Describe sends them. */
export function residentCells(info: Resident): number[] {
  if (info.layerResidentBytes === undefined) return [info.expertResidentBytes];
  return cellValues(info, (layer) => residentBytesIn(info, layer));
}

/** Stored bytes of all units as Describe sends them. */
export function storedCells(index: Pick<ModelStore["index"], "codecs">, info: ExpertGrid & Pick<EngineInfo, "codec">): number[] {
  const units = index.codecs[info.codec]?.units ?? [];
  const sizes = new Set(units.flatMap((layer) => layer.map(({ bytes }) => bytes)));
  return sizes.size === 1 ? [...sizes] : cellValues(info, (layer, expert) => units[layer]?.[expert]?.bytes ?? 0);
}

/** Experts of each layer as Describe sends them; empty where all layers have `experts`. */
export function describedLayers(grid: ExpertGrid): number[] {
  return grid.layerExperts === undefined ? [] : Array.from({ length: grid.layers }, (_, layer) => expertsIn(grid, layer));
}
