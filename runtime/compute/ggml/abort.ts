// The last line of the log of a process that ggml ends: an assertion of its own cannot be caught, only reported.

/** A line as runtime/observe/log.ts writes them. */
export function abortLine(message: string, now: Date): string {
  const text = message.trim().replaceAll(/\s+/g, " ");
  return `${JSON.stringify({ level: "fatal", time: now.toISOString(), name: "ggml", code: "BackendAborted", message: `ggml ends the process: ${text}` })}\n`;
}
