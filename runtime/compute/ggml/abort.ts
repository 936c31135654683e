// The last log line of a process that ggml aborts.

/** The line has the format of runtime/observe/log.ts. */
export function abortLine(message: string, now: Date): string {
  const text = message.trim().replaceAll(/\s+/g, " ");
  return `${JSON.stringify({ level: "fatal", time: now.toISOString(), name: "ggml", code: "BackendAborted", message: `ggml ends the process: ${text}` })}\n`;
}
