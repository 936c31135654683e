// The instruction set of onnxruntime's f32 kernels on this processor, which the bits of results depend on.
import { readFileSync } from "node:fs";
import { arch, cpus } from "node:os";

/** x64 sets with Linux's flags, in the library's order of preference. */
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
  /** /proc/cpuinfo; empty where a system has none. */
  readonly cpuinfo: string;
}

/** Pure. */
export function instructionsOf({ architecture, model, cpuinfo }: Processor): string {
  const flags = new Set(fieldOf(cpuinfo, "flags")?.split(" "));
  const set = sets.find((each) => each.flags.every((flag) => flags.has(flag)));
  if (set !== undefined) return set.name;
  const part = fieldOf(cpuinfo, "CPU part"); // arm64 models may have no name
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
