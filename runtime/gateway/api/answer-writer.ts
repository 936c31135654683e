// The shape in which the answers of a request go to its client, whole or as events. Types only; each API has its own writer.

import type { Problem } from "../problem.ts";
import type { Piece, Usage } from "./answer.ts";
import type { ChoicePiece } from "./choices.ts";

export interface AnswerWriter {
  /** `answers`: the pieces of each. */
  whole(answers: readonly (readonly Piece[])[], usage: Usage): object;
  /** Server-sent events of a piece; the first one of each answer is a marker. */
  events(piece: ChoicePiece): readonly string[];
  /** Events after the last piece. */
  last(usage: Usage): readonly string[];
  /** The event of a stream that ends before its time. */
  failed(problem: Problem): readonly string[];
}

export interface WriterStart {
  readonly model: string;
  /** Unix seconds. */
  readonly created: number;
}
