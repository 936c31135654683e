// `enodia plan generate`: writes a synthetic trace for `enodia plan simulate`.
import { AppError } from "../../../crds/common.ts";
import { encodeTrace } from "../../planner/offline/traces.ts";
import { generateTrace, type PresetName, presets } from "../../planner/offline/traces-generate.ts";
import { choice, declare, flag, text, value } from "../command.ts";
import { whole } from "../options.ts";
import { checkOutput, traceOutput, writeOutput } from "../output-file.ts";

const names = Object.keys(presets) as PresetName[];

export const command = declare({
  about: "Writes a trace of expert load like that of a known model: topics that drift, shared by all layers, and flash crowds.",
  options: {
    preset: choice("--preset <name>", "the model", names),
    out: text("--out <file>", "where to write it (gzip JSON)"),
    overwrite: flag("--overwrite", "replace the trace that is there"),
    seed: value("--seed <number>", "same seed, same trace", whole(0, 2 ** 31), 1),
    windows: value("--windows <number>", "number of windows (default: 40)", whole(1, 10_000)),
  },
  async action({ preset, out, overwrite, seed, ...options }) {
    if (preset === undefined) throw new AppError(`--preset: one of ${names.join(", ")}`, { code: "InvalidOption" });
    if (out === undefined) throw new AppError("--out: the file to write", { code: "InvalidOption" });
    const file = traceOutput(out, overwrite);
    await checkOutput(file);
    const model = presets[preset];
    const trace = generateTrace(preset, { ...model, windows: options.windows ?? model.windows }, seed);
    const bytes = await encodeTrace(trace);
    await writeOutput(file, bytes);
    const { windows, layers, experts } = trace;
    process.stdout.write(`${out}: ${windows} windows of ${layers} layers x ${experts} experts, ${bytes.byteLength} bytes\n`);
    return 0;
  },
});
