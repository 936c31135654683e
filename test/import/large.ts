// The import of a large checkpoint in little memory: `npm run test:import [-- GB]` makes a GGUF of so many gigabytes (default 6, all holes,
// in Qwen3-30B-A3B's shapes in bf16), imports it with a small heap between two runs of sha256sum, and fails if the process ever held more
// than the bound, or took more than twice as long. Not part of npm test: it writes as many bytes again, and takes a minute or so.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { importModel } from "../../runtime/modelstore/import.ts";
import { bf16, type MoeShape, writeSparseGguf } from "../kit/models/random-gguf.ts";

/** Resident memory of the importing process, at most: an expert and a piece take megabytes, Node and the code the rest. */
const residentBytesMax = 512 * 2 ** 20;
/** Of sha256sum's speed on the same file, at least. */
const speedMin = 0.5;
/** MiB of JavaScript objects, at most; what is read lies outside. */
const heapMib = 128;

/** Qwen3-30B-A3B's. */
const shape: Omit<MoeShape, "layers"> = {
  ...{ architecture: "qwen3moe", hidden: 2048, ffn: 768, experts: 128, topK: 8 },
  ...{ heads: 32, kvHeads: 4, headDim: 128, queryNorm: 128, keyNorm: 128 },
};
const layerBytes = 3 * shape.experts * shape.ffn * shape.hidden * bf16.bytes;

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

async function seconds(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

async function child(source: string, out: string): Promise<void> {
  const start = process.resourceUsage().maxRSS * 1024;
  const sha256sum = () => seconds(() => execFileSync("sha256sum", [source]));
  const before = await sha256sum();
  const options = { source, out, overwrite: false, cache: out, secrets: { HF_ENDPOINT: "http://127.0.0.1:9" } };
  const took = await seconds(() => importModel(options, (line) => console.log(line)));
  const peak = process.resourceUsage().maxRSS * 1024;
  console.log(`peak resident memory ${mib(peak)}, ${mib(start)} of it before the import; the bound is ${mib(residentBytesMax)}`);
  const speed = (before + (await sha256sum())) / 2 / took;
  const rate = (statSync(source).size / 1e6 / took).toFixed(0);
  console.log(`${rate} MB/s, ${speed.toFixed(2)} of sha256sum's speed on the same file; the bound is ${speedMin}`);
  if (peak > residentBytesMax || speed < speedMin) process.exitCode = 1;
}

async function main(gigabytes: number): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "enodia-import-"));
  try {
    const path = join(dir, "large.gguf");
    const layers = Math.max(1, Math.round((gigabytes * 1e9) / layerBytes));
    console.log(
      `a GGUF of ${((await writeSparseGguf(path, { shape: { ...shape, layers }, weights: bf16 })) / 1e9).toFixed(2)} GB in ${dir}`,
    );
    const argv = [`--max-old-space-size=${heapMib}`, import.meta.filename, "import", path, join(dir, "store")];
    const { status } = spawnSync(process.execPath, argv, { stdio: "inherit" });
    process.exitCode = status ?? 1;
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const [verb = "6", source, out] = process.argv.slice(2);
if (source !== undefined && out !== undefined) await child(source, out);
else await main(Number(verb));
