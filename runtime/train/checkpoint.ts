// Checkpoints of a run: a folder a step, in it one file a part of the model, in that each unit's parameters and optimizer state, such as
// p|m|v, at an offset of 4 KiB, and a manifest with hashes that is renamed to its name last. A folder without manifest is none. Shell.
import { createHash } from "node:crypto";
import { mkdir, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { openFile, statIfThere } from "../weights/file.ts";
import { bytesOf, viewF32 } from "../weights/floats.ts";
import { writeAll } from "../weights/safetensors-writer.ts";
import { readJson } from "../weights/store-reader.ts";
import type { Layout } from "./layout.ts";

const checkpointVersion = 1;
const unitAlignment = 4096;
const manifestFile = "manifest.json";
const folderName = /^step-(\d{8})$/;

/** The choices of a run that its bits depend on, by the names of their options. */
export type Identity = Readonly<Record<string, string | number>>;

const manifestSchema = z.object({
  version: z.literal(checkpointVersion),
  step: z.number().int().min(0),
  identity: z.record(z.string(), z.union([z.string(), z.number()])),
  parts: z.array(
    z.object({
      file: z.string().regex(/^[\w-]+\.bin$/),
      units: z.array(z.object({ offset: z.number().int().min(0), sha256: z.string().regex(/^[0-9a-f]{64}$/) })),
    }),
  ),
});
type Manifest = z.infer<typeof manifestSchema>;

/** What a run is but for its settings: arrays of the floats that a layout lays out. Their names are of the run's identity. */
export interface RunState {
  readonly arrays: readonly string[];
  /** A range of an array in pieces, one after another. */
  read(name: string, from: number, to: number): AsyncIterable<Float32Array>;
  write(name: string, from: number, values: Float32Array): Promise<void>;
}

export interface CheckpointToWrite {
  readonly step: number;
  readonly identity: Identity;
  readonly layout: Layout;
  readonly state: RunState;
}

const nameOf = (step: number): string => `step-${String(step).padStart(8, "0")}`;

/** Steps of the folders there are, ascending, those without manifest too. A folder that cannot be read is not an empty one. */
async function stepsIn(dir: string): Promise<readonly number[]> {
  const names = await readdir(dir).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return [];
    throw cause;
  });
  return names.flatMap((name) => (folderName.test(name) ? [Number(name.slice(5))] : [])).toSorted((a, b) => a - b);
}

type Units = Layout["parts"][number]["units"];

