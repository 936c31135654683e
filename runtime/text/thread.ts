// Entry point of the text thread: loads a tokenizer and encodes the main thread's texts one by one.
import { getPriority, setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { AppError } from "../../crds/common.ts";
import type { FromTextThread, TextJob } from "./text-thread.ts";
import { loadTokenizer } from "./tokenizer.ts";

/** Lowers the thread's priority, so that running streams go first on few cores. */
const niceness = 10;

const { dir } = workerData as { readonly dir: string };

function say(message: FromTextThread): void {
  parentPort?.postMessage(message, message.type === "encoded" ? [message.ids.buffer] : []);
}

function failure(caught: unknown): { readonly code: string; readonly message: string } {
  const { code, message } = AppError.from(caught, "tokenising");
  return { code, message };
}

/** Only Linux has per-thread niceness; a failure is harmless. */
function giveWay(): void {
  try {
    if (process.platform === "linux") setPriority(getPriority() + niceness);
  } catch {
    return;
  }
}

giveWay();
try {
  const tokenizer = await loadTokenizer(dir);
  parentPort?.on("message", (job: TextJob) => {
    try {
      const ids = "messages" in job ? tokenizer.encodeChat(job.messages, job.tools, job.variables) : tokenizer.encode(job.text);
      say({ type: "encoded", ids: Uint32Array.from(ids) });
    } catch (caught) {
      say({ type: "failed", error: failure(caught) });
    }
  });
  say({ type: "ready" });
} catch (caught) {
  say({ type: "refused", error: failure(caught) });
}
