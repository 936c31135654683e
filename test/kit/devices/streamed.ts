// A device whose layers' dense weights all take turns in two slots.
import type { Backend } from "../../../runtime/compute/backend.ts";

/** `slotBytes`: at least the largest layer's. */
export function streamedBackend(device: Backend, slotBytes: number): Backend {
  const compile: Backend["compile"] = (segment, weights, layer) => {
    const isBlock = segment.ops.some(({ op }) => op === "attention");
    return device.compile(segment, weights, layer, isBlock ? slotBytes : undefined);
  };
  return new Proxy(device, {
    get(target, name) {
      const value: unknown = name === "compile" ? compile : Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
