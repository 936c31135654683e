// GPTQ: a word of `X.qweight` [in x bits / 32, out] holds inputs that follow one another.
import { groupedRule } from "./packed-groups.ts";

/** Ones in every value of a word. */
const ones: Readonly<Record<number, number>> = { 4: 0x11111111, 8: 0x01010101 };

export const gptq = groupedRule("gptq", ({ bits, format }) => ({
  along: "inputs",
  places: Array.from({ length: 32 / bits }, (_, i) => i),
  zerosPlus: format === "gptq" ? (ones[bits] ?? 0) : 0, // its first format has zeros less one
}));
