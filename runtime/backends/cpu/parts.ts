// The sessions of one thread, by id, and how a job runs on them: used by the caller's own thread and by every helper.

import type { PartIo } from "./mailbox.ts";
import type { OnnxModel } from "./onnx.ts";
import { f32, Session } from "./session.ts";

interface Part {
  readonly session: Session;
  readonly io: PartIo;
}

/** One part's work: `input` and `output` are offsets in the arena, in floats. */
interface PartJob {
  readonly id: number;
  readonly rows: number;
  readonly input: number;
  readonly output: number;
}

export class Parts {
  readonly #parts = new Map<number, Part>();

  open(id: number, model: OnnxModel, io: PartIo): void {
    this.#parts.set(id, { session: new Session(model), io });
  }

  run(arena: Float32Array, { id, rows, input, output }: PartJob): void {
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
