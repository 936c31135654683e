// Bounds what decoding a message makes, before it is decoded: 4 MiB of empty messages take seconds of the thread.
import type { DescMessage } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { AppError } from "../../crds/common.ts";

/** A message costs as much time as so many numbers. */
const valuesPerMessage = 8;

/** Throws `InvalidRequest` where the message holds more than `valuesMax` numbers, texts and messages, nested ones included. */
export function checkValues(schema: DescMessage, bytes: Uint8Array, valuesMax: number): void {
  if (valuesLeft(schema, bytes, valuesMax) >= 0) return;
  throw new AppError(`${schema.name}: more than ${valuesMax} values`, { code: "InvalidRequest", operation: "parsing a message" });
}

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
    else if (field?.fieldKind === "list") left -= numbersIn(reader.bytes());
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
