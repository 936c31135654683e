// Weights of layers that take turns in two slots of a device's memory: the next layer's come from the machine's memory while one computes.
import { streamSlots } from "../backend.ts";
import type { GgmlDevice, TensorWrite } from "./device.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

interface Slot {
  readonly buffer: DeviceBuffer;
  holds: StreamedWeights | undefined;
  /** Set while they are written. */
  loading: Promise<void> | undefined;
}

export interface StreamedWeights {
  readonly slot: Slot;
  readonly writes: TensorWrite[];
  /** Bytes of the device beside what those before it have taken. */
  readonly bytes: number;
}

type Device = Pick<GgmlDevice, "allocate" | "assertOpen" | "setApart">;

export class WeightStream {
  readonly #device: Device;
  readonly #slotBytes: number;
  readonly #slots: Slot[] = [];
  /** As the layers come; behind the last one the first is next. */
  readonly #order: StreamedWeights[] = [];
  #last: Promise<unknown> = Promise.resolve();

  constructor(device: Device, slotBytes: number) {
    this.#device = device;
    this.#slotBytes = slotBytes;
  }

  /** Adds the layer behind those that are there. Its tensors lie in the slot, and `writes` is filled by the caller. */
  add(bytes: number): StreamedWeights {
    if (bytes > this.#slotBytes) throw new TypeError(`${bytes} bytes of weights in a slot of ${this.#slotBytes}`);
    const at = this.#order.length % streamSlots;
    const known = this.#slots[at];
    const slot = known ?? { buffer: this.#device.allocate(this.#slotBytes), holds: undefined, loading: undefined };
    this.#slots[at] = slot;
    const added = { slot, writes: [], bytes: known === undefined ? slot.buffer.bytes : 0 };
    this.#order.push(added);
    return added;
  }

  /** Before the tensors go. */
  async remove(weights: StreamedWeights): Promise<void> {
    const at = this.#order.indexOf(weights);
    if (at < 0) return;
    this.#order.splice(at, 1);
    const { slot } = weights;
    await slot.loading?.catch(() => undefined);
    if (slot.holds === weights) slot.holds = undefined;
    if (this.#order.some((each) => each.slot === slot)) return;
    this.#slots.splice(this.#slots.indexOf(slot), 1);
    slot.buffer.free();
  }

  /** One after another, since a slot is nobody else's while a layer computes. */
  use<T>(weights: StreamedWeights, work: () => Promise<T>): Promise<T> {
    const use = this.#last.then(async () => {
      const { slot } = weights;
      if (slot.holds !== weights) {
        await slot.loading?.catch(() => undefined);
        this.#load(weights);
      }
      await slot.loading;
      const next = this.#order[(this.#order.indexOf(weights) + 1) % this.#order.length];
      if (next !== undefined && next.slot !== slot) this.#ahead(next);
      const done = await work();
      if (next?.slot === slot) this.#ahead(next);
      return done;
    });
    this.#last = use.catch(() => undefined);
    return use;
  }

  #ahead(next: StreamedWeights): void {
    if (next.slot.holds !== next && next.slot.loading === undefined) this.#load(next);
  }

  #load(weights: StreamedWeights): void {
    this.#device.assertOpen();
    const { slot, writes } = weights;
    const settled = (holds: StreamedWeights | undefined): void => {
      slot.holds = holds;
      slot.loading = undefined;
    };
    slot.holds = weights;
    slot.loading = this.#device.setApart(writes).then(
      () => settled(weights),
      (caught) => {
        settled(undefined);
        throw caught;
      },
    );
    slot.loading.catch(() => undefined); // who uses them meets it
  }
}
