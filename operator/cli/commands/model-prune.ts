// `enodia model prune`: parses the line, reads the record of load, and calls runtime/modelstore/surgery.
import { readFile, stat } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import { selectionsOf } from "../../../runtime/experts/replay/topics.ts";
import type { Dropped } from "../../../runtime/modelstore/surgery/prune.ts";
import { decodeTrace } from "../../planner/offline/traces.ts";
import { argument, declare, text, value } from "../command.ts";
import { expertTraceOutput, readExpertTrace } from "../expert-trace-file.ts";
import { log, overwrite, say } from "../model-options.ts";
import { outputOptions, whole } from "../options.ts";

const recordBytesMax = 512 * 2 ** 20;
/** Enough to tell the kind of a record. */
const headBytes = 4096;

/** "3" in every layer, "0.3" in layer 0. */
function droppedIn(list: string): readonly Dropped[] {
  return list.split(",").map((one) => {
    const [, layer, expert] = /^(?:(\d{1,4})\.)?(\d{1,4})$/.exec(one.trim()) ?? [];
    if (expert === undefined) throw new AppError("it must be a list like 3,7 or, by layer, 0.3,1.7", { code: "InvalidOption" });
    return layer === undefined ? { expert: Number(expert) } : { layer: Number(layer), expert: Number(expert) };
  });
}

/** Selections by layer and expert, over all windows or texts. */
async function loadIn(path: string): Promise<number[][]> {
  const { size } = await stat(path);
  if (size > recordBytesMax)
    throw new AppError(`--load: ${path} has ${size} bytes, more than ${recordBytesMax}; record fewer windows`, { code: "BadOption" });
  const bytes = await readFile(path);
  if (expertTraceOutput(path, false).isOurs(bytes.subarray(0, headBytes))) return selectionsOf(await readExpertTrace(path));
  const { layers, experts, counts } = await decodeTrace(bytes);
  const load = Array.from({ length: layers }, () => new Array<number>(experts).fill(0));
  for (const [i, count] of counts.entries()) {
    const layer = load[Math.floor(i / experts) % layers] as number[];
    layer[i % experts] = (layer[i % experts] as number) + count;
  }
  return load;
}

export const command = declare({
  about:
    "A store without some of its experts: their units and their rows of the routers go, all else stays to the bit. A text in which none of them would be chosen is the same, where gates are renormalised over the chosen.",
  arguments: [argument("<store>", "the model store"), argument("<out>", "the folder of the new one")],
  options: {
    ...outputOptions,
    overwrite,
    keep: value("--keep <number>", "experts that stay in every layer: those that the record has most often", whole(1, 4095)),
    load: text("--load <file>", "the record, as enodia plan record or enodia model trace writes it"),
    drop: value("--drop <list>", "experts that go: 3,7 from every layer, 0.3,1.7 from layers 0 and 1", droppedIn),
    topK: value(
      "--top-k <number>",
      "experts that a token uses, at most as many as before (default: as before, where they suffice)",
      whole(1, 64),
    ),
  },
  notes: "example   enodia model prune mixtral mixtral-6 --keep 6 --load chat.trace.gz",
  async action({ output, json, load: record, ...options }, from, out) {
    const { prune } = await import("../../../runtime/modelstore/surgery/prune.ts");
    const load = record === undefined ? undefined : await loadIn(record);
    const { index, ...done } = await prune({ ...options, from, out, load }, log);
    const { layers, experts, topK, modelDigest } = index;
    const lost = done.lost === undefined ? "" : `\n${(100 * done.lost).toFixed(2)}% of the recorded selections chose experts that went`;
    const text = `${layers} layers of ${experts} experts, top-${topK}, written to ${done.out}\ndigest ${modelDigest}${lost}`;
    say({ output, json }, { ...done, modelDigest }, text);
    return 0;
  },
});
