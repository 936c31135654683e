// AWQ of version gemm: a word of `X.qweight` [in, out / 8] holds eight outputs, the even ones first.
import { groupedRule } from "./packed-groups.ts";

export const awq = groupedRule("awq", () => ({ along: "outputs", places: [0, 4, 1, 5, 2, 6, 3, 7], zerosPlus: 0 }));
