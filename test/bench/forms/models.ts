// The models whose forms are compared, with the texts and questions that they are judged by, which neither was trained or measured on.
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RoundedType } from "../../../runtime/modelstore/quantize/types.ts";
import { config, modelFiles } from "../../demo/training/model.ts";
import { root } from "../../kit/deployment/product.ts";
import { modelsFolder } from "../../kit/models/local-models.ts";
import { execOk } from "../../kit/processes/process.ts";
import { log } from "../serve.ts";

export interface Subject {
  readonly name: string;
  readonly dir: string;
  /** Tokens of it at once. */
  readonly window: number;
  /** Characters of the text. */
  readonly length: number;
  readonly questions: number;
  readonly types: readonly RoundedType[];
  /** Of mixes beside those with the bytes of q2_K. */
  readonly fewBits: number;
}

const promptLength = 60;
const choiceLength = 40;
const sentenceLeast = 50;

const guides = (folders: string): string[] => globSync(folders, { cwd: root }).sort();
const texts = (files: readonly string[]): string => files.map((file) => readFileSync(join(root, file), "utf8")).join("\n");

/** Guides that the trained model has not read. */
export const heldOut = (): string => texts(["README.md", ...guides("runtime/docs/*.md")]);

/** Sentences of the text, each with how the next one begins among beginnings of others. */
export function questionsOf(text: string, most: number): string[] {
  const sentences = text.split(/(?<=[.:])\s+|\n+/).filter((each) => each.length >= sentenceLeast && !/[|`]/.test(each));
  const begins = sentences.map((each) => ` ${each.slice(0, choiceLength)}`);
  const count = Math.min(most, sentences.length - 1);
  return Array.from({ length: count }, (_, i) => {
    const at = Math.floor((i * (sentences.length - 1)) / count);
    const others = [2, 3, 5].map((part) => begins[(at + 1 + Math.floor(sentences.length / part)) % sentences.length] as string);
    const answer = i % 4;
    const choices = others.toSpliced(answer, 0, begins[at + 1] as string);
    return JSON.stringify({ prompt: (sentences[at] as string).slice(-promptLength), choices, answer });
  });
}

const steps = 300;
/** Rows of whole blocks of every type. */
const trainedConfig = { ...config, hidden_size: 256, intermediate_size: 512, num_attention_heads: 8, num_key_value_heads: 4 };

const enodia = (...args: readonly string[]): Promise<string> => {
  log(`enodia ${args.join(" ")}`);
  return execOk(process.execPath, ["--disable-warning=ExperimentalWarning", join(root, "operator/cli/main.ts"), ...args]);
};

/** The training demo's model, wider, taught on this machine by the other guides: a minute, on first use. */
export async function provideTrained(): Promise<string> {
  const out = join(modelsFolder(), `trained-${steps}`);
  if (existsSync(join(out, "expert-index.json"))) return out;
  const work = `${out}-run`;
  rmSync(work, { recursive: true, force: true });
  const [model, text, tokens, run] = ["model", "text", "tokens", "run"].map((name) => join(work, name)) as [string, string, string, string];
  for (const folder of [model, text]) mkdirSync(folder, { recursive: true });
  const files = { ...modelFiles, "config.json": JSON.stringify(trainedConfig) };
  for (const [name, content] of Object.entries(files)) writeFileSync(join(model, name), content);
  writeFileSync(join(text, "guides.txt"), texts([...guides("{charts,operator}/**/*.md"), "crds/REFERENCE.md"]));
  await enodia("data", "import", text, "--model", model, "--out", tokens);
  const sizes = ["--steps", String(steps), "--sequences", "8", "--sequence-length", "128", "--micro-batches", "4"];
  const rates = ["--learning-rate", "3e-3", "--warmup", "30", "--balance", "switch:0.01", "--checkpoint-every", String(steps)];
  await enodia("train", "--model", model, "--init", "random", "--data", tokens, "--out", run, ...sizes, ...rates);
  renameSync(join(run, "store"), out);
  rmSync(work, { recursive: true });
  return out;
}
