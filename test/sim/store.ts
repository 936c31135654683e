// The model store as a simulated pod has it: the production reader and its check of every unit, over a disk that takes its time,
// gives bytes that have rotted, or does not answer.
import type { ModelStore } from "../../runtime/weights/store.ts";
import { unitReader } from "../../runtime/weights/store-reader.ts";
import type { VirtualClock } from "./clock.ts";
import { flipped, type SimModel } from "./model.ts";

/** A read at full speed. */
const readMs = 20;
const sliceMs = 500;

export interface Disk {
  /** Reads hang while this is true. */
  hanging(): boolean;
  /** Is what this read gives damaged? */
  damaged(): boolean;
  /** Slowness, asked again and again. */
  factor(): number;
}

export function simStore(model: SimModel, disk: Disk, clock: VirtualClock): ModelStore {
  const read = async (offset: number): Promise<Uint8Array> => {
    for (let left = readMs * (0.5 + clock.random()); left > 1e-6 || disk.hanging(); ) {
      const factor = disk.factor();
      const slice = disk.hanging() ? sliceMs : Math.min(left * factor, sliceMs);
      await clock.sleep(slice);
      if (!disk.hanging()) left -= slice / factor;
    }
    const { layer, expert } = model.at(offset);
    const bytes = model.content(layer, expert);
    return disk.damaged() ? flipped(bytes, clock.random) : bytes;
  };
  const never = (): never => {
    throw new Error("a simulated store has experts only");
  };
  return {
    ...{
      dir: "simulated",
      index: model.index,
      config: {},
      denseNames: [],
      denseInfo: () => undefined,
      denseForms: [],
      denseBytes: () => 0,
      layerShapes: [],
      readDense: never,
      decodeUnit: never,
      unitForms: never,
      close: async () => {},
    },
    readUnit: unitReader("simulated", model.index, async () => ({ read })),
  };
}
