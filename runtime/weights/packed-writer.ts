// Packs f32 experts into one tensor, as gpt-oss's checkpoints do: outputs of gate and up alternate.
import type { ModelFamily } from "../models/family.ts";
import { bytesOf } from "./floats.ts";
import { expertMatrices } from "./packed-experts.ts";
import type { TensorToWrite } from "./safetensors-writer.ts";

type Stacks = NonNullable<ModelFamily["stacks"]>;
const packers: Readonly<Record<Stacks, (tensors: readonly TensorToWrite[]) => readonly TensorToWrite[]>> = {
  interleaved: interleaveExperts,
};

/** Packs f32 tensors as the family's checkpoints do. */
export function packed(tensors: readonly TensorToWrite[], { stacks }: ModelFamily): readonly TensorToWrite[] {
  return stacks === undefined ? tensors : packers[stacks](tensors);
}

const expertName = /^(.*\.experts)\.([0-9]+)\.([a-z_]+)\.(weight|bias)$/;

/** All alternating tensors of the first expert come first. */
interface Stack {
  readonly of: number;
  readonly members: TensorToWrite[];
}

/** Undefined outside of stacks. */
function placeOf(name: string) {
  const [, at = "", expert = "", matrix = "", kind] = expertName.exec(name) ?? [];
  const [stem, names] = Object.entries(expertMatrices).find(([, each]) => each.includes(matrix)) ?? [];
  if (stem === undefined || names === undefined) return undefined;
  const place = Number(expert) * names.length + names.indexOf(matrix);
  return { stack: `${at}.${stem}${kind === "bias" ? "_bias" : ""}`, of: names.length, place };
}

/** Puts f32 stacks at the place of their first tensor. Every expert must be there. */
function interleaveExperts(tensors: readonly TensorToWrite[]): readonly TensorToWrite[] {
  const stacks = new Map<string, Stack>();
  const order: (TensorToWrite | string)[] = [];
  for (const tensor of tensors) {
    const found = placeOf(tensor.name);
    if (found === undefined) {
      order.push(tensor);
      continue;
    }
    const { stack, of, place } = found;
    if (!stacks.has(stack)) order.push(stack);
    const { members } = stacks.get(stack) ?? { members: [] };
    members[place] = tensor;
    stacks.set(stack, { of, members });
  }
  return order.map((one) => (typeof one === "string" ? stackOf(one, stacks.get(one) as Stack) : one));
}

function stackOf(name: string, { of, members }: Stack): TensorToWrite {
  const [rows = 0, ...columns] = members[0]?.shape ?? [];
  return {
    name,
    dtype: "F32",
    shape: [members.length / of, ...columns, of * rows],
    async *read() {
      for (let first = 0; first < members.length; first += of) {
        const entry = new Float32Array(of * rows * (columns[0] ?? 1));
        for (const [each, member] of members.slice(first, first + of).entries())
          alternate(entry, await floatsOf(member), { each, of, rows });
        yield bytesOf(entry);
      }
    },
  };
}

/** Writes a matrix [rows, columns] into an entry [columns, rows x of]. */
function alternate(
  entry: Float32Array,
  values: Float32Array,
  { each, of, rows }: { readonly each: number; readonly of: number; readonly rows: number },
): void {
  const columns = values.length / rows;
  for (let i = 0; i < values.length; i++) entry[(i % columns) * rows * of + Math.floor(i / columns) * of + each] = values[i] as number;
}

async function floatsOf(tensor: TensorToWrite): Promise<Float32Array> {
  const given = tensor.read();
  if (Symbol.asyncIterator in given) throw new TypeError(`${tensor.name} comes in pieces`);
  const bytes = await given;
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}
