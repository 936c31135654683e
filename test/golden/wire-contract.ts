// The wire as a contract between releases: one sample of every message, made from its description alone, and the changes of a
// description that break those who speak the former one. make_wire.ts keeps the samples of a release, wire.test.ts reads those of every
// release with the code of this one. Pure.
import {
  type DescField,
  type DescFile,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonObject,
  type JsonValue,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  type FileDescriptorProto,
  FileDescriptorProtoSchema,
  type MethodDescriptorProto,
} from "@bufbuild/protobuf/wkt";

export interface Sample {
  /** The message, and after a dot which of several forms it is. */
  readonly name: string;
  readonly bytes: Uint8Array;
  /** The message as JSON, with the values that must come out. */
  readonly value: JsonObject;
}

/** Every message with every field set to a value of its own; one that has a choice once for each. */
export function samplesOf(file: DescFile): Sample[] {
  return file.messages.flatMap((message) => {
    const choices = message.oneofs.flatMap(({ fields }) => fields);
    const forms = choices.length === 0 ? [undefined] : choices;
    return forms.map((choice): Sample => {
      const value = sample(message, choice);
      const bytes = toBinary(message, fromJson(message, value));
      return { name: choice ? `${message.name}.${choice.name}` : message.name, bytes, value };
    });
  });
}

function sample(message: DescMessage, choice: DescField | undefined): JsonObject {
  const left = message.oneofs.flatMap(({ fields }) => fields.filter((field) => field !== (choice ?? fields[0])));
  const set = message.fields.filter((field) => !left.includes(field));
  return Object.fromEntries(
    set.map((field) => {
      const value = (nth: number) => valueOfField(field, nth);
      return [field.jsonName, field.fieldKind === "list" ? [value(1), value(2)] : value(1)];
    }),
  );
}

function valueOfField(field: DescField, nth: number): JsonValue {
  const { message, enum: names } = field;
  if (message) return sample(message, undefined);
  if (names) return names.values.at(-1)?.name ?? "";
  return scalar(field, nth);
}

/** A number of an own size for each kind, so that another kind reads something else of the same bytes. */
function scalar({ number, name, scalar: type }: DescField, nth: number): JsonValue {
  const whole = 1000 * number + nth;
  switch (type) {
    case ScalarType.STRING:
      return `${name} ${nth}`;
    case ScalarType.BYTES:
      return Buffer.from([number, nth, 0, 255]).toString("base64");
    case ScalarType.BOOL:
      return true;
    case ScalarType.FLOAT:
    case ScalarType.DOUBLE:
      return whole + 0.5;
    case ScalarType.INT32:
    case ScalarType.SINT32:
      return -whole;
    case ScalarType.UINT32:
      return 2 ** 31 + whole;
    case ScalarType.INT64:
    case ScalarType.UINT64:
      return String(2 ** 40 + whole);
    default:
      throw new Error(`${name}: no sample of scalar type ${type} yet`);
  }
}

export const describe = (file: DescFile): Uint8Array => toBinary(FileDescriptorProtoSchema, file.proto);
export const described = (bytes: Uint8Array): FileDescriptorProto => fromBinary(FileDescriptorProtoSchema, bytes);

/** What in `now` breaks those who speak `before`, each with its name; what was added breaks nobody. */
export function breaks(before: FileDescriptorProto, now: FileDescriptorProto): string[] {
  if (before.package !== now.package) return [`package ${before.package} is now ${now.package}`];
  return [
    ...before.messageType.flatMap((message) => {
      const after = now.messageType.find(({ name }) => name === message.name);
      return after ? messageBreaks(message, after) : [`message ${message.name} is gone`];
    }),
    ...before.enumType.flatMap((names) => {
      const after = now.enumType.find(({ name }) => name === names.name);
      return after ? enumBreaks(names, after) : [`enum ${names.name} is gone`];
    }),
    ...before.service.flatMap(({ name: service, method }) => {
      const after = now.service.find(({ name }) => name === service)?.method ?? [];
      return method.flatMap((call) => {
        const same = after.find(({ name }) => name === call.name);
        return same && isSameCall(call, same) ? [] : [`${service}.${call.name} is gone or takes or gives something else`];
      });
    }),
  ];
}

function messageBreaks(before: DescriptorProto, now: DescriptorProto): string[] {
  const lost = before.reservedRange.filter(({ start, end }) => !range(start, end).every((number) => isReserved(now, number)));
  return [
    ...lost.map(({ start }) => `${before.name}: number ${start} is no longer reserved, and former releases give it a meaning`),
    ...before.field.flatMap((field) => {
      const after = now.field.find(({ number }) => number === field.number);
      const at = `${before.name}.${field.name} = ${field.number}`;
      if (!after) return isReserved(now, field.number) ? [] : [`${at} is gone and its number is not reserved`];
      return isSameField(field, after, [before, now]) ? [] : [`${at} is now ${after.name} or of another type`];
    }),
  ];
}

const range = (start: number, end: number): number[] => Array.from({ length: end - start }, (_, i) => start + i);
const isReserved = ({ reservedRange }: DescriptorProto, number: number): boolean =>
  reservedRange.some(({ start, end }) => number >= start && number < end);

function isSameField(a: FieldDescriptorProto, b: FieldDescriptorProto, [before, now]: [DescriptorProto, DescriptorProto]): boolean {
  const choiceOf = (field: FieldDescriptorProto, message: DescriptorProto) =>
    Object.hasOwn(field, "oneofIndex") ? message.oneofDecl[field.oneofIndex]?.name : undefined;
  const same = a.name === b.name && a.type === b.type && a.label === b.label && a.typeName === b.typeName;
  return same && choiceOf(a, before) === choiceOf(b, now);
}

function enumBreaks(before: EnumDescriptorProto, now: EnumDescriptorProto): string[] {
  return before.value
    .filter(({ name, number }) => !now.value.some((value) => value.name === name && value.number === number))
    .map(({ name, number }) => `${before.name}: ${name} = ${number} is gone or has another number`);
}

const isSameCall = (a: MethodDescriptorProto, b: MethodDescriptorProto): boolean =>
  a.inputType === b.inputType &&
  a.outputType === b.outputType &&
  a.clientStreaming === b.clientStreaming &&
  a.serverStreaming === b.serverStreaming;
