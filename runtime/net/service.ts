// Adapts protobuf-es service descriptors to grpc-js: definitions for servers, typed clients for callers.
import { create, type DescMessage, fromBinary, type MessageInitShape, type MessageShape, toBinary } from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import * as grpc from "@grpc/grpc-js";
import { countValues } from "./message-bounds.ts";

type Unary<I extends DescMessage, O extends DescMessage> = (
  request: MessageInitShape<I>,
  options?: grpc.CallOptions,
) => Promise<MessageShape<O>>;
type ServerStream<I extends DescMessage, O extends DescMessage> = (
  request: MessageInitShape<I>,
  options?: grpc.CallOptions,
) => grpc.ClientReadableStream<MessageShape<O>>;
type Bidi<I extends DescMessage, O extends DescMessage> = (
  options?: grpc.CallOptions,
) => grpc.ClientDuplexStream<MessageShape<I>, MessageShape<O>>;

/** Streams take whole messages (`create(Schema, …)`). */
export type ServiceClient<M extends GenServiceMethods> = {
  readonly [K in keyof M]: M[K]["methodKind"] extends "unary"
    ? Unary<M[K]["input"], M[K]["output"]>
    : M[K]["methodKind"] extends "server_streaming"
      ? ServerStream<M[K]["input"], M[K]["output"]>
      : Bidi<M[K]["input"], M[K]["output"]>;
} & { readonly close: () => void; readonly channel: grpc.Channel };

/** Unary ones may throw (mapped by `grpc.ts`). */
export type Handlers<M extends GenServiceMethods> = {
  readonly [K in keyof M]: M[K]["methodKind"] extends "unary"
    ? (
        request: MessageShape<M[K]["input"]>,
        call: grpc.ServerUnaryCall<MessageShape<M[K]["input"]>, MessageShape<M[K]["output"]>>,
      ) => Promise<MessageInitShape<M[K]["output"]>>
    : M[K]["methodKind"] extends "server_streaming"
      ? (call: grpc.ServerWritableStream<MessageShape<M[K]["input"]>, MessageShape<M[K]["output"]>>) => void
      : (call: grpc.ServerDuplexStream<MessageShape<M[K]["input"]>, MessageShape<M[K]["output"]>>) => void;
};

/** Usage: `HandlersOf<typeof Control>`. */
export type HandlersOf<S> = S extends GenService<infer M> ? Handlers<M> : never;

const sharedBytes = new WeakMap<object, Buffer | undefined>();

/** Encodes a message once; it must not change any more. */
export function forMany<M extends object>(message: M): M {
  sharedBytes.set(message, undefined);
  return message;
}

function serialize(schema: DescMessage): (message: MessageShape<DescMessage>) => Buffer {
  const encode = (message: MessageShape<DescMessage>): Buffer => {
    const bytes = toBinary(schema, message);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
  return (message) => {
    if (!sharedBytes.has(message)) return encode(message);
    const bytes = sharedBytes.get(message) ?? encode(message);
    sharedBytes.set(message, bytes);
    return bytes;
  };
}

export function definition<M extends GenServiceMethods>(service: GenService<M>): grpc.ServiceDefinition {
  const out: Record<string, grpc.MethodDefinition<MessageShape<DescMessage>, MessageShape<DescMessage>>> = {};
  for (const method of service.methods) {
    out[method.localName] = {
      path: `/${service.typeName}/${method.name}`,
      requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
      responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
      requestSerialize: serialize(method.input),
      requestDeserialize: (bytes) => fromBinary(method.input, bytes),
      responseSerialize: serialize(method.output),
      responseDeserialize: (bytes) => fromBinary(method.output, bytes),
    };
  }
  return out as grpc.ServiceDefinition;
}

/** Bounds of answers, for a caller that others share. */
export interface AnswerBounds {
  readonly bytesMax: number;
  readonly valuesMax: number;
  /** Called before an answer is decoded, which an error prevents. */
  readonly admit?: (bytes: number, values: number) => void;
}

/** Errors are grpc ServiceErrors. */
export function createClient<M extends GenServiceMethods>(
  service: GenService<M>,
  address: string,
  credentials: grpc.ChannelCredentials,
  { answer, ...options }: grpc.ChannelOptions & { readonly answer?: AnswerBounds | undefined },
): ServiceClient<M> {
  const client = new grpc.Client(address, credentials, options);
  const methods: Record<string, unknown> = { close: () => client.close(), channel: client.getChannel() };
  for (const { localName, methodKind, input, output } of service.methods) {
    const spec = definition(service)[localName];
    if (spec === undefined) continue;
    const { path, requestSerialize: ser, responseDeserialize } = spec;
    const de = (bytes: Buffer) => {
      if (answer) {
        const values = countValues(output, bytes, answer.valuesMax);
        answer.admit?.(bytes.byteLength, values);
      }
      return responseDeserialize(bytes);
    };
    if (methodKind === "unary") {
      methods[localName] = (request: MessageInitShape<DescMessage>, call: grpc.CallOptions = {}) =>
        new Promise((resolve, reject) => {
          const done = (error: grpc.ServiceError | null, reply?: unknown) => (error ? reject(error) : resolve(reply));
          client.makeUnaryRequest(path, ser, de, create(input, request), new grpc.Metadata(), call, done);
        });
    } else if (methodKind === "server_streaming") {
      methods[localName] = (request: MessageInitShape<DescMessage>, call: grpc.CallOptions = {}) =>
        client.makeServerStreamRequest(path, ser, de, create(input, request), new grpc.Metadata(), call);
    } else {
      methods[localName] = (call: grpc.CallOptions = {}) => client.makeBidiStreamRequest(path, ser, de, new grpc.Metadata(), call);
    }
  }
  return methods as ServiceClient<M>;
}

export { create } from "@bufbuild/protobuf";
