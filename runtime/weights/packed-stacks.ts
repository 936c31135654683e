// transformers 5's stacked experts: `experts.gate_up_proj` [experts, 2 x rows, K], gate above up, `experts.down_proj` [experts, rows, K].
import { expertsOf, isPlain, misshaped, type Rule } from "./packed-rule.ts";

const matrices: Readonly<Record<string, readonly string[]>> = { gate_up_proj: ["gate_proj", "up_proj"], down_proj: ["down_proj"] };
const stackName = /^(.*\.experts)\.(gate_up_proj|down_proj)$/;

export const stackedExperts: Rule = (name, raw) => {
  const [, at = "", stem = ""] = stackName.exec(name) ?? [];
  const names = matrices[stem] ?? [];
  const tensor = raw.get(name);
  if (!tensor || names.length === 0 || !isPlain(tensor.info) || raw.has(`${name}_bias`)) return undefined;
  const [, stacked = 0, columns] = tensor.info.shape;
  if (columns === undefined || stacked % names.length !== 0) throw misshaped(tensor, name, "stacks are [experts, rows, K]");
  const rows = stacked / names.length;
  const whole = tensor.view();
  const views = Array.from({ length: expertsOf(tensor, name) }, (_, expert) =>
    names.map((matrix, each) => {
      const begin = expert * stacked + each * rows;
      const view = {
        shape: [rows, columns],
        form: whole.form,
        rows: (range: { readonly first: number; readonly rows: number }) => whole.rows({ first: begin + range.first, rows: range.rows }),
      };
      return [`${at}.${expert}.${matrix}.weight`, view] as const;
    }),
  ).flat();
  return { takes: [name], views };
};
