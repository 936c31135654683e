// Entry of a helper thread: opens parts that the pool sends and runs the jobs that it posts. Never touches the event loop:
// it sleeps on the control words, and reads its port when a batch of no jobs tells it to.
import { type MessagePort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { type FromHelper, headerWords, jobWords, type ToHelper, waitWhile, word } from "./mailbox.ts";
import { Parts } from "./parts.ts";

interface HelperData {
  readonly control: SharedArrayBuffer;
  readonly port: MessagePort;
}

const foreverMs = Number.POSITIVE_INFINITY;
const { control: shared, port } = workerData as HelperData;
const control = new Int32Array(shared);
const parts = new Parts();
let arena: Float32Array = new Float32Array(0);

const send = (message: FromHelper): void => port.postMessage(message);
const textOf = (caught: unknown): string => (caught instanceof Error ? caught.message : String(caught));

function receive(message: ToHelper): void {
  if (message.type === "arena") {
    arena = new Float32Array(message.arena);
  } else if (message.type === "close") {
    parts.close(message.id);
    send({ type: "closed", id: message.id });
  } else {
    try {
      parts.open(message.id, message, message.io);
      send({ type: "opened", id: message.id });
    } catch (caught) {
      send({ type: "refused", id: message.id, message: textOf(caught) });
    }
  }
}

function drainPort(): void {
  for (let got = receiveMessageOnPort(port); got; got = receiveMessageOnPort(port)) receive(got.message as ToHelper);
}

function runJobs(): void {
  const jobs = control[word.jobs] as number;
  try {
    for (let i = 0; i < jobs; i++) {
      const at = headerWords + i * jobWords;
      const [id, rows, input, output] = control.subarray(at, at + jobWords) as unknown as [number, number, number, number];
      parts.run(arena, { id, rows, input, output });
    }
  } catch (caught) {
    control[word.failed] = 1;
    send({ type: "failed", message: textOf(caught) });
  }
}

for (let seen = 0; ; ) {
  waitWhile(control, word.posted, seen, foreverMs);
  seen = Atomics.load(control, word.posted);
  if (seen === -1) break;
  drainPort();
  runJobs();
  Atomics.store(control, word.finished, seen);
  Atomics.notify(control, word.finished);
}
parts.closeAll();
port.close();
