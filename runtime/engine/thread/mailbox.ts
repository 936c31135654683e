// The engine thread's end of the port to the main thread.
import { type MessagePort, receiveMessageOnPort } from "node:worker_threads";
import type { FromEngine, ToEngine } from "./messages.ts";

export class Mailbox {
  readonly #port: MessagePort;
  #receive: (message: ToEngine) => void = () => {};

  constructor(port: MessagePort) {
    this.#port = port;
  }

  readonly send = (message: FromEngine, transfer: ArrayBuffer[] = []): void => this.#port.postMessage(message, transfer);

  /** Delivers all pending messages, also during a step. */
  readonly drain = (): void => {
    for (let got = receiveMessageOnPort(this.#port); got; got = receiveMessageOnPort(this.#port)) this.#receive(got.message as ToEngine);
  };

  /** `drained` is called after the messages that arrived together. */
  listen(receive: (message: ToEngine) => void, drained: () => void): void {
    this.#receive = receive;
    this.#port.on("message", (message: ToEngine) => {
      receive(message);
      this.drain();
      drained();
    });
  }

  close(): void {
    this.#port.close();
  }
}

/** The point between two steps, at which state may change and the loop waits for work. */
export class StepBoundary {
  #changes: (() => void)[] = [];
  #wake: (() => void) | undefined;

  /** Applies the change before the next step. */
  later(change: () => void): void {
    this.#changes.push(change);
    this.wake();
  }

  /** Resolves once the change is applied. */
  atStepEnd(change: () => void): Promise<void> {
    return new Promise((resolve) =>
      this.later(() => {
        change();
        resolve();
      }),
    );
  }

  pass(): void {
    for (const change of this.#changes.splice(0)) change();
  }

  wake(): void {
    this.#wake?.();
  }

  /** Resolves at the next `wake`; `before` runs when it can no longer be missed. */
  async sleep(before: () => void): Promise<void> {
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    before();
    await woken;
    this.#wake = undefined;
  }
}
