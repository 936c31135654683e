// Expert units on the disk of a rank that mounts no model: what it fetched is kept in the file of the codec at the place that the index
// gives it, so that the store's reader finds it there and other ranks can have it. The file is as long as the whole one and holds as much
// as was written: never more than the store has.
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { ExpertIndex } from "../../weights/store.ts";

type Units = NonNullable<ExpertIndex["codecs"][CodecName]>["units"];

export class KeptUnits {
  readonly #file: FileHandle;
  readonly #units: Units;
  /** Units that are there, or not, as far as is known. */
  readonly #known = new Map<string, boolean>();
  /** A file may be of a process before this one, in the same pod. */
  readonly #former: boolean;

  private constructor(file: FileHandle, units: Units, former: boolean) {
    this.#file = file;
    this.#units = units;
    this.#former = former;
  }

  /** This rank's own, with the index of the store in it. */
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

  /** Whether it is worth reading; the reader checks what it reads. */
  has(layer: number, expert: number): boolean {
    return this.#known.get(key(layer, expert)) ?? this.#former;
  }

  /** It was read, and is not what the index says. */
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
