// Safetensors with damage to their bytes, and headers of other kinds with packed parts that do not fit: they are read or refused.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { openSafetensors } from "../../../runtime/weights/safetensors.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, damagedJson, type Random } from "../mutate.ts";
import { chance } from "../words.ts";
import { fileRefusals, golden, memoryFile } from "./files.ts";

interface Subject {
  readonly whole: Buffer;
  readonly folder: string;
  readonly open: typeof openSafetensors;
}

interface Input {
  readonly bytes: Buffer;
  /** A checkpoint of one file on disk, of which all is read; else a file in memory. */
  readonly packed: boolean;
  readonly read: number;
}

const at = "m.experts.";
const parts = {
  "a.weight": { dtype: "F8_E4M3", shape: [4, 32], data_offsets: [0, 128] },
  "a.weight_scale_inv": { dtype: "F32", shape: [1, 1], data_offsets: [128, 132] },
  [`${at}down_proj_blocks`]: { dtype: "U8", shape: [2, 4, 1, 16], data_offsets: [132, 260] },
  [`${at}down_proj_scales`]: { dtype: "U8", shape: [2, 4, 1], data_offsets: [260, 268] },
  [`${at}down_proj_bias`]: { dtype: "BF16", shape: [2, 4], data_offsets: [268, 284] },
  [`${at}gate_up_proj`]: { dtype: "F16", shape: [2, 4, 4], data_offsets: [284, 348] },
  "n.experts.gate_up_proj": { dtype: "BF16", shape: [2, 4, 4], data_offsets: [348, 412] },
  "n.experts.gate_up_proj_bias": { dtype: "BF16", shape: [2, 4], data_offsets: [412, 428] },
};

function packedFile(random: Random): Buffer {
  const header = Buffer.from(JSON.stringify(chance(random, 12) ? parts : damagedJson(parts, random)) ?? "");
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.alloc(428, random(256))]);
}

export const safetensors: Fuzzer<Subject, Input> = {
  name: "safetensors",
  share: 16,
  deadlineMs: 20_000,
  refusals: fileRefusals,
  async start(scratch) {
    const folder = join(scratch, "packed");
    await mkdir(folder);
    return { whole: await readFile(join(golden, "tiny-f16/model.safetensors")), folder, open: openSafetensors };
  },
  input(random, { whole }) {
    const packed = chance(random, 50);
    return { packed, bytes: packed ? packedFile(random) : damaged(whole, random, 4_000), read: random(2 ** 20) };
  },
  async attempt({ folder, open }, { bytes, packed, read }) {
    if (!packed) {
      const file = await open("x.safetensors", memoryFile(bytes));
      await file.read(file.names[read % file.names.length] ?? "");
      return;
    }
    await writeFile(join(folder, "model.safetensors"), bytes);
    const checkpoint = await openCheckpoint(folder);
    try {
      for (const name of checkpoint.names.slice(0, 50)) await checkpoint.read(name);
    } finally {
      await checkpoint.close();
    }
  },
  plant: (subject) => ({ ...subject, open: unguarded(openSafetensors, /./) }),
};
