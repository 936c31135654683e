// Reads dictionaries of numbers and of torch's small tensors in Python's pickles: the opcodes that such files have, and no calls.
import { AppError } from "../../../crds/common.ts";

export type Pickled = number | boolean | string | Uint8Array | readonly Pickled[] | PickledMap;
export type PickledMap = ReadonlyMap<Pickled, Pickled>;

const bytesMax = 2 ** 20;

const refused = (why: string): AppError =>
  new AppError(`no pickle of numbers and floats: ${why}; take the files as MC-MoE's authors published them`, { code: "InvalidOption" });

/** What Python would call -> what comes of its arguments here. */
const calls: Readonly<Record<string, (args: readonly Pickled[]) => Pickled>> = {
  "collections.OrderedDict": () => new Map(),
  "torch.storage._load_from_bytes": ([bytes]) => bytes as Uint8Array,
  // Of floats alone: they are the end of their storage.
  "torch._utils._rebuild_tensor_v2": ([storage, , shape]) => {
    const [bytes, [count]] = [Buffer.from(storage as Uint8Array), shape as [number]];
    return Array.from({ length: count }, (_, i) => bytes.readFloatLE(bytes.length - 4 * (count - i)));
  },
};

/** Throws AppError `InvalidOption`. */
export function unpickled(bytes: Buffer): Pickled {
  if (bytes.length > bytesMax) throw refused(`it has ${bytes.length} bytes, more than ${bytesMax}`);
  const [stack, memo, marks]: [Pickled[], Pickled[], number[]] = [[], [], []];
  let at = 0;
  const take = (length: number): Buffer => {
    if (at + length > bytes.length) throw refused("it ends too early");
    at += length;
    return bytes.subarray(at - length, at);
  };
  const byte = (): number => take(1).readUInt8();
  const sinceMark = (): Pickled[] => stack.splice(marks.pop() ?? 0);
  const lastTwo = (): readonly Pickled[] => stack.splice(-2);
  /** By opcode; what they give is pushed. */
  const ops: Readonly<Record<number, () => Pickled | undefined>> = {
    128: () => void byte(), // PROTO
    149: () => void take(8), // FRAME
    125: () => new Map(), // EMPTY_DICT
    41: () => [], // EMPTY_TUPLE
    137: () => false, // NEWFALSE
    148: () => void memo.push(stack.at(-1) ?? false), // MEMOIZE
    40: () => void marks.push(stack.length), // MARK
    75: () => byte(), // BININT1
    71: () => take(8).readDoubleBE(), // BINFLOAT
    140: () => take(byte()).toString("utf8"), // SHORT_BINUNICODE
    66: () => take(take(4).readUInt32LE()), // BINBYTES
    104: () => memo[byte()], // BINGET
    133: () => stack.splice(-1), // TUPLE1
    116: sinceMark, // TUPLE
    147: () => lastTwo().join("."), // STACK_GLOBAL
    // REDUCE
    82: () => {
      const [name, args] = lastTwo();
      if (typeof name !== "string" || !Object.hasOwn(calls, name)) throw refused(`it calls ${String(name)}`);
      return calls[name]?.(args as readonly Pickled[]);
    },
    // SETITEMS
    117: () => {
      const items = sinceMark();
      const into = stack.at(-1) as Map<Pickled, Pickled>;
      for (let i = 0; i + 1 < items.length; i += 2) into.set(items[i] as Pickled, items[i + 1] as Pickled);
      return undefined;
    },
  };
  for (let code = byte(); code !== 46; code = byte()) {
    const op = ops[code];
    if (op === undefined) throw refused(`it has opcode ${code}`);
    const value = op();
    if (value !== undefined) stack.push(value);
  }
  return stack.at(-1) ?? false;
}
