// Bounds what decoding a message makes, before it is decoded: 4 MiB of empty messages take seconds of the thread.
import { type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { AppError } from "../../crds/common.ts";

/** A message, and a number that becomes a BigInt, cost as much time as so many other numbers. */
const valuesPerMessage = 8;
export const valuesPerBigInt = 8;

/** What decoding costs, in numbers; nested messages are included. Throws `InvalidRequest` above `valuesMax`. */
export function countValues(schema: DescMessage, bytes: Uint8Array, valuesMax: number): number {
  const left = valuesLeft(schema, bytes, valuesMax);
  if (left >= 0) return valuesMax - left;
  throw new AppError(`${schema.name}: more than ${valuesMax} values`, { code: "InvalidRequest", operation: "parsing a message" });
}

const { INT64, UINT64, SINT64, FIXED64, SFIXED64 } = ScalarType;
const wide: ReadonlySet<ScalarType | undefined> = new Set([INT64, UINT64, SINT64, FIXED64, SFIXED64]);
const notPacked: ReadonlySet<ScalarType | undefined> = new Set([ScalarType.STRING, ScalarType.BYTES]);

function valuesLeft(schema: DescMessage, bytes: Uint8Array, valuesMax: number): number {
  const reader = new BinaryReader(bytes);
  const fields = new Map(schema.fields.map((field) => [field.number, field]));
  let left = valuesMax;
  while (reader.pos < reader.len && left >= 0) {
    const [number, type] = reader.tag();
    const field = fields.get(number);
    left -= 1;
    if (type !== WireType.LengthDelimited) reader.skip(type, number);
    else if (field?.message) left = valuesLeft(field.message, reader.bytes(), left - valuesPerMessage);
    else if (field?.fieldKind === "list" && !notPacked.has(field.scalar))
      left -= numbersIn(reader.bytes()) * (wide.has(field.scalar) ? valuesPerBigInt : 1);
    else reader.skip(type, number);
  }
  return left;
}

/** The last byte of a packed number has no high bit. */
function numbersIn(packed: Uint8Array): number {
  let count = 0;
  for (let i = 0; i < packed.length; i++) if ((packed[i] as number) < 0x80) count++;
  return count;
}
