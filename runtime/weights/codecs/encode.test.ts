// How many experts are encoded side by side, by their size and the CPUs.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { CodecName } from "../../../crds/names.ts";
import { gatedFfnUnit } from "./codec.ts";
import { planEncoding } from "./encode.ts";

const layersOf = (codecs: readonly CodecName[], experts: number, hidden: number, ffn: number) => {
  const form = (name: CodecName) => ({ name, parts: gatedFfnUnit(hidden, ffn).map((part) => ({ ...part, form: "q4_0" as const })) });
  return [[], Array.from({ length: experts }, () => codecs.map(form))];
};

const cases: readonly (readonly [string, ReturnType<typeof layersOf>, number, ReturnType<typeof planEncoding>])[] = [
  ["a small model needs no thread", layersOf(["source"], 8, 256, 256), 16, { threads: 0, atOnce: 2 }],
  ["as many threads as CPUs, and one expert that is read or written", layersOf(["source"], 64, 2048, 1024), 4, { threads: 4, atOnce: 5 }],
  ["more than eight threads write no faster", layersOf(["source"], 64, 2048, 1024), 64, { threads: 8, atOnce: 9 }],
  ["of large experts as many as memory is for", layersOf(["source"], 128, 4096, 4096), 16, { threads: 4, atOnce: 4 }],
  ["one that is larger than that goes alone", layersOf(["q4_0", "f32"], 8, 4096, 14336), 16, { threads: 1, atOnce: 1 }],
];

for (const [sentence, layers, cpus, want] of cases) test(sentence, () => assert.deepEqual(planEncoding(layers, cpus), want));
