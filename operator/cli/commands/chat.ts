// `enodia chat`: one question or a conversation with a deployment over its OpenAI API (chat-client.ts).
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { text as readAll } from "node:stream/consumers";
import { AppError } from "../../../crds/common.ts";
import { type ChatOptions, type ChatRequest, type ChatTurn, firstModel, streamChat } from "../chat-client.ts";
import { argument, declare, text, type Values, value } from "../command.ts";
import { number } from "../options.ts";

const options = {
  url: value("--url <url>", "gateway, as after kubectl port-forward -n NAMESPACE service/NAME 8000:8000", urlOf, "http://127.0.0.1:8000"),
  model: text("--model <name>", "default: the first model that the gateway lists"),
  system: text("--system <text>", "system message"),
  temperature: value("--temperature <number>", "0 = always the likeliest token (default: 1)", number),
  topP: value("--top-p <number>", "only the likeliest tokens that together have this probability (default: 1)", number),
  seed: value("--seed <number>", "same seed, same text (default: another one each time)", number),
  maxTokens: value("--max-tokens <number>", "length of the answer at most (default: what the context leaves)", number),
  effort: text("--effort <word>", "how much a model thinks that has levels of it: none, minimal, low, medium, high or xhigh"),
  apiKey: text("--api-key <key>", "for gateways that require one"),
  apiKeyFile: text("--api-key-file <file>", "the key is its first line"),
};

export const command = declare({
  about:
    'Asks a gateway, or any server of the same API, and prints the answer as it comes. Without a prompt: a conversation (/reset forgets it, /exit or Ctrl-D leaves), or one answer to what is piped in. Ctrl-C ends an answer. A refused connection is tried again for 5 s, so that it may follow "kubectl port-forward ... &" at once. What a model thinks before it answers goes to stderr.',
  arguments: [argument("[prompt...]", "one question")],
  options,
  action: (request, prompt) => chat(request, prompt.join(" ")),
});

/** The shells' exit code for Ctrl-C. */
const interrupted = 130;

export interface Terminal {
  readonly input: Readable & { readonly isTTY?: boolean };
  readonly output: Writable & { readonly isTTY?: boolean };
  readonly errors: Writable;
  /** Calls back on Ctrl-C during an answer; returns the function that stops it. */
  onInterrupt(callback: () => void): () => void;
}

const processTerminal: Terminal = {
  input: process.stdin,
  output: process.stdout,
  errors: process.stderr,
  onInterrupt: (callback) => {
    process.on("SIGINT", callback);
    return () => process.off("SIGINT", callback);
  },
};

interface Session {
  readonly options: ChatOptions;
  readonly settings: Omit<ChatRequest, "messages">;
  readonly system: readonly ChatTurn[];
}

export async function chat(
  request: Partial<Values<typeof options>> & { readonly url: string },
  question: string,
  terminal: Terminal = processTerminal,
): Promise<number> {
  const onRefused = (message: string) => terminal.errors.write(`enodia: ${message}\n`);
  const at: ChatOptions = { url: request.url, apiKey: await apiKeyOf(request), onRefused };
  const model = request.model ?? (await firstModel(at, new AbortController().signal));
  const { temperature, topP: top_p, seed, maxTokens: max_tokens, effort: reasoning_effort } = request;
  const system: ChatTurn[] = request.system === undefined ? [] : [{ role: "system", content: request.system }];
  const session: Session = { options: at, settings: { model, temperature, top_p, seed, max_tokens, reasoning_effort }, system };
  const prompt = question || (terminal.input.isTTY ? "" : await readAll(terminal.input));
  if (prompt.trim() !== "") return once(session, prompt, terminal);
  if (!terminal.input.isTTY) throw new AppError("Nothing was piped in: give a prompt as argument or on stdin.", { code: "NoPrompt" });
  return converse(session, terminal);
}

async function once(session: Session, prompt: string, terminal: Terminal): Promise<number> {
  const answer = await say(session, [...session.system, { role: "user", content: prompt }], terminal);
  if (answer.cancelled) return interrupted;
  return 0;
}

/** A question that fails is shown and dropped. */
export async function converse(session: Session, terminal: Terminal): Promise<number> {
  const lines = createInterface({ input: terminal.input, output: terminal.output, prompt: "> ", terminal: terminal.output.isTTY === true });
  lines.on("SIGINT", () => lines.close()); // in a terminal, readline gets Ctrl-C, not the process
  let history: readonly ChatTurn[] = session.system;
  terminal.output.write(`${session.settings.model} at ${session.options.url}\n`);
  lines.prompt();
  for await (const line of lines) {
    const content = line.trim();
    if (content === "/exit") break;
    if (content === "/reset") history = session.system;
    else if (content !== "") history = await answerTo(session, history, content, { terminal, lines });
    lines.prompt();
  }
  lines.close();
  terminal.output.write("\n");
  return 0;
}

async function answerTo(
  session: Session,
  history: readonly ChatTurn[],
  content: string,
  { terminal, lines }: { readonly terminal: Terminal; readonly lines: ReturnType<typeof createInterface> },
): Promise<readonly ChatTurn[]> {
  const messages: readonly ChatTurn[] = [...history, { role: "user", content }];
  const cancelling = new AbortController();
  const cancel = () => cancelling.abort();
  lines.removeAllListeners("SIGINT");
  lines.on("SIGINT", cancel);
  try {
    const { text } = await say(session, messages, terminal, cancelling);
    return text === "" ? history : [...messages, { role: "assistant", content: text }];
  } catch (caught) {
    terminal.errors.write(`enodia: ${AppError.from(caught).message}\n`);
    return history;
  } finally {
    lines.removeAllListeners("SIGINT");
    lines.on("SIGINT", () => lines.close());
  }
}

/** Ctrl-C stops the answer and keeps its beginning. */
async function say(
  session: Session,
  messages: readonly ChatTurn[],
  terminal: Terminal,
  cancelling = new AbortController(),
): Promise<{ text: string; cancelled: boolean }> {
  const stop = terminal.onInterrupt(() => cancelling.abort());
  let text = "";
  let thinks = false;
  try {
    for await (const event of streamChat(session.options, { ...session.settings, messages }, cancelling.signal)) {
      if (event.type === "thought") {
        thinks = true;
        terminal.errors.write(event.text);
      } else if (event.type === "text") {
        if (thinks) terminal.errors.write("\n\n");
        thinks = false;
        text += event.text;
        terminal.output.write(event.text);
      } else if (event.reason === "length") terminal.errors.write("\n[cut off: the limit of tokens is reached]");
    }
    terminal.output.write("\n");
    return { text, cancelled: false };
  } catch (caught) {
    if (text !== "") terminal.output.write("\n");
    if (!cancelling.signal.aborted) throw caught;
    terminal.errors.write("[cancelled]\n");
    return { text, cancelled: true };
  } finally {
    stop();
  }
}

function urlOf(url: string): string {
  if (URL.canParse(url) && /^https?:/.test(url)) return url;
  throw new AppError("it must begin with http:// or https://", { code: "Usage" });
}

async function apiKeyOf({ apiKey, apiKeyFile }: Partial<Values<typeof options>>): Promise<string | undefined> {
  if (apiKeyFile === undefined) return apiKey;
  try {
    return (await readFile(apiKeyFile, "utf8")).split("\n")[0]?.trim();
  } catch (cause) {
    throw new AppError(`--api-key-file ${apiKeyFile}: cannot be read`, { code: "Usage", cause });
  }
}
