// `enodia model trace` records which experts texts choose; `enodia model experts` shows it by topic.
import { AppError } from "../../../crds/common.ts";
import { backendChoices, codecNames } from "../../../crds/names.ts";
import { topicUses } from "../../../runtime/experts/replay/topics.ts";
import { tokensOf } from "../../../runtime/experts/replay/trace.ts";
import { describeGrid } from "../../../runtime/placement/grid.ts";
import { argument, choice, declare, flag, text, texts, value } from "../command.ts";
import { expertTraceOutput, readExpertTrace, writeExpertTrace } from "../expert-trace-file.ts";
import { expertUseCommand, useSvg, useText } from "../expert-use.ts";
import { asksForJson, outputOptions, whole } from "../options.ts";
import { checkOutput, writeOutput } from "../output-file.ts";
import { svgOutput } from "../svg.ts";
import { terminalScreen } from "../watch.ts";

export const tracing = declare({
  about:
    "Runs texts through a model store and records which experts each token chooses, and which ones the routers of the next layers name from a layer's rows, before the token is there. All experts are loaded on this machine.",
  arguments: [argument("<folder>", "the model store")],
  options: {
    ...outputOptions,
    text: texts("--text <file>", "plain text, 16 MiB at most, named after its topic; again for each topic"),
    out: text("--out <file>", "where to write the trace (gzip JSON)"),
    overwrite: flag("--overwrite", "replace the trace that is there"),
    texts: value("--texts <number>", "pieces of each file", whole(1, 65_536), 4),
    prompt: value("--prompt-tokens <number>", "of each piece, computed at once", whole(1, 4096), 32),
    tokens: value("--tokens <number>", "that follow, one at a time", whole(1, 65_536), 64),
    follow: flag(
      "--follow-text",
      "they are the file's own instead of the model's likeliest, which repeat themselves where a model is small",
    ),
    codec: choice("--codec <name>", "form of the experts (default: the smallest that the store has)", codecNames),
    backend: choice("--backend <name>", "the device", backendChoices, "Auto"),
    threads: value("--threads <number>", "threads of cpu; more than 1 only where no other process computes", whole(1, 512), 1),
  },
  notes: "example   enodia model trace smol-moe --text code.txt --text law.txt --out trace.json.gz && enodia plan tiers trace.json.gz",
  async action({ text: files, out, overwrite, output, json, ...options }, dir) {
    if (files.length === 0) throw new AppError("--text is missing: a file for each topic", { code: "BadOption" });
    if (out === undefined) throw new AppError("--out is missing: the file to write", { code: "BadOption" });
    const file = expertTraceOutput(out, overwrite);
    await checkOutput(file);
    const { recordTrace } = await import("../../../runtime/cli/trace.ts");
    const trace = await recordTrace({ ...options, dir, files }, (line) => process.stderr.write(`${line}\n`));
    await writeExpertTrace(file, trace);
    const report = {
      out,
      modelDigest: trace.modelDigest,
      texts: trace.texts.length,
      tokens: tokensOf(trace.texts),
      layerMs: trace.layerMs,
    };
    const said = `${out}: ${report.tokens} tokens of ${report.texts} texts in ${describeGrid(trace.grid)}`;
    process.stdout.write(`${asksForJson({ output, json }) ? JSON.stringify(report) : said}\n`);
    return 0;
  },
});

export const experts = declare({
  about:
    "Which experts the topics of a trace use: rows are layers, and the darker a cell, the more of the topic's tokens chose the expert.",
  arguments: [argument("<trace>", 'recorded by "enodia model trace"')],
  options: { ...outputOptions, svg: text("--svg <file>", "writes a picture too; an earlier one of this command is replaced") },
  async action({ svg, ...options }, file) {
    const trace = await readExpertTrace(file);
    const uses = topicUses(trace);
    const title = `${describeGrid(trace.grid)}, top ${trace.topK}, model ${trace.modelDigest.slice(0, 12)}`;
    if (svg !== undefined) await writeOutput(svgOutput(svg, "--svg", expertUseCommand), useSvg(uses, title));
    process.stdout.write(`${asksForJson(options) ? JSON.stringify(uses) : useText(uses, terminalScreen.size().columns)}\n`);
    return 0;
  },
});
