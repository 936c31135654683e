// Experts on the disk of a rank without a model mount: each fetched unit goes to its place in the codec's sparse file, for the store
// reader and for other ranks.
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { ExpertIndex } from "../../weights/store.ts";

type Units = NonNullable<ExpertIndex["codecs"][CodecName]>["units"];

export class KeptUnits {
  readonly #file: FileHandle;
  readonly #units: Units;
  readonly #known = new Map<string, boolean>();
  /** The file may belong to an earlier process in this pod. */
  readonly #former: boolean;

  private constructor(file: FileHandle, units: Units, former: boolean) {
    this.#file = file;
    this.#units = units;
    this.#former = former;
  }

  static async open(dir: string, index: Pick<ExpertIndex, "codecs">, codec: CodecName): Promise<KeptUnits> {
    const entry = index.codecs[codec];
    if (entry === undefined) throw new AppError(`${dir}: holds no ${codec} experts`, { code: "CodecNotFound" });
    const bytes = entry.units.flat().reduce((most, unit) => Math.max(most, unit.offset + unit.bytes), 0);
    const path = join(dir, entry.file);
    const before = await open(path, "r+").catch(() => undefined);
    const file = before ?? (await open(path, "w+"));
    await file.truncate(bytes);
    return new KeptUnits(file, entry.units, before !== undefined);
  }

  /** False when reading is pointless; the reader verifies. */
  has(layer: number, expert: number): boolean {
    return this.#known.get(key(layer, expert)) ?? this.#former;
  }

  /** True once this process has written or read it. */
  isKnown(layer: number, expert: number): boolean {
    return this.#known.get(key(layer, expert)) === true;
  }

  /** The unit on disk was read and is right. */
  verified(layer: number, expert: number): void {
    this.#known.set(key(layer, expert), true);
  }

  /** The unit on disk was read and is wrong. */
  missing(layer: number, expert: number): void {
    this.#known.set(key(layer, expert), false);
  }

  /** `unit`: verified bytes. */
  async keep(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    const place = this.#units[layer]?.[expert];
    if (place === undefined || place.bytes !== unit.byteLength)
      throw new AppError(`expert ${layer}/${expert}: ${unit.byteLength} bytes are no unit of the index`, { code: "Internal" });
    for (let done = 0; done < unit.byteLength; )
      done += (await this.#file.write(unit, done, unit.byteLength - done, place.offset + done)).bytesWritten;
    this.#known.set(key(layer, expert), true);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

const key = (layer: number, expert: number): string => `${layer}.${expert}`;
