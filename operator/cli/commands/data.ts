// `enodia data import`: parses the line and calls runtime/train, which is loaded only then.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";

const help = `usage: enodia data import <file or folder>... --model DIR --out DIR [options]

Texts become token data, which "enodia train" reads. A .txt file is one document; a .jsonl file has one in the field "text" of each line.

          --model DIR    the model that will be trained, or a folder with its config.json and tokenizer.json
          --out DIR      where to write: tokens.bin, documents.idx, index.json
          --overwrite    replace token data that is there; nothing else is ever replaced
          --json         one JSON object on standard output; progress is on standard error

example   enodia data import texts/ --model smol-moe --out texts-tokens`;

export const options = {
  model: { type: "string" },
  out: { type: "string" },
  overwrite: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

export const verbs = ["import"];

/** Time between lines of progress. */
const lineMsMin = 5_000;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  const [verb, ...from] = positionals;
  if (values.help || verb === "help") {
    process.stdout.write(`${help}\n`);
    return 0;
  }
  if (verb !== "import" || from.length === 0) {
    process.stderr.write(`${help}\n`);
    return 2;
  }
  const { model, out, overwrite } = values;
  if (model === undefined) throw new AppError("--model is missing: the folder of the model that will be trained", { code: "BadOption" });
  if (out === undefined) throw new AppError("--out is missing: the folder to write", { code: "BadOption" });
  const { importText } = await import("../../../runtime/train/data/import-text.ts");
  let last = performance.now();
  const onDocument = ({ documents, tokens }: { readonly documents: number; readonly tokens: number }): void => {
    if (performance.now() - last < lineMsMin) return;
    last = performance.now();
    process.stderr.write(`${documents} documents, ${tokens} tokens\n`);
  };
  const index = await importText({ from, model, out, overwrite, onDocument });
  const text = `${index.documents} documents, ${index.tokens} tokens written to ${out}\ntrain on them: enodia train --data ${out} --model ${model}`;
  process.stdout.write(`${values.json ? JSON.stringify({ out, ...index }) : text}\n`);
  return 0;
}
