// Fuzzers that show that a run sees what a thread cannot tell itself: an input that never ends, and one that takes all memory. They are
// no part of the registry.
import type { AnyFuzzer } from "./fuzzer.ts";

const control = (name: string, deadlineMs: number, attempt: () => void): AnyFuzzer => ({
  ...{ name, share: 0, deadlineMs, refusals: [], start: () => undefined, input: () => null, plant: (subject: unknown) => subject },
  attempt,
});

export const controls: readonly AnyFuzzer[] = [
  control("hangs", 300, () => {
    for (;;) Math.random();
  }),
  control("grows", 60_000, () => {
    const kept: Buffer[] = [];
    for (;;) kept.push(Buffer.alloc(16 * 1024 * 1024, 1));
  }),
];