async function writePart(path: string, units: Units, state: RunState): Promise<Manifest["parts"][number]["units"]> {
  const handle = await open(path, "w");
  const written: Manifest["parts"][number]["units"] = [];
  let offset = 0;
  try {
    for (const { from, to } of units) {
      const hash = createHash("sha256");
      let at = offset;
      for (const name of state.arrays)
        for await (const piece of state.read(name, from, to)) {
          const bytes = bytesOf(piece);
          hash.update(bytes);
          await writeAll(handle, bytes, at);
          at += bytes.length;
        }
      written.push({ offset, sha256: hash.digest("hex") });
      offset = Math.ceil(at / unitAlignment) * unitAlignment;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return written;
}

/** Writes the state of a step and drops all checkpoints but the newest `keep`. */
export async function writeCheckpoint(dir: string, { step, identity, layout, state }: CheckpointToWrite, keep: number): Promise<void> {
  const folder = join(dir, nameOf(step));
  await mkdir(folder, { recursive: true });
  await rm(join(folder, manifestFile), { force: true });
  const parts: Manifest["parts"] = [];
  for (const { name, units } of layout.parts) {
    const file = `${name}.bin`;
    parts.push({ file, units: await writePart(join(folder, file), units, state) });
  }
  const manifest: Manifest = { version: checkpointVersion, step, identity, parts };
  const unfinished = join(folder, `${manifestFile}.tmp`);
  await writeFile(unfinished, `${JSON.stringify(manifest)}\n`, { flush: true });
  await rename(unfinished, join(folder, manifestFile));
  await dropOld(dir, step, keep);
}

/**
 * Unfinished ones too; the manifest goes first, so that what is left of a folder is none. A whole one that is newer than what was just
 * written is another run's, and stays.
 */
async function dropOld(dir: string, newest: number, keep: number): Promise<void> {
  const steps = await stepsIn(dir);
  const whole: number[] = [];
  for (const step of steps) if (await hasManifest(dir, step)) whole.push(step);
  const before = whole.filter((step) => step < newest).toReversed();
  const kept = new Set([newest, ...whole.filter((step) => step > newest), ...before.slice(0, keep - 1)]);
  for (const step of steps) {
    if (kept.has(step)) continue;
    const folder = join(dir, nameOf(step));
    await rm(join(folder, manifestFile), { force: true });
    await rm(folder, { recursive: true, force: true });
  }
}

async function hasManifest(dir: string, step: number): Promise<boolean> {
  return (await statIfThere(join(dir, nameOf(step), manifestFile))) !== undefined;
}

/** The newest step that has a checkpoint; undefined where there is none. */
export async function newestCheckpoint(dir: string): Promise<number | undefined> {
  for (const step of (await stepsIn(dir)).toReversed()) if (await hasManifest(dir, step)) return step;
  return undefined;
}

function bad(path: string, what: string): AppError {
  return new AppError(`${path}: ${what}`, { code: "BadCheckpoint", operation: "reading a checkpoint" });
}

/** Nothing is wrong with the checkpoint or the settings: it is the machine that computes other bits. */
function otherNumerics(path: string, made: unknown, here: unknown): AppError {
  const message =
    `${path}: was made with numerics ${made}, this machine has ${here}; go on where it began, ` +
    "for a job with spec.podTemplate.spec.nodeSelector, or begin anew with another --out";
  return new AppError(message, { code: "OtherNumerics", operation: "reading a checkpoint" });
}

/**
 * Fills the arrays. Throws AppError `BadCheckpoint` where bytes are not those that were written, or belong to another run, and
 * `OtherNumerics` where this machine computes other bits.
 */
export async function readCheckpoint(dir: string, { step, identity, layout, state }: CheckpointToWrite): Promise<void> {
  const folder = join(dir, nameOf(step));
  const path = join(folder, manifestFile);
  const parsed = manifestSchema.safeParse(await readJson(path, "BadCheckpoint"));
  const remedy = `remove the folder ${folder} to go on from the one before`;
  if (!parsed.success) throw bad(path, `field ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}; ${remedy}`);
  const { data } = parsed;
  if (data.step !== step) throw bad(path, `is of step ${data.step}; ${remedy}`);
  for (const [name, value] of Object.entries(identity)) {
    if (data.identity[name] === value) continue;
    if (name === "numerics") throw otherNumerics(path, data.identity[name], value);
    throw bad(path, `was made with ${name} ${data.identity[name]}, this run has ${value}; give the same, or another --out`);
  }
  for (const [index, { name, units }] of layout.parts.entries()) {
    const part = data.parts[index];
    if (part?.file !== `${name}.bin` || part.units.length !== units.length) throw bad(path, `has not the parts of this model; ${remedy}`);
    const file = await openFile(join(folder, part.file), "BadCheckpoint");
    try {
      for (const [i, { from, to }] of units.entries()) {
        const floats = to - from;
        const unit = part.units[i] as Manifest["parts"][number]["units"][number];
        const bytes = await file.read(unit.offset, state.arrays.length * floats * Float32Array.BYTES_PER_ELEMENT);
        const digest = createHash("sha256").update(bytes).digest("hex");
        if (digest !== unit.sha256) throw bad(file.path, `unit ${i} is not what was written; ${remedy}`);
        const values = viewF32(bytes);
        for (const [at, name] of state.arrays.entries()) await state.write(name, from, values.subarray(at * floats, (at + 1) * floats));
      }
    } finally {
      await file.close();
    }
  }
}
