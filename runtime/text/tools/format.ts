// A way in which models write calls of tools, in chat templates and in answers. Types only; index.ts has the list.

/** A function that a client offers. */
export interface Tool {
  readonly name: string;
  readonly description?: string;
  /** A JSON Schema of its arguments, an object. */
  readonly parameters?: object;
}

/** A call as an answer makes it, or as a client gives it back. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON of an object. */
  readonly arguments: string;
}

/** What is new of the calls of an answer; a name comes once, before the arguments. */
export interface CallDelta {
  readonly index: number;
  readonly name?: string;
  readonly arguments?: string;
}

/** Text that is for the user, and calls. */
export interface CallsPiece {
  readonly text: string;
  readonly calls: readonly CallDelta[];
}

/** Reads an answer as it comes, one per answer. What is no whole call is text. */
export interface CallReader {
  push(text: string): CallsPiece;
  end(): CallsPiece;
}

/** The texts around calls, by which an answer is held to them. */
export interface CallTexts {
  /** Before the first call and after the last one. */
  readonly begin: string;
  readonly end: string;
  /** Between two calls. */
  readonly between: string;
  /** A call is `before` a name, its arguments as JSON, `after`. */
  before(name: string): string;
  readonly after: string;
  /** How calls begin, so that free text before them may be told from them. */
  readonly trigger: string;
  /** One call at most, whatever a client allows. */
  readonly single?: boolean;
}

export interface ToolFormat {
  /** True where a chat template writes calls so. */
  writtenIn(template: string): boolean;
  /** The template takes a call's arguments as a value, or as JSON. */
  readonly arguments: "value" | "json";
  /** The content of a message of calls without text, as the template expects it. */
  readonly noContent: "" | null;
  /** Control tokens that the reader is shown as text; others show in none. */
  readonly marks?: readonly string[];
  /** The id of a call as the template takes it; as it is where unset. */
  callId?(id: string): string;
  /** Unset where the marks of calls are no text: answers cannot be held to calls then. */
  readonly texts?: CallTexts;
  /** Unset where calls come in channels. */
  reader?(): CallReader;
}
