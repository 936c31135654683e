// The simulated model: its shape, the bytes that each expert is declared to have, and what a row says of the bytes that computed it.
import { createHash } from "node:crypto";
import { cellValues, type ExpertGrid, expertsIn } from "../../runtime/placement/grid.ts";
import { type ExpertIndex, unitAlignment } from "../../runtime/weights/store.ts";

export interface SimShape extends ExpertGrid {
  /** Resident bytes of an expert, of the largest where layers differ. */
  readonly bytes: number;
  /** The bytes of an expert in each layer, resident and stored; unset = `bytes` in all layers. */
  readonly layerBytes?: readonly number[];
  /** The bytes of a stored expert; unset = as many as `bytes`. */
  readonly storedBytes?: number;
  readonly budgetBytes: number;
  /** Ranks may serve more than that. */
  readonly oversubscribed?: boolean;
}

const defaultDigest = "sha256:model";
/** Width of rows. */
export const hidden = 2;
const headerBytes = 8;

/** The fingerprint of an expert's bytes as they are in memory; exact in f32. */
export function fingerprint(bytes: Uint8Array): number {
  let h = 0x811c9dc5;
  const step = Math.max(1, Math.floor(bytes.length / 256));
  for (let i = 0; i < bytes.length; i += i < headerBytes ? 1 : step) h = Math.imul(h ^ (bytes[i] as number), 0x01000193);
  return (h >>> 9) + 1;
}

export class SimModel {
  readonly shape: SimShape;
  readonly index: ExpertIndex;
  readonly #declared: readonly number[];

  constructor(shape: SimShape, digest = defaultDigest) {
    this.shape = shape;
    const { layers, experts } = shape;
    const units = Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: expertsIn(shape, layer) }, (_, expert) => {
        const bytes = this.content(layer, expert);
        const sha256 = createHash("sha256").update(bytes).digest("hex");
        return { offset: this.key(layer, expert) * unitAlignment * Math.ceil(bytes.length / unitAlignment), bytes: bytes.length, sha256 };
      }),
    );
    const file = { file: "experts.bin", units };
    this.index = {
      ...{ version: 1, modelDigest: digest, architecture: "sim", layers, experts, topK: 2, hidden, ffn: 1, dense: {} },
      codecs: { f32: file, q4_0: file },
    };
    this.#declared = cellValues(shape, (layer, expert) => fingerprint(this.content(layer, expert)));
  }

  key(layer: number, expert: number): number {
    return layer * this.shape.experts + expert;
  }

  /** The declared bytes, a fresh copy. */
  content(layer: number, expert: number): Uint8Array {
    const { storedBytes, bytes, layerBytes } = this.shape;
    const unit = new Uint8Array(Math.max(headerBytes, layerBytes?.[layer] ?? storedBytes ?? bytes));
    const view = new DataView(unit.buffer);
    view.setUint32(0, layer);
    view.setUint32(4, expert);
    for (let i = headerBytes; i < Math.min(unit.length, 64); i++) unit[i] = (layer * 31 + expert * 17 + i) & 255;
    return unit;
  }

  /** The fingerprint that a row computed from the declared bytes has. */
  fingerprint(layer: number, expert: number): number {
    return this.#declared[this.key(layer, expert)] as number;
  }

  /** The expert whose unit starts at this byte of the file. */
  at(offset: number): { readonly layer: number; readonly expert: number } {
    const units = this.index.codecs.f32?.units ?? [];
    const layer = units.findIndex((row) => row.some((unit) => unit.offset === offset));
    return { layer, expert: units[layer]?.findIndex((unit) => unit.offset === offset) ?? -1 };
  }
}

/** One bit of some bytes is another one; a copy. */
export function flipped(bytes: Uint8Array, random: () => number): Uint8Array {
  const copy = bytes.slice();
  const at = Math.floor(random() * copy.length);
  copy[at] = (copy[at] as number) ^ (1 << Math.floor(random() * 8));
  return copy;
}
