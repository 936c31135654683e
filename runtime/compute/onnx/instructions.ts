// The instructions that onnxruntime computes f32 with on this processor: it has products and sums of its own for each set, which round in
// other places. Two processors of one name give the same bits.
import { readFileSync } from "node:fs";
import { arch, cpus } from "node:os";

/** Sets of x64 with the flags that Linux lists of them, the best one first, as the library chooses. */
const sets: readonly { readonly name: string; readonly flags: readonly string[] }[] = [
  { name: "avx512", flags: ["avx512f"] },
  { name: "avx2", flags: ["avx2", "fma"] },
  { name: "avx", flags: ["avx"] },
  { name: "sse2", flags: ["sse2"] },
];

const fieldOf = (cpuinfo: string, key: string): string | undefined => new RegExp(`^${key}\\s*: (.*)$`, "m").exec(cpuinfo)?.[1]?.trim();

interface Processor {
  readonly architecture: string;
  readonly model: string;
  /** The text of /proc/cpuinfo; empty where a system has none. */
  readonly cpuinfo: string;
}

/** Pure. */
export function instructionsOf({ architecture, model, cpuinfo }: Processor): string {
  const flags = new Set(fieldOf(cpuinfo, "flags")?.split(" "));
  const set = sets.find((each) => each.flags.every((flag) => flags.has(flag)));
  if (set !== undefined) return set.name;
  const part = fieldOf(cpuinfo, "CPU part"); // of arm64, whose models may have no name
  return `${architecture} ${model}${part === undefined ? "" : ` ${fieldOf(cpuinfo, "CPU implementer")}-${part}`}`;
}

function cpuinfoHere(): string {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return ""; // not Linux
  }
}

export function instructionsHere(): string {
  return instructionsOf({ architecture: arch(), model: cpus()[0]?.model.trim() ?? "unknown processor", cpuinfo: cpuinfoHere() });
}
