// How an API writes answers to its client, whole or as events.

import type { Problem } from "../problem.ts";
import type { Piece, Usage } from "./answer.ts";
import type { ChoicePiece } from "./choices.ts";

export interface AnswerWriter {
  /** `answers`: the pieces of each. */
  whole(answers: readonly (readonly Piece[])[], usage: Usage): object;
  /** Each answer's first piece is a marker. */
  events(piece: ChoicePiece): readonly string[];
  /** Events after the last piece. */
  last(usage: Usage): readonly string[];
  /** The event of a stream that fails. */
  failed(problem: Problem): readonly string[];
}

export interface WriterStart {
  readonly model: string;
  /** Unix seconds. */
  readonly created: number;
}
