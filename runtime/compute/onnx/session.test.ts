// The names of instructions: as the library chooses them by the flags of a processor, and a processor it knows nothing of stands alone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { instructionsHere, instructionsOf } from "./session.ts";

const x64 = (flags: string) => ({
  architecture: "x64",
  model: "Some CPU",
  cpuinfo: `processor\t: 0\nflags\t\t: ${flags}\nbugs\t\t: avx512f\n`,
});
const arm = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";

const cases: Record<string, { readonly of: Parameters<typeof instructionsOf>[0]; readonly want: string }> = {
  "the widest vectors": { of: x64("sse2 avx fma avx2 avx512f avx512vl"), want: "avx512" },
  "fused products": { of: x64("sse2 avx fma avx2"), want: "avx2" },
  "vectors without fused products": { of: x64("sse2 avx avx2"), want: "avx" },
  "the least of x64": { of: x64("fpu sse2"), want: "sse2" },
  "arm64 by its part": { of: { architecture: "arm64", model: "unknown", cpuinfo: arm }, want: "arm64 unknown 0x41-0xd40" },
  "a system that lists no flags": { of: { architecture: "arm64", model: "Apple M2", cpuinfo: "" }, want: "arm64 Apple M2" },
};

for (const [name, { of, want }] of Object.entries(cases)) {
  test(`${name}: ${want}`, () => assert.equal(instructionsOf(of), want));
}

test("this processor has a name", () => assert.match(instructionsHere(), /^\S/));
