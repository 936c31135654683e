// A connection to a port of a pod through the API server, as `kubectl port-forward` makes it, but without a local port. Uses the caller's
// own rights.
import { Duplex, PassThrough, Writable } from "node:stream";
import { type KubeConfig, PortForward } from "@kubernetes/client-node";
import { AppError } from "../../crds/common.ts";
import { kubeError, unavailable } from "./errors.ts";

/** A lost node does not answer. */
const connectMsMax = 15_000;
/** The bound of a node's error message. */
const problemBytesMax = 4096;

export interface PodPort {
  readonly namespace: string;
  readonly pod: string;
  readonly port: number;
}

/** The used part of client-node's WebSocket, whose types are missing. */
interface Socket {
  onclose: (() => void) | null;
  close(): void;
  pause(): void;
  resume(): void;
}

/**
 * Ends with the pod's connection, or with an error where the port cannot be reached. Throws AppError: Forbidden without `create` on
 * pods/portforward, NotFound without the pod, Unavailable.
 */
export async function forwardPort(config: KubeConfig, { namespace, pod, port }: PodPort): Promise<Duplex> {
  const operation = `reaching port ${port} of pod ${pod}`;
  const sent = new PassThrough();
  let socket: Socket | undefined;
  const connection = new Duplex({
    read: () => socket?.resume(),
    write: (chunk, _encoding, done) => void sent.write(chunk, done),
    final: (done) => void sent.end(done),
    destroy(error, done) {
      socket?.close();
      done(error);
    },
  });
  const received = new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      if (chunk.length > 0 && !connection.push(chunk)) socket?.pause();
      done();
    },
  });
  let problem = "";
  const problems = new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      problem = (problem + Buffer.from(chunk).toString("utf8")).slice(0, problemBytesMax);
      done();
    },
  });
  const [inNamespace, ofPod] = [encodeURIComponent(namespace), encodeURIComponent(pod)];
  const opened = new PortForward(config).portForward(inNamespace, ofPod, [port], received, problems, sent);
  socket = (await inTime(opened, operation)) as unknown as Socket;
  socket.onclose = (): void => {
    if (problem === "") connection.push(null);
    else connection.destroy(new AppError(problem, { code: "Unavailable", operation, retry: "backoff" }));
  };
  return connection;
}

/** Closes a connection that opens too late. */
async function inTime<T>(opened: Promise<T>, operation: string): Promise<T> {
  let bound: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    bound = setTimeout(() => reject(unavailable(new Error(`no answer within ${connectMsMax / 1000} s`), operation)), connectMsMax);
  });
  try {
    return await Promise.race([opened, late]);
  } catch (caught) {
    opened.then(
      (socket) => (socket as unknown as Socket).close(),
      () => {},
    );
    throw refusal(caught, operation);
  } finally {
    clearTimeout(bound);
  }
}

/** The handshake's error is text only. */
function refusal(caught: unknown, operation: string): AppError {
  const { message = "" } = caught as { message?: string };
  const status = Number(/server response: (\d{3})/.exec(message)?.[1]);
  if (status > 0) return kubeError(status, "", operation);
  return caught instanceof AppError ? caught : unavailable(new Error(message), operation);
}
