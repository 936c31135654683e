// Checkpoints of a run: one folder per step with a file per part of the model and a manifest, which is renamed into place last. Ranks
// write what they own into the same files, so that any number of ranks can read them.
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { openFile, type RandomFile, statIfThere } from "../../weights/file.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import { writeAll } from "../../weights/safetensors-writer.ts";
import { readJson } from "../../weights/store-reader.ts";
import type { Layout } from "./layout.ts";

const checkpointVersion = 1;
const unitAlignment = 4096;
const manifestFile = "manifest.json";
const folderName = /^step-(\d{8})$/;

export type Identity = Readonly<Record<string, string | number>>;

export const identitySchema = z.record(z.string(), z.union([z.string(), z.number()]));

const manifestSchema = z.object({
  version: z.literal(checkpointVersion),
  step: z.number().int().min(0),
  identity: identitySchema,
  parts: z.array(
    z.object({
      file: z.string().regex(/^[\w-]+\.bin$/),
      units: z.array(z.object({ offset: z.number().int().min(0), sha256: z.string().regex(/^[0-9a-f]{64}$/) })),
    }),
  ),
});
type Manifest = z.infer<typeof manifestSchema>;

export interface CheckpointState {
  readonly rank: number;
  /** True on the one rank that writes the unit. */
  writes(part: number, index: number): boolean;
  /** The unit's parameters and the optimizer's arrays, in order, on the rank that writes it. */
  pieces(step: number, part: number, index: number): AsyncIterable<Float32Array>;
  /** Sends this rank's part of the unit to the writer. */
  give(step: number, part: number, index: number): Promise<void>;
  /** True where `take` has something to fill on this rank. */
  wants(part: number, index: number): boolean;
  take(part: number, index: number, values: Float32Array): Promise<void>;
  meet(step: number, what: string): Promise<void>;
  gather(step: number, what: string, own: Int32Array, lengthFrom: (rank: number) => number): Promise<readonly Int32Array[]>;
}

export interface CheckpointToRead {
  readonly step: number;
  readonly stored: number;
  readonly identity: Identity;
  readonly layout: Layout;
  readonly state: CheckpointState;
}

export interface CheckpointToWrite extends CheckpointToRead {
  readonly keep: number;
  /** The step of one more checkpoint that stays. */
  readonly spared?: number | undefined;
  /** The first rank calls it before it changes files; it throws while another process writes the output. */
  mayWrite(): Promise<void>;
}

const nameOf = (step: number): string => `step-${String(step).padStart(8, "0")}`;

/** The steps of all folders, ascending, including those without a manifest. Throws if the folder cannot be read. */
async function stepsIn(dir: string): Promise<readonly number[]> {
  const names = await readdir(dir).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return [];
    throw cause;
  });
  return names.flatMap((name) => (folderName.test(name) ? [Number(name.slice(5))] : [])).toSorted((a, b) => a - b);
}

function offsetsOf(units: Layout["parts"][number]["units"], stored: number): number[] {
  let at = 0;
  return units.map(({ from, to }) => {
    const offset = at;
    at = Math.ceil((at + stored * (to - from) * Float32Array.BYTES_PER_ELEMENT) / unitAlignment) * unitAlignment;
    return offset;
  });
}

const digestBytes = 32;

async function writePart(folder: string, { step, stored, layout, state }: CheckpointToWrite, part: number): Promise<Uint8Array[]> {
  const { name, units } = layout.parts[part] as Layout["parts"][number];
  const digests: Uint8Array[] = [];
  let handle: FileHandle | undefined;
  try {
    for (const [index, offset] of offsetsOf(units, stored).entries()) {
      digests.push(new Uint8Array(digestBytes));
      if (!state.writes(part, index)) {
        await state.give(step, part, index);
        continue;
      }
      handle ??= await open(join(folder, `${name}.bin`), constants.O_WRONLY | constants.O_CREAT);
      const hash = createHash("sha256");
      let at = offset;
      for await (const piece of state.pieces(step, part, index)) {
        const bytes = bytesOf(piece);
        hash.update(bytes);
        await writeAll(handle, bytes, at);
        at += bytes.length;
      }
      digests[index] = hash.digest();
    }
    await handle?.sync();
  } finally {
    await handle?.close();
  }
  return digests;
}

/**
 * Writes the state of a step; all ranks call it. The first rank writes the manifest and drops all checkpoints but the newest
 * `keep`. An existing checkpoint of the step stays, since it has the same bits.
 */
