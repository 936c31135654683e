// Which layers' dense weights stay in the memory of devices, and which come to it for each use (compute/DECISIONS.md 15). Pure.
import { AppError } from "../../../crds/common.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { sum } from "../../placement/imbalance.ts";

export interface DensePlan {
  /** The layers that come. */
  readonly streamed: ReadonlySet<number>;
  readonly slotBytes: number;
  /** Bytes of the devices. */
  readonly deviceBytes: number;
  /** Bytes of the machine. */
  readonly hostBytes: number;
}

interface DenseNeeds {
  /** Embedding and head, which stay. */
  readonly endBytes: number;
  readonly layerBytes: readonly number[];
  /** On all devices together. */
  readonly slots: number;
  /** spec.runtime.deviceDenseMemory */
  readonly askedBytes: number;
}

/** As few as need be, one after as many others as the next. Throws AppError `InsufficientMemory` where the slots do not fit. */
export function planDense({ endBytes, layerBytes, slots, askedBytes }: DenseNeeds): DensePlan {
  const all = sum(layerBytes);
  if (endBytes + all <= askedBytes) return { streamed: new Set(), slotBytes: 0, deviceBytes: endBytes + all, hostBytes: 0 };
  const slotBytes = Math.max(...layerBytes);
  const least = endBytes + slots * slotBytes;
  const { length } = layerBytes;
  for (let count = 1; count <= length; count++) {
    const isLast = (layer: number): boolean => Math.floor(((layer + 1) * count) / length) > Math.floor((layer * count) / length);
    const streamed = [...layerBytes.keys()].filter(isLast);
    const hostBytes = sum(streamed.map((layer) => layerBytes[layer] as number));
    const deviceBytes = least + all - hostBytes;
    if (deviceBytes <= askedBytes) return { streamed: new Set(streamed), slotBytes, deviceBytes, hostBytes };
  }
  const message =
    `spec.runtime.deviceDenseMemory ${formatBytes(askedBytes)} is below embedding and head ${formatBytes(endBytes)} and ${slots} slots of ` +
    `the largest layer's weights, ${formatBytes(slotBytes)} each: raise it to at least ${formatBytes(least, "up")}`;
  throw new AppError(message, { code: "InsufficientMemory", operation: "placing dense weights" });
}
