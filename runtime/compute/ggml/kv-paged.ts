// The KV cache with memory committed page by page: slots are address space [slot][stride], and trimming returns pages.
import { AppError } from "../../../crds/common.ts";
import type { KvGroup } from "../../kernels/kv-groups.ts";
import type { KvSpec } from "../backend.ts";
import { checkCopy } from "../call-checks.ts";
import type { GgmlDevice } from "./device.ts";
import { GgmlKv, type KvRun, type LayerTensors, type Piece, rowBytesOf } from "./kv-memory.ts";
import { runsOfSpans, type Span } from "./kv-runs.ts";
import { multiplied } from "./scores.ts";
import { avxAlone } from "./types.ts";

/** Attention reads a multiple of so many positions. */
const lengthStep = 64;
export const lengthRead = (positions: number): number => Math.ceil(positions / lengthStep) * lengthStep;
/** See `runsOfSpans`. */
const paddings = [1.5, 3, Number.POSITIVE_INFINITY];
/** The maximum address space of all slots; some machines bound it. */
const addressBytesMax = 2 ** 40;

/** The context, rounded up so that slots begin at pages in every tensor. */
function strideOf(context: number, rowBytes: readonly number[], pageBytes: number): number {
  const tokens = rowBytes.reduce((most, bytes) => {
    let step = 1;
    while ((step * bytes) % pageBytes !== 0) step *= 2; // pages are powers of two
    return Math.max(most, step);
  }, lengthStep);
  return Math.ceil(context / tokens) * tokens;
}

/** Two builds with AVX alone multiply f16 in unlike ways. */
export const attendsByProducts = ({ exact, ggml }: Pick<GgmlDevice, "exact" | "ggml">, type: KvSpec["type"] = "f32"): boolean =>
  exact && process.arch === "x64" && (type === "f32" || !avxAlone.has(ggml.cpuBuild));

export class PagedKv extends GgmlKv {
  readonly slots: number;
  readonly shared = false;
  readonly byProducts: boolean;
  readonly stride: number;
  readonly #pageBytes: number;

  constructor(device: GgmlDevice, spec: KvSpec, pageBytes: number) {
    super(device, spec, pageBytes);
    this.#pageBytes = pageBytes;
    this.byProducts = attendsByProducts(device, spec.type) && multiplied(spec);
    const rowBytes = rowBytesOf(spec, pageBytes);
    this.stride = strideOf(spec.context, rowBytes, pageBytes);
    const slotBytes = spec.layers * this.stride * rowBytes.reduce((sum, bytes) => sum + bytes, 0);
    this.slots = this.#reserve(Math.max(1, Math.min(spec.slots, Math.floor(addressBytesMax / slotBytes))));
  }

  piecesOf(slot: number): readonly Piece[] {
    return [{ position: 0, row: slot * this.stride, count: this.context }];
  }

  /** Products do not skip what a mask hides; the device's own operation does. */
  runsOf({ past, tokens, firstSlot }: KvGroup): readonly KvRun[] {
    const step = this.stride;
    const spans = Array.from(past, (from, b) => ({ first: (firstSlot + b) * step, length: lengthRead(from + tokens) }));
    const join = (run: KvRun, { length }: Span) => ({ ...run, batch: run.batch + 1, length: Math.max(run.length, length), step });
    return runsOfSpans(spans, this.byProducts ? paddings : paddings.slice(-1), join) as readonly KvRun[];
  }

  async copySlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (length > 0 && from !== to) this.#copy(this.layers, from, to, length);
  }

  async moveSlot(from: number, to: number, length: number): Promise<void> {
    checkCopy(this, from, to, length);
    if (from === to) return this.trimSlot(from, length);
    for (const layer of this.layers) {
      if (length > 0) this.#copy([layer], from, to, length);
      this.#trim([layer], from, 0);
    }
  }

  trimSlot(slot: number, length: number): void {
    checkCopy(this, slot, slot, length);
    this.#trim(this.layers, slot, length);
  }

  #copy(layers: readonly LayerTensors[], from: number, to: number, count: number): void {
    this.copyRows(layers, [{ from: from * this.stride, to: to * this.stride, count }]);
  }

  #trim(layers: readonly LayerTensors[], slot: number, length: number): void {
    for (const { base, rowBytes } of layers.flatMap(({ keys, values }) => [keys, values])) {
      this.device.discard(base + BigInt((slot * this.stride + length) * rowBytes), (this.stride - length) * rowBytes);
    }
  }

  /** Reserves address space for so many slots, or half as many, and so on. */
  #reserve(slots: number): number {
    const { ggml, alignment } = this.device;
    try {
      this.hold(slots * this.stride, Math.max(this.#pageBytes, alignment), ({ base, bytes }) => {
        ggml.singlePages(base, bytes);
        this.device.discard(base, bytes); // reused memory may hold any numbers
      });
      return slots;
    } catch (caught) {
      if (slots > 1 && AppError.from(caught).code === "OutOfMemory") return this.#reserve(slots >> 1);
      this.abandon();
      throw caught;
    }
  }
}
