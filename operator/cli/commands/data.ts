// `enodia data import`: parses the line and calls runtime/train, loaded on demand.
import { AppError } from "../../../crds/common.ts";
import { argument, declare, flag, text } from "../command.ts";

const lineMsMin = 5_000;

export const command = declare({
  about:
    'Texts become token data, which "enodia train" reads. A .txt file is one document; a .jsonl file has one in the field "text" of each line.',
  arguments: [argument("<path...>", "files and folders of texts")],
  options: {
    model: text("--model <folder>", "the model that will be trained, or a folder with its config.json and tokenizer.json"),
    out: text("--out <folder>", "where to write: tokens.bin, documents.idx, index.json"),
    overwrite: flag("--overwrite", "replace token data that is there; nothing else is ever replaced"),
    json: flag("--json", "one JSON object on standard output; progress is on standard error"),
  },
  notes: "example   enodia data import texts/ --model smol-moe --out texts-tokens",
  async action({ model, out, overwrite, json }, from) {
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
    const done = `${index.documents} documents, ${index.tokens} tokens written to ${out}`;
    process.stdout.write(
      `${json ? JSON.stringify({ out, ...index }) : `${done}\ntrain on them: enodia train --data ${out} --model ${model}`}\n`,
    );
    return 0;
  },
});
