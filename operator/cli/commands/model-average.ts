// `enodia model average`: parses the line and calls runtime/modelstore/surgery.
import { argument, declare } from "../command.ts";
import { log, overwrite, say } from "../model-options.ts";
import { outputOptions } from "../options.ts";

export const command = declare({
  about:
    "A Mixtral becomes a dense Llama again, in a Hugging Face folder: each FFN is the mean of its layer's experts. Of what upcycle made without noise it is the model that upcycle began with, to the bit.",
  arguments: [argument("<store>", "the model store"), argument("<out>", "the folder of the dense model")],
  options: { ...outputOptions, overwrite },
  notes: "example   enodia model average smol-moe smol && enodia model import smol --out smol-store",
  async action({ output, json, ...options }, from, out) {
    const { average } = await import("../../../runtime/modelstore/surgery/average.ts");
    const done = await average({ ...options, from, out }, log);
    say(
      { output, json },
      done,
      `a dense Llama of experts in ${done.codec} written to ${done.out}\nserve it: enodia model import ${done.out}`,
    );
    return 0;
  },
});
