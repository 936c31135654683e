// A range's embedding and head as programs of their own, before and behind its layers.
import { rowsOfGroups } from "../kernels/kv-groups.ts";
import type { Compiled, RangeCall, RangeEnds, RangeOutputs } from "./backend.ts";

export async function withEnds(
  { embed, head }: RangeEnds,
  call: RangeCall,
  layers: (x: Float32Array) => RangeOutputs | Promise<RangeOutputs>,
): Promise<RangeOutputs> {
  const out = await layers(call.x instanceof Int32Array ? await embedded(embed as Compiled, call.x) : call.x);
  const { rows = [], sharpness = none } = call.head ?? {};
  if (rows.length === 0) return out;
  const width = out.x.length / rowsOfGroups(call.kv.groups);
  const data = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) data.set(out.x.subarray(row * width, (row + 1) * width), i * width);
  const program = head as Compiled;
  const outputs = await program.run({
    x: { shape: [rows.length, width], data },
    sharpness: { shape: [rows.length, 1], data: sharpness },
  });
  return { ...out, head: { outputs, keptRow: (output, row) => program.keptRow?.(output, row) as Float32Array } };
}

const none = new Float32Array();

async function embedded(embed: Compiled, tokens: Int32Array): Promise<Float32Array> {
  return (await embed.run({ ids: { shape: [tokens.length], data: tokens } })).x?.data as Float32Array;
}
