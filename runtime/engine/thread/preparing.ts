// Requests that wait for what their language needs, the texts of tokens, before they are queued. There are only so many, and one that is
// taken back meanwhile is told so.
import { AppError } from "../../../crds/common.ts";
import type { Languages } from "../../constraints/languages.ts";
import type { GenerateEvent } from "../schedule/request.ts";

/** Requests that wait for the texts of tokens at once. */
const preparingMax = 64;

export class Preparing {
  readonly #languages: Pick<Languages, "prepare">;
  readonly #tell: (id: string, event: GenerateEvent) => void;
  readonly #ids = new Set<string>();

  constructor(languages: Pick<Languages, "prepare">, tell: (id: string, event: GenerateEvent) => void) {
    this.#languages = languages;
    this.#tell = tell;
  }

  /** Waits for what languages need; false when the request was taken back meanwhile, and told so. Throws AppError `Busy`. */
  async wait(id: string): Promise<boolean> {
    if (this.#ids.size >= preparingMax)
      throw new AppError("too many requests wait for the tokenizer", { code: "Busy", retry: { afterMs: 1000 } });
    this.#ids.add(id);
    try {
      await this.#languages.prepare();
    } catch (caught) {
      this.#ids.delete(id);
      throw caught;
    }
    if (this.#ids.delete(id)) return true;
    this.#tell(id, { type: "finish", reason: "cancelled", outputTokens: 0 });
    return false;
  }

  takeBack(id: string): void {
    this.#ids.delete(id);
  }
}
