// Options and output that the commands of models share.
import { codecNames } from "../../crds/names.ts";
import { flag, text, value } from "./command.ts";
import { asksForJson, namesOf, outputOptions } from "./options.ts";

/** Forms of experts that are written. */
export const codec = (fallback: string) =>
  value("--codec <list>", `expert codecs to write, with commas between: ${codecNames.join(", ")} (default: ${fallback})`, (list) => {
    const chosen = namesOf(codecNames)(list);
    return codecNames.filter((name) => chosen.includes(name));
  });
export const overwrite = flag("--overwrite", "replace what an earlier command wrote there; nothing else is ever replaced");
export const written = {
  ...outputOptions,
  out: text("--out <folder>", "where to write (default: the cache's models folder)"),
  overwrite,
};
/** Progress goes to stderr, so that stdout has only the result. */
export const log = (line: string): void => void process.stderr.write(`${line}\n`);

export const say = (options: { readonly output: string | undefined; readonly json: boolean }, result: unknown, text: string): void =>
  void process.stdout.write(`${asksForJson(options) ? JSON.stringify(result) : text}\n`);
