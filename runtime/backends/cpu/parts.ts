// The sessions of one thread, by id, and how a job runs on them: used by the caller's own thread and by every helper.

import type { PartIo } from "./mailbox.ts";
import type { OnnxModel } from "./onnx.ts";
import { f32, Session } from "./session.ts";

interface Part {
  readonly session: Session;
  readonly io: PartIo;
}

export class Parts {
  readonly #parts = new Map<number, Part>();

  open(id: number, model: OnnxModel, io: PartIo): void {
    this.#parts.set(id, { session: new Session(model), io });
  }

  /** Offsets are in floats of `arena`. */
  run(id: number, rows: number, arena: Float32Array, input: number, output: number): void {
    const part = this.#parts.get(id);
    if (!part) throw new RangeError(`part ${id} is not open on this thread`);
    const { io, session } = part;
    const x = f32(arena.subarray(input, input + rows * io.widthIn), [rows, io.widthIn]);
    const y = f32(arena.subarray(output, output + rows * io.widthOut), [rows, io.widthOut]);
    session.run({ [io.input]: x }, { [io.output]: y });
  }

  close(id: number): void {
    this.#parts.get(id)?.session.dispose();
    this.#parts.delete(id);
  }

  closeAll(): void {
    for (const id of [...this.#parts.keys()]) this.close(id);
  }
}
