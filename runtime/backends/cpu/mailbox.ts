// The shared words through which the caller's thread hands jobs to a helper thread without messages. Shared by both ends.
// Layout of the control array (Int32): header words, then four words a job.
export const word = {
  /** Grows by one per batch; the helper sleeps on it. -1: leave. */
  posted: 0,
  /** Last batch finished; the caller sleeps on it. */
  finished: 1,
  jobs: 2,
  /** 1: the last batch failed, the reason is on the port. */
  failed: 3,
  /** Polls before sleeping, set by the caller. */
  spins: 4,
} as const;
export const headerWords = 16;
export const jobWords = 4; // part id, rows, offset of the input and of the output in floats
export const jobsMax = 4096; // parts of one batch on one thread

export function controlBuffer(): SharedArrayBuffer {
  return new SharedArrayBuffer((headerWords + jobWords * jobsMax) * Int32Array.BYTES_PER_ELEMENT);
}

/** Waits until control[index] is no longer `value`: polls, then sleeps. False after `timeoutMs`. */
export function waitWhile(control: Int32Array, index: number, value: number, timeoutMs: number): boolean {
  for (let spins = Atomics.load(control, word.spins); spins > 0; spins--) if (Atomics.load(control, index) !== value) return true;
  while (Atomics.load(control, index) === value) if (Atomics.wait(control, index, value, timeoutMs) === "timed-out") return false;
  return true;
}

export type ToHelper =
  | {
      readonly type: "open";
      readonly id: number;
      readonly model: Uint8Array;
      readonly external: Uint8Array | undefined;
      readonly io: PartIo;
    }
  | { readonly type: "close"; readonly id: number }
  | { readonly type: "arena"; readonly arena: SharedArrayBuffer };

export type FromHelper =
  | { readonly type: "opened" | "closed"; readonly id: number }
  | { readonly type: "refused"; readonly id: number; readonly message: string }
  | { readonly type: "failed"; readonly message: string };

/** Names and widths of a part's one input and one output. */
export interface PartIo {
  readonly input: string;
  readonly output: string;
  readonly widthIn: number;
  readonly widthOut: number;
}
