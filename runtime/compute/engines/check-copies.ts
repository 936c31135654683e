// Refuses device memory in which no copy of an expert would lie.
import { AppError } from "../../../crds/common.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import type { Layer } from "../../kernels/segment.ts";
import type { WeightForms } from "../../kernels/weights.ts";
import type { Backend } from "../backend.ts";

interface Copies {
  /** Bytes of all layers. */
  readonly deviceBytes: number;
  /** The forms of the layer's first expert. */
  formsOf(layer: number): WeightForms;
}

/** Memory of a layer's experts grows by steps. Throws AppError `InsufficientMemory` if not one layer has a step. */
export function checkCopies(device: Backend, layers: readonly Layer[], { deviceBytes, formsOf }: Copies): void {
  const steps = layers.flatMap((layer, at) => {
    if (layer.kind !== "moe") return [];
    const { step = 1 } = device.createExpertSlab(layer.expert, layer.experts, at);
    return [step * device.expertResidentBytes(layer.expert, formsOf(at))];
  });
  const least = steps.length * Math.min(...steps);
  if (!(deviceBytes < least)) return;
  const message = `spec.runtime.deviceExpertMemory ${formatBytes(deviceBytes)} is no copy of an expert in any of ${steps.length} layers`;
  throw new AppError(`${message}: raise it to at least ${formatBytes(least, "up")}`, {
    code: "InsufficientMemory",
    operation: "copying experts to a device",
  });
}