export async function writeCheckpoint(dir: string, checkpoint: CheckpointToWrite): Promise<void> {
  const { step, layout, state } = checkpoint;
  const there = state.rank === 0 && (await begins(dir, checkpoint));
  const [reports] = await state.gather(step, "checkpoint", Int32Array.of(Number(there)), () => 1);
  if (reports?.[0] === 1) return;
  const folder = join(dir, nameOf(step));
  const own: Uint8Array[][] = [];
  for (const part of layout.parts.keys()) own.push(await writePart(folder, checkpoint, part));
  const bytes = Uint8Array.from(Buffer.concat(own.flat()));
  const numbers = new Int32Array(bytes.buffer);
  const all = await state.gather(step, "digests", numbers, () => numbers.length);
  const digests = Buffer.from(numbers.map((_, i) => all.reduce((joined, each) => joined | (each[i] as number), 0)).buffer);
  if (state.rank === 0) await name(dir, checkpoint, digests);
  await state.meet(step, "checkpoint is named");
}

async function begins(dir: string, checkpoint: CheckpointToWrite): Promise<boolean> {
  const folder = join(dir, nameOf(checkpoint.step));
  if (await isThere(dir, checkpoint)) return true;
  // Another process may have begun to write while this one read.
  await checkpoint.mayWrite();
  await mkdir(folder, { recursive: true });
  await rm(join(folder, manifestFile), { force: true });
  return false;
}

async function isThere(dir: string, checkpoint: CheckpointToWrite): Promise<boolean> {
  if (!(await hasManifest(dir, checkpoint.step))) return false;
  try {
    await (await SavedModel.open(dir, checkpoint)).close();
    return true;
  } catch (caught) {
    if (["BadCheckpoint", "OtherNumerics"].includes(AppError.from(caught).code)) return false;
    throw caught;
  }
}

async function name(dir: string, checkpoint: CheckpointToWrite, digests: Buffer): Promise<void> {
  const { step, stored, identity, layout, mayWrite } = checkpoint;
  const folder = join(dir, nameOf(step));
  let unit = 0;
  const parts = layout.parts.map(({ name, units }): Manifest["parts"][number] => ({
    file: `${name}.bin`,
    units: offsetsOf(units, stored).map((offset) => {
      const at = digestBytes * unit++;
      return { offset, sha256: digests.toString("hex", at, at + digestBytes) };
    }),
  }));
  const manifest: Manifest = { version: checkpointVersion, step, identity, parts };
  await mayWrite();
  const unfinished = join(folder, `${manifestFile}.tmp`);
  await writeFile(unfinished, `${JSON.stringify(manifest)}\n`, { flush: true });
  await rename(unfinished, join(folder, manifestFile));
  for (const path of [folder, dir]) await syncFolder(path);
  await dropOld(dir, checkpoint);
}

/** Names last through a loss of power only once their folder is on disk; some file systems cannot say so. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY);
  try {
    await handle.sync();
  } catch (caught) {
    if (!["EINVAL", "ENOTSUP"].includes((caught as NodeJS.ErrnoException).code ?? "")) throw caught;
  } finally {
    await handle.close();
  }
}

/** Drops old and unfinished checkpoints. A newer one stays, since another run or a world without this stalled rank may be writing it. */
async function dropOld(dir: string, { step: newest, keep, spared }: CheckpointToWrite): Promise<void> {
  const before = (await stepsIn(dir)).filter((step) => step < newest);
  const whole = (await stepsOfCheckpoints(dir)).filter((step) => step < newest);
  const kept = new Set(whole.toReversed().slice(0, keep - 1));
  for (const step of before) {
    if (kept.has(step) || step === spared) continue;
    const folder = join(dir, nameOf(step));
    await rm(join(folder, manifestFile), { force: true });
    await rm(folder, { recursive: true, force: true });
  }
}

async function hasManifest(dir: string, step: number): Promise<boolean> {
  return (await statIfThere(join(dir, nameOf(step), manifestFile))) !== undefined;
}

/** The newest step that has a checkpoint, or undefined. */
export async function newestCheckpoint(dir: string): Promise<number | undefined> {
  return (await stepsOfCheckpoints(dir)).at(-1);
}

export async function stepsOfCheckpoints(dir: string): Promise<readonly number[]> {
  const whole: number[] = [];
  for (const step of await stepsIn(dir)) if (await hasManifest(dir, step)) whole.push(step);
  return whole;
}

function bad(path: string, what: string): AppError {
  return new AppError(`${path}: ${what}`, { code: "BadCheckpoint", operation: "reading a checkpoint" });
}

