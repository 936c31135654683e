// The writer of a run's output: the first rank of its newest world. It puts its name into the folder and checks it before each change,
// so that a stalled rank overwrites nothing.
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";

const nameSchema = z.object({ run: z.string(), world: z.number().int(), writer: z.string() });
type Name = z.infer<typeof nameSchema>;

/** World numbers compare only within one run. */
export interface WriterOf {
  readonly run?: string | undefined;
  readonly world: number;
}

export class Writer {
  readonly #path: string;
  readonly #name: Name;

  private constructor(path: string, name: Name) {
    this.#path = path;
    this.#name = name;
  }

  /** Throws AppError `GivenUp` where a newer world of the run has a writer. */
  static async take(out: string, { run = randomUUID(), world }: WriterOf): Promise<Writer> {
    await mkdir(out, { recursive: true });
    const path = join(out, "writer.json");
    const there = await nameIn(path);
    if (there?.run === run && there.world > world) throw givenUp(path, world);
    const writer = new Writer(path, { run, world, writer: randomUUID() });
    const unfinished = `${path}.${writer.#name.writer}.tmp`;
    await writeFile(unfinished, `${JSON.stringify(writer.#name)}\n`, { flush: true });
    await rename(unfinished, path);
    return writer;
  }

  /** Throws AppError `GivenUp` for another writer. One may still come before the change, but its bytes for a step are the same. */
  async check(): Promise<void> {
    const there = await nameIn(this.#path);
    if (there?.writer !== this.#name.writer) throw givenUp(this.#path, this.#name.world);
  }
}

async function nameIn(path: string): Promise<Name | undefined> {
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT") return "";
    throw cause;
  });
  try {
    return nameSchema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function givenUp(path: string, world: number): AppError {
  const message =
    `${path}: another run, or a newer world of this one, writes here; this one, of world ${world}, changes nothing more; ` +
    "end the other one, or give another --out";
  return new AppError(message, { code: "GivenUp", operation: "writing a run's output" });
}
