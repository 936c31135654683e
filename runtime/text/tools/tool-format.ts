// The interface of a tool call format in chat templates and answers.

export interface Tool {
  readonly name: string;
  readonly description?: string;
  /** JSON Schema of an object. */
  readonly parameters?: object;
}

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON of an object. */
  readonly arguments: string;
}

/** The name comes once, before the arguments. */
export interface CallDelta {
  readonly index: number;
  readonly name?: string;
  readonly arguments?: string;
}

export interface CallsPiece {
  readonly text: string;
  readonly calls: readonly CallDelta[];
}

/** One reader serves one answer; an incomplete call is text. */
export interface CallReader {
  push(text: string): CallsPiece;
  end(): CallsPiece;
}

/** Constrained decoding uses these. */
export interface CallTexts {
  readonly begin: string;
  readonly end: string;
  readonly between: string;
  /** A call is `before(name)`, arguments, `after`. */
  before(name: string): string;
  readonly after: string;
  /** Begins a call after free text. */
  readonly trigger: string;
  /** Allows one call per answer. */
  readonly single?: boolean;
}

export interface ToolFormat {
  writtenIn(template: string): boolean;
  readonly arguments: "value" | "json";
  /** The content of a message that has only calls. */
  readonly noContent: "" | null;
  /** Control tokens that the reader sees. */
  readonly marks?: readonly string[];
  /** Converts to an accepted id. */
  callId?(id: string): string;
  /** Unset where marks are no text. */
  readonly texts?: CallTexts;
  /** Unset where calls come in channels. */
  reader?(): CallReader;
}