function otherNumerics(path: string, made: unknown, here: unknown): AppError {
  const message =
    `${path}: was made with numerics ${made}, this machine has ${here}; go on where it began, ` +
    "for a job with spec.podTemplate.spec.nodeSelector, or begin anew with another --out";
  return new AppError(message, { code: "OtherNumerics", operation: "reading a checkpoint" });
}

/** Throws AppError `BadCheckpoint` for what another run made, and `OtherNumerics` where this machine computes other bits. */
export function checkIdentity(path: string, made: Identity, own: Identity): void {
  for (const [name, value] of Object.entries(own)) {
    if (made[name] === value) continue;
    if (name === "numerics") throw otherNumerics(path, made[name], value);
    throw bad(path, `was made with ${name} ${made[name]}, this run has ${value}; give the same, or another --out`);
  }
}

/** A checkpoint of a step, whose units are checked against their hashes when they are read. */
export class SavedModel {
  readonly #folder: string;
  readonly #layout: Layout;
  readonly #manifest: Manifest;
  readonly #remedy: string;
  readonly #stored: number;
  #open: { readonly part: number; readonly file: RandomFile } | undefined;

  private constructor(folder: string, { layout, stored }: Pick<CheckpointToRead, "layout" | "stored">, manifest: Manifest, remedy: string) {
    this.#folder = folder;
    this.#layout = layout;
    this.#stored = stored;
    this.#manifest = manifest;
    this.#remedy = remedy;
  }

  /**
   * Throws AppError `BadCheckpoint` for a checkpoint of another run or model, and `OtherNumerics` where this machine
   * computes other bits.
   */
  static async open(dir: string, { step, stored, identity, layout }: Omit<CheckpointToRead, "state">): Promise<SavedModel> {
    const folder = join(dir, nameOf(step));
    const path = join(folder, manifestFile);
    const parsed = manifestSchema.safeParse(await readJson(path, "BadCheckpoint"));
    const remedy = `remove the folder ${folder} to go on from the one before`;
    if (!parsed.success) throw bad(path, `field ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}; ${remedy}`);
    const { data } = parsed;
    if (data.step !== step) throw bad(path, `is of step ${data.step}; ${remedy}`);
    checkIdentity(path, data.identity, identity);
    for (const [index, { name, units }] of layout.parts.entries()) {
      const part = data.parts[index];
      if (part?.file !== `${name}.bin` || part.units.length !== units.length) throw bad(path, `has not the parts of this model; ${remedy}`);
    }
    return new SavedModel(folder, { layout, stored }, data, remedy);
  }

  /** A unit's parameters and optimizer state. Throws AppError `BadCheckpoint` for bytes that do not match the hash. */
  async unit(part: number, index: number): Promise<Float32Array> {
    const file = await this.#fileOf(part);
    const [unit, written] = [this.#layout.parts[part]?.units[index], this.#manifest.parts[part]?.units[index]];
    if (unit === undefined || written === undefined) throw new TypeError(`part ${part} has no unit ${index}`);
    const { from, to } = unit;
    const { offset, sha256 } = written;
    const bytes = await file.read(offset, this.#stored * (to - from) * Float32Array.BYTES_PER_ELEMENT);
    if (createHash("sha256").update(bytes).digest("hex") !== sha256)
      throw bad(file.path, `unit ${index} is not what was written; ${this.#remedy}`);
    return viewF32(bytes);
  }

  async parameters(part: number, index: number): Promise<Float32Array> {
    const values = await this.unit(part, index);
    return values.subarray(0, values.length / this.#stored);
  }

  async close(): Promise<void> {
    await this.#open?.file.close();
    this.#open = undefined;
  }

  async #fileOf(part: number): Promise<RandomFile> {
    if (this.#open?.part === part) return this.#open.file;
    await this.close();
    const file = await openFile(join(this.#folder, this.#manifest.parts[part]?.file ?? ""), "BadCheckpoint");
    this.#open = { part, file };
    return file;
  }
}

/** Fills this rank's state: the experts that it owns and all of the dense part. Throws what `SavedModel` throws. */
export async function readCheckpoint(dir: string, { state, ...which }: CheckpointToRead): Promise<void> {
  const saved = await SavedModel.open(dir, which);
  try {
    for (const [part, { units }] of which.layout.parts.entries())
      for (const index of units.keys()) if (state.wants(part, index)) await state.take(part, index, await saved.unit(part, index));
  } finally {
    await saved.close();
  }
}
