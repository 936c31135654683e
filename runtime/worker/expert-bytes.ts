// Stored and resident bytes of experts for Describe, and this rank's budget for them.
import { totalmem } from "node:os";
import { usesDeviceMemory } from "../../crds/backends.ts";
import { AppError } from "../../crds/common.ts";
import { headroom, type RankMemory } from "../../crds/rank-memory.ts";
import type { EngineInfo } from "../engine/engine.ts";
import { cellValues, type ExpertGrid, expertsIn } from "../placement/grid.ts";
import type { ModelStore } from "../weights/store.ts";

type Resident = ExpertGrid & Pick<EngineInfo, "expertResidentBytes" | "unlikeResidentBytes">;

export function residentBytesOf(info: Resident, layer: number, expert: number): number {
  return info.unlikeResidentBytes?.[layer]?.[expert] ?? info.expertResidentBytes;
}

export function residentCells(info: Resident): number[] {
  if (info.unlikeResidentBytes === undefined) return [info.expertResidentBytes];
  return cellValues(info, (layer, expert) => residentBytesOf(info, layer, expert));
}

export function storedCells(index: Pick<ModelStore["index"], "codecs">, info: ExpertGrid & Pick<EngineInfo, "codec">): number[] {
  const units = index.codecs[info.codec]?.units ?? [];
  const sizes = new Set(units.flatMap((layer) => layer.map(({ bytes }) => bytes)));
  return sizes.size === 1 ? [...sizes] : cellValues(info, (layer, expert) => units[layer]?.[expert]?.bytes ?? 0);
}

/** Empty where all layers have `experts`. */
export function describedLayers(grid: ExpertGrid): number[] {
  return grid.layerExperts === undefined ? [] : Array.from({ length: grid.layers }, (_, layer) => expertsIn(grid, layer));
}

/** `limit`: as cgroups report it. */
interface MachineMemory {
  readonly limit: number;
  readonly total: number;
}

const machine = (): MachineMemory => ({ limit: process.constrainedMemory(), total: totalmem() });

export function rankMemory(expertBytes: number, { limit, total }: MachineMemory = machine()): RankMemory {
  // cgroup v1 returns a huge number where there is no limit, and v2 returns 0.
  const own = limit > 0 && limit < total;
  return { bytes: own ? limit : total, of: own ? "the memory limit of the container runtime" : "the memory of the node", own, expertBytes };
}

/** 0 means what memory leaves beside the dense part, KV and 15%. Throws `InvalidConfig` for 0 on devices, whose memory is unknown. */
export function expertBudgetBytes(
  configured: number,
  model: { readonly denseBytes: number; readonly kvBytes: number; readonly backend: string; readonly device: string },
  memory: MachineMemory = machine(),
): number {
  if (configured > 0) return configured;
  if (usesDeviceMemory(model.backend)) {
    throw new AppError(
      `experts.memoryPerRank: must be given, since this rank computes on ${model.device}, which does not tell how much memory it has; or set runtime.backend to cpu`,
      { code: "InvalidConfig", operation: "sizing the memory for experts" },
    );
  }
  const { bytes } = rankMemory(configured, memory);
  return Math.max(0, Math.floor(bytes * (1 - headroom) - model.denseBytes - model.kvBytes));
}
