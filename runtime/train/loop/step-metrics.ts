// A run's metrics file: one JSON line per step; steps past the checkpoint are repeated.
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const metricsSchema = z.object({ step: z.number(), validationLoss: z.number().optional() });

/** An unreadable line, as after a kill, counts as a step beyond all others. */
function parsed(line: string): z.infer<typeof metricsSchema> {
  try {
    return metricsSchema.parse(JSON.parse(line));
  } catch {
    return { step: Number.POSITIVE_INFINITY };
  }
}

export class Metrics {
  readonly #path: string;
  readonly #mayWrite: () => Promise<void>;

  /** `mayWrite` throws while another process writes the output. */
  constructor(out: string, mayWrite: () => Promise<void>) {
    this.#path = join(out, "metrics.jsonl");
    this.#mayWrite = mayWrite;
  }

  /** Returns the known validation loss of the step. */
  async cutAfter(step: number): Promise<number | undefined> {
    const text = await readFile(this.#path, "utf8").catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") return "";
      throw cause;
    });
    const kept = text.split("\n").filter((line) => parsed(line).step <= step);
    await this.#mayWrite();
    const unfinished = `${this.#path}.tmp`;
    await writeFile(unfinished, kept.map((line) => `${line}\n`).join(""), { flush: true });
    await rename(unfinished, this.#path);
    return kept.map(parsed).findLast((line) => line.step === step && line.validationLoss !== undefined)?.validationLoss;
  }

  async add(line: object): Promise<void> {
    await this.#mayWrite();
    await writeFile(this.#path, `${JSON.stringify(line)}\n`, { flag: "a" });
  }
}
