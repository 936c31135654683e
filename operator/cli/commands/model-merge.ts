// `enodia model merge`: parses the line and calls runtime/modelstore/surgery.
import { argument, choice, declare, value } from "../command.ts";
import { log, overwrite, say } from "../model-options.ts";
import { number, outputOptions, whole } from "../options.ts";

export const command = declare({
  about:
    "Two models that were trained apart from one origin become one: their experts side by side, as they are to the bit, and the rows of both routers. A gate then chooses among all of them, and learns more by training: enodia train --model OUT.",
  arguments: [
    argument("<first>", "a model store"),
    argument("<second>", "another of the same architecture and sizes"),
    argument("<out>", "the folder of the new store"),
  ],
  options: {
    ...outputOptions,
    overwrite,
    dense: choice("--dense <which>", "what both have beside experts: their mean, or the first one's", ["mean", "first"], "mean"),
    topK: value("--top-k <number>", "experts that a token uses (default: as many as in the first)", whole(1, 64)),
    offset: value(
      "--offset <x>",
      "added to the scores of the second one's experts, where routers have biases; -1000: never chosen",
      number,
    ),
  },
  notes: "example   enodia model merge mixtral-de mixtral-fr mixtral-both",
  async action({ output, json, ...options }, first, second, out) {
    const { merge } = await import("../../../runtime/modelstore/surgery/merge.ts");
    const { index, ...done } = await merge({ ...options, first, second, out }, log);
    const { layers, experts, topK, modelDigest } = index;
    const text = `${layers} layers of ${experts} experts, top-${topK}, written to ${done.out}\ndigest ${modelDigest}`;
    say({ output, json }, { ...done, modelDigest, experts, topK }, text);
    return 0;
  },
});
