// `enodia plan generate`: writes a synthetic trace in the format that `enodia plan simulate` reads. Offline.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { encodeTrace } from "../../planner/offline/traces.ts";
import { generateTrace, type PresetName, presets } from "../../planner/offline/traces-generate.ts";
import { whole } from "../options.ts";
import { checkOutput, traceOutput, writeOutput } from "../output-file.ts";

const usage = `usage: enodia plan generate --preset NAME --out FILE [options]

Writes a trace of expert load like that of a known model: topics that drift, shared by all layers, and flash crowds.

      --preset NAME    ${Object.keys(presets).join(", ")}
      --out FILE       where to write it (gzip JSON)
      --overwrite      replace the trace that is there
      --seed N         same seed, same trace (default 1)
      --windows N      number of windows (default 40)`;

export const options = {
  preset: { type: "string" },
  out: { type: "string" },
  overwrite: { type: "boolean" },
  seed: { type: "string" },
  windows: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...args], options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  if (values.preset === undefined || !Object.hasOwn(presets, values.preset)) {
    throw new AppError(`--preset: one of ${Object.keys(presets).join(", ")}`, { code: "InvalidOption" });
  }
  if (values.out === undefined) throw new AppError("--out: the file to write", { code: "InvalidOption" });
  const out = traceOutput(values.out, values.overwrite);
  await checkOutput(out);
  const model = presets[values.preset as PresetName];
  const seed = whole(values.seed, "--seed", 0, 2 ** 31) ?? 1;
  const windows = whole(values.windows, "--windows", 1, 10_000) ?? model.windows;
  const trace = generateTrace(values.preset, { ...model, windows }, seed);
  const bytes = await encodeTrace(trace);
  await writeOutput(out, bytes);
  process.stdout.write(
    `${values.out}: ${trace.windows} windows of ${trace.layers} layers x ${trace.experts} experts, ${bytes.byteLength} bytes\n`,
  );
  return 0;
}
